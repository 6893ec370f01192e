"""Least squares by their data: L_i = A_i'A_i/m_i + ridge I is never formed, so d reaches 10,000."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from subnetwork.shapes import Floats, Matrix, PerWorker, Units, Vector
from subnetwork.splits import Parts, consecutive
from subnetwork.theory.linear import DENSE_DIM, solve_definite
from subnetwork.theory.quadratics import Quadratics, require_definite
from subnetwork.theory.table import (
    Columns,
    Table,
    by_columns,
    column_squares,
    gram,
    largest_of_gram,
    require_parts,
)


@dataclass(frozen=True, eq=False)
class Factored:
    """f_i(x) = |A_i x - y_i|^2 / 2m_i + ridge |x|^2 / 2 on n workers, less the value at zero.

    Without the constants |y_i|^2 / 2m_i, so that f_i is eq. (9) with L_i = A_i' A_i / m_i +
    ridge I, b_i = A_i' y_i / m_i, and `to_quadratics` has the same values.

    Attributes:
        A: the rows of each worker, by columns; dense or sparse, shape (m_i, d).
        y: their targets, shape (m_i,).
        ridge: not negative.

    Raises:
        ValueError: no workers, tables that do not match, a worker without rows, or a negative
            ridge.
    """

    A: tuple[Columns, ...]
    y: tuple[Floats, ...]
    ridge: float

    def __post_init__(self) -> None:
        require_ridge(self.ridge)
        shapes = [(A.shape[0], A.shape[1], len(y)) for A, y in zip(self.A, self.y, strict=True)]
        if not shapes or any(m < 1 or m != k or d != shapes[0][1] for m, d, k in shapes):
            raise ValueError(
                f"Rows and targets of shapes {[(s[:2], s[2]) for s in shapes[:3]]}.. do not match: "
                "each worker wants (m_i, d) and (m_i,) with a row or more and the same d."
            )

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return len(self.A)

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return int(self.A[0].shape[1])

    @cached_property
    def b(self) -> PerWorker:
        """The vectors b_i = A_i' y_i / m_i."""
        pairs = zip(self.A, self.y, strict=True)
        return np.stack([np.asarray(A.T @ y) / len(y) for A, y in pairs])

    @cached_property
    def b_bar(self) -> Vector:
        """mean_i b_i, the vector of f."""
        return np.asarray(self.b.mean(axis=0))

    @cached_property
    def diagonals(self) -> PerWorker:
        """D_i = Diag(L_i), one diagonal a row."""
        return np.stack([column_squares(A) / A.shape[0] for A in self.A]) + self.ridge

    @cached_property
    def minimiser(self) -> Vector:
        """x* = L_bar^-1 b_bar: by Cholesky for d <= 2000, by conjugate gradients above.

        Above, |L_bar x* - b_bar| <= 1e-12 |b_bar|.

        Raises:
            ValueError: L_bar is not positive definite.
        """
        if self.dim <= DENSE_DIM:
            L_bar = self.L_bar
            require_definite(L_bar, "L_bar")
            return np.asarray(cho_solve(cho_factor(L_bar), self.b_bar))
        return solve_definite(self._product, self.b_bar, self.diagonals.mean(axis=0), "L_bar")

    @property
    def L_bar(self) -> Matrix:
        """mean_i L_i as one dense d x d matrix."""
        total = sum(gram(A) / A.shape[0] for A in self.A)
        return np.asarray(total / self.n_workers + self.ridge * np.eye(self.dim))

    @property
    def minimum(self) -> float:
        """f* = -x*' b_bar / 2."""
        return float(-self.minimiser @ self.b_bar / 2)

    def value(self, x: Vector) -> float:
        """f(x)."""
        return float(x @ (self._product(x) / 2 - self.b_bar))

    def gap(self, x: Vector) -> float:
        """f(x) - f* = |x - x*|^2_L / 2, without the cancellation of the difference."""
        error = x - self.minimiser
        return float(error @ self._product(error) / 2)

    def gradient(self, x: Vector) -> Vector:
        """Gradient of f: L_bar x - b_bar."""
        return np.asarray(self._product(x) - self.b_bar)

    def worker_value(self, worker: int, x: Vector) -> float:
        """f_i(x)."""
        return float(x @ (self.worker_product(worker, x) / 2 - self.b[worker]))

    def worker_gradient(self, worker: int, x: Vector) -> Vector:
        """Gradient of f_i: L_i x - b_i."""
        return np.asarray(self.worker_product(worker, x) - self.b[worker])

    def worker_block_gradient(self, worker: int, units: Units, x_units: Vector) -> Vector:
        """[grad f_i(P_S x)]_S from the entries of x on S = `units`: m_i x q work."""
        A = self.A[worker][:, units]
        data = np.asarray(A.T @ (A @ x_units)) / A.shape[0]
        return np.asarray(data + self.ridge * x_units - self.b[worker, units])

    def worker_product(self, worker: int, v: Vector) -> Vector:
        """L_i v."""
        A = self.A[worker]
        return np.asarray(np.asarray(A.T @ (A @ v)) / A.shape[0] + self.ridge * v)

    def worker_smoothness(self, worker: int) -> float:
        """The largest eigenvalue of L_i."""
        A = self.A[worker]
        return float(largest_of_gram(A) / A.shape[0] + self.ridge)

    def worker_convexity(self, worker: int) -> float:
        """The ridge, below which no eigenvalue of L_i lies."""
        del worker
        return self.ridge

    def minimised_at_zero(self) -> "Factored":
        """The same L_i with b_i = 0: all f_i are minimal at zero (the slides' "interpolation")."""
        return Factored(self.A, tuple(np.zeros_like(y) for y in self.y), self.ridge)

    def to_quadratics(self) -> Quadratics:
        """The same problem as dense matrices, n d^2 numbers."""
        ridge = self.ridge * np.eye(self.dim)
        L = np.stack([gram(A) / A.shape[0] + ridge for A in self.A])
        return Quadratics((L + L.transpose(0, 2, 1)) / 2, self.b)

    def _product(self, v: Vector) -> Vector:
        """L_bar v."""
        each = [self.worker_product(i, v) for i in range(self.n_workers)]
        return np.asarray(np.mean(each, axis=0))


