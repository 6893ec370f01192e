"""Generalised linear models: convex, not quadratic, l2-regularised; logistic regression first."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from subnetwork.shapes import Floats, Matrices, Matrix, PerWorker, Units, Vector
from subnetwork.splits import Parts
from subnetwork.theory.factored import require_ridge
from subnetwork.theory.linear import DENSE_DIM, solve_definite
from subnetwork.theory.losses import LOGISTIC, Loss
from subnetwork.theory.table import (
    Columns,
    Table,
    by_columns,
    column_squares,
    gram,
    largest_of_gram,
    require_parts,
    stacked,
    weighted,
)

ACCURACY = 1e-10  # |grad f(x*)| beside |grad f(0)|, or beside 1
_MOST_STEPS = 200


@dataclass(frozen=True, eq=False)
class GeneralisedLinear:
    """f_i(x) = (1/m_i) sum_r phi(z_r'x) + ridge |x|^2 / 2 over the rows z_r of worker i.

    Attributes:
        rows: z_r = y_r a_r of each worker, by columns, dense or sparse; shape (m_i, d).
        loss: phi, convex.
        ridge: not negative.

    Raises:
        ValueError: no workers, a worker without rows, different d, or a negative ridge.
    """

    rows: tuple[Columns, ...]
    loss: Loss
    ridge: float

    def __post_init__(self) -> None:
        require_ridge(self.ridge)
        shapes = [Z.shape for Z in self.rows]
        if not shapes or any(m < 1 or d != shapes[0][1] for m, d in shapes):
            raise ValueError(
                f"Rows of shapes {shapes[:3]}.. do not match: each worker wants (m_i, d) with a "
                "row or more and the same d."
            )

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return int(self.rows[0].shape[1])

    def value(self, x: Vector) -> float:
        """f(x)."""
        losses = self.loss.value(np.asarray(self._all @ x))
        return float(self._weights @ losses + self.ridge / 2 * (x @ x))

    def gradient(self, x: Vector) -> Vector:
        """Gradient of f."""
        slopes = self._weights * self.loss.slope(np.asarray(self._all @ x))
        return np.asarray(self._all.T @ slopes) + self.ridge * x

    def gap(self, x: Vector) -> float:
        """f(x) - f*, as a difference: not to be trusted below 1e-15 |f*|."""
        return self.value(x) - self.minimum

    def worker_value(self, worker: int, x: Vector) -> float:
        """f_i(x)."""
        return float(self.worker_values(worker, x[None])[0])

    def worker_values(self, worker: int, points: PerWorker) -> Floats:
        """f_i at many points, one a row."""
        losses = self.loss.value(np.asarray(self.rows[worker] @ points.T))
        squares = np.einsum("hj,hj->h", points, points)
        return np.asarray(losses.mean(axis=0) + self.ridge / 2 * squares)

    def worker_gradient(self, worker: int, x: Vector) -> Vector:
        """Gradient of f_i."""
        return np.asarray(self.worker_gradients(worker, x[None])[0])

    def worker_gradients(self, worker: int, points: PerWorker) -> PerWorker:
        """Gradients of f_i at many points, one a row."""
        Z = self.rows[worker]
        slopes = self.loss.slope(np.asarray(Z @ points.T)) / Z.shape[0]
        return np.asarray(np.asarray(Z.T @ slopes).T + self.ridge * points)

    def worker_block_gradient(self, worker: int, units: Units, x_units: Vector) -> Vector:
        """[grad f_i(P_S x)]_S from the entries of x on S = `units`: m_i x q work."""
        Z = self.rows[worker][:, units]
        slopes = self.loss.slope(np.asarray(Z @ x_units)) / Z.shape[0]
        return np.asarray(np.asarray(Z.T @ slopes) + self.ridge * x_units)

    @cached_property
    def minimiser(self) -> Vector:
        """x* by Newton's method, certified: |grad f(x*)| <= 1e-10 max(|grad f(0)|, 1).

        With a ridge this is |x* - argmin f| <= |grad f(x*)| / ridge. The next Newton step has to be
        small as well, since on separable data without ridge gradients vanish at infinity.

        Raises:
            ValueError: Newton's method does not get there, as without a ridge on separable data.
        """
        x = np.zeros(self.dim)
        small = ACCURACY * max(float(np.linalg.norm(self.gradient(x))), 1.0)
        for _ in range(_MOST_STEPS):
            g = self.gradient(x)
            step = self._newton(x, g)
            left, far = float(np.linalg.norm(g)), float(np.linalg.norm(step))
            if left <= small and far <= 1e-6 * (1 + float(np.linalg.norm(x))):
                return self._polished(x, g)
            x = self._descend(x, g, step)
        raise ValueError(
            f"Newton's method still takes steps of length {far:.3g} after {_MOST_STEPS} steps, at "
            f"|grad f| = {left:.3g} with ridge={self.ridge:g}: f may have no minimiser, as on "
            f"separable data. Use a ridge such as {1e-3 * self.worker_smoothness(0):.1g}."
        )

    @cached_property
    def minimum(self) -> float:
        """f* = f(x*)."""
        return self.value(self.minimiser)

    @cached_property
    def diagonals(self) -> PerWorker:
        """Diag(L_i) of L_i = sup phi'' A_i'A_i / m_i + ridge I, one diagonal a row."""
        squares = np.stack([column_squares(Z) / Z.shape[0] for Z in self.rows])
        return np.asarray(self.loss.largest * squares + self.ridge)

    def worker_product(self, worker: int, v: Vector) -> Vector:
        """L_i v for the matrix L_i of Assumption 1: sup phi'' A_i'A_i / m_i + ridge I."""
        Z = self.rows[worker]
        data = np.asarray(Z.T @ (Z @ v)) / Z.shape[0]
        return np.asarray(self.loss.largest * data + self.ridge * v)

    def worker_smoothness(self, worker: int) -> float:
        """The largest eigenvalue of L_i."""
        Z = self.rows[worker]
        return float(self.loss.largest * largest_of_gram(Z) / Z.shape[0] + self.ridge)

    def worker_convexity(self, worker: int) -> float:
        """The ridge: f_i is that strongly convex at least."""
        del worker
        return self.ridge

    def smoothness_matrices(self) -> Matrices:
        """The L_i of Assumption 1 as dense matrices, n d^2 numbers."""
        c, ridge = self.loss.largest, self.ridge * np.eye(self.dim)
        return np.stack([c * gram(Z) / Z.shape[0] + ridge for Z in self.rows])

    def hessian(self, x: Vector) -> Matrix:
        """Hessian of f, dense."""
        curvature = self._weights * self.loss.curvature(np.asarray(self._all @ x))
        return gram(self._all, curvature) + self.ridge * np.eye(self.dim)

    @cached_property
    def _all(self) -> Columns:
        return stacked(self.rows)

    @cached_property
    def _weights(self) -> Floats:
        """1 / (n m_i), one a row of `_all`."""
        sizes = np.array([Z.shape[0] for Z in self.rows])
        return np.asarray(np.repeat(1 / (self.n_workers * sizes), sizes))

    def _descend(self, x: Vector, g: Vector, step: Vector) -> Vector:
        """X + step, halved until f decreases by what its slope promises (Armijo)."""
        f, slope = self.value(x), float(g @ step)
        for halvings in range(60):
            trial = x + 0.5**halvings * step
            if self.value(trial) <= f + 1e-4 * 0.5**halvings * slope:
                return trial
            if halvings == 0 and np.linalg.norm(self.gradient(trial)) < np.linalg.norm(g) / 2:
                return trial  # so close to x* that f itself is rounding
        return x

    def _polished(self, x: Vector, g: Vector) -> Vector:
        """Newton steps for as long as they halve the gradient at least: the last digits."""
        while True:
            trial = x + self._newton(x, g)
            g_trial = self.gradient(trial)
            if not np.linalg.norm(g_trial) < np.linalg.norm(g) / 2:
                return x
            x, g = trial, g_trial

    def _newton(self, x: Vector, g: Vector) -> Vector:
        """-H^-1 grad f(x); steepest descent with 1 / max_i L_i where H is singular."""
        if self.dim > DENSE_DIM:
            curvature = self._weights * self.loss.curvature(np.asarray(self._all @ x))
            curved = weighted(self._all, curvature)
            diagonal = self.ridge + np.asarray(_weighted_squares(self._all, curvature))
            return -solve_definite(
                lambda v: np.asarray(self._all.T @ (curved @ v)) + self.ridge * v,
                g,
                diagonal,
                "the Hessian of f",
            )
        try:
            return -np.asarray(cho_solve(cho_factor(self.hessian(x)), g))
        except LinAlgError:
            return -g / max(self.worker_smoothness(i) for i in range(self.n_workers))


def generalised_linear(
    table: Table, parts: Parts, *, loss: Loss = LOGISTIC, ridge: float = 0.0
) -> GeneralisedLinear:
    """A loss of the margin on a table that is split over workers; logistic regression by default.

    Raises:
        ValueError: targets other than -1 and +1, a worker without rows, rows that the table does
            not have, or a negative ridge.
    """
    other = np.setdiff1d(table.targets, [-1.0, 1.0])
    if len(other):
        raise ValueError(
            f"A loss of the margin wants the targets -1 and +1, but the table has {other[0]:g}. "
            "Map two classes to them, or use `factored`, least squares on any targets."
        )
    require_parts(parts, table.n_rows)
    signed = by_columns(table.features)
    signed_rows = weighted(signed, table.targets)
    by_row = signed_rows if isinstance(signed_rows, np.ndarray) else signed_rows.tocsr()
    return GeneralisedLinear(tuple(by_columns(by_row[rows]) for rows in parts), loss, ridge)


def logistic_gaussian(
    n_workers: int = 4,
    dim: int = 16,
    *,
    n_rows: int = 200,
    correlation: float = 0.0,
    seed: int = 0,
    ridge: float = 0.05,
) -> GeneralisedLinear:
    """Logistic regression on Gaussian features, each worker with a plane of its own.

    a = g + correlation * s 1 with g and s standard Gaussian; y = sign(a'w_i + 0.3 noise) with
    w_i = w + u_i / 2, w and u_i standard Gaussian.

    Args:
        n_workers: n.
        dim: d.
        n_rows: m_i, of each worker.
        correlation: 0 makes features independent; 0.7 gives any two the correlation 0.33.
        seed: of everything.
        ridge: the l2 regulariser.
    """
    rng = np.random.default_rng(seed)
    shape = (n_workers, n_rows, dim)
    A = rng.standard_normal(shape) + correlation * rng.standard_normal((*shape[:2], 1))
    w = rng.standard_normal((n_workers, dim)) / 2 + rng.standard_normal(dim)
    noise = 0.3 * rng.standard_normal(shape[:2])
    y = np.where(np.einsum("imd,id->im", A, w) + noise >= 0, 1.0, -1.0)
    return GeneralisedLinear(
        tuple(np.asfortranarray(Z) for Z in A * y[:, :, None]), LOGISTIC, ridge
    )


def _weighted_squares(A: Columns, weights: Floats) -> Floats:
    return column_squares(weighted(A, np.sqrt(weights)))