def require_ridge(ridge: float) -> None:
    """Raise ValueError unless the ridge is a number that is not negative."""
    if not 0 <= ridge < float("inf"):
        raise ValueError(f"ridge={ridge} would take convexity away. Use ridge=0 or a positive one.")


def factored(table: Table, parts: Parts, *, ridge: float = 0.0) -> Factored:
    """Least squares on a table that is split over workers; `parts` is a split of its rows.

    Raises:
        ValueError: a worker without rows, rows that the table does not have, a negative ridge.
    """
    require_parts(parts, table.n_rows)
    A = tuple(by_columns(table.features[rows]) for rows in parts)
    return Factored(A, tuple(table.targets[rows] for rows in parts), ridge)


def least_squares(
    features: Floats,
    targets: Floats,
    *,
    n_workers: int,
    ridge: float = 0.0,
) -> Quadratics:
    """f_i(x) = |A_i x - y_i|^2 / 2m_i + ridge |x|^2 / 2 on consecutive rows of one table.

    Args:
        features: A, one row a sample; shape (m, d).
        targets: y, shape (m,).
        n_workers: n. Rows go to workers in their order, m/n each, the first m mod n one more.
        ridge: makes L_bar positive definite where the columns of A are dependent.

    Returns:
        L_i = A_i' A_i / m_i + ridge I and b_i = A_i' y_i / m_i, dense; `factored` keeps the rows
        instead. f is the mean over workers, as in eq. (1): with unequal m_i not exactly the mean
        over rows.

    Raises:
        ValueError: tables that do not match, fewer rows than workers, or a negative ridge.
    """
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        raise ValueError(
            f"features of shape {features.shape} and targets of shape {targets.shape} do not "
            "match: least_squares wants (m, d) and (m,)."
        )
    table = Table(features, targets, targets)
    parts = consecutive(table.n_rows, n_workers)
    return factored(table, parts, ridge=ridge).to_quadratics()
