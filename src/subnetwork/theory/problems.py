"""Problems of the lab: heterogeneous quadratics f = mean_i f_i, made up or real data (eq. 9)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from subnetwork.shapes import Floats, Matrices, Matrix, PerWorker, Vector


@dataclass(frozen=True, eq=False)
class Quadratics:
    """f_i(x) = x' L_i x / 2 - x' b_i on n workers, f = mean_i f_i (eqs. 1 and 9).

    Attributes:
        L: the symmetric matrices L_i; checked, as an asymmetric one is a slip and no problem.
        b: the vectors b_i.

    Raises:
        ValueError: shapes do not match, an entry is not finite, or some L_i is not symmetric.

    >>> line = Quadratics(np.array([[[2.0]], [[6.0]]]), np.array([[3.0], [5.0]]))
    >>> line.minimiser, line.minimum
    (array([1.]), -2.0)
    """

    L: Matrices
    b: PerWorker

    def __post_init__(self) -> None:
        n, d = _common_shape(self.L, self.b)
        for name, array in (("L", self.L), ("b", self.b)):
            if not np.isfinite(array).all():
                worker = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise ValueError(
                    f"{name} of worker {worker} holds an entry that is not finite, so f has no "
                    "value. Drop or fill the rows of the data that hold NaN or infinity."
                )
        gap = np.abs(self.L - self.L.transpose(0, 2, 1)).max(axis=(1, 2), initial=0.0)
        worst = int(gap.argmax())
        if gap[worst] > 1e-10 * np.abs(self.L).max():
            raise ValueError(
                f"L of worker {worst} differs from its transpose by {gap[worst]:.3g}, but eq. (9) "
                f"wants {n} symmetric {d} x {d} matrices. Use (L + L')/2, which has the same f."
            )

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return int(self.L.shape[0])

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return int(self.L.shape[1])

    @cached_property
    def L_bar(self) -> Matrix:
        """mean_i L_i, the matrix of f."""
        return np.asarray(self.L.mean(axis=0))

    @cached_property
    def b_bar(self) -> Vector:
        """mean_i b_i, the vector of f."""
        return np.asarray(self.b.mean(axis=0))

    @property
    def diagonals(self) -> PerWorker:
        """D_i = Diag(L_i), one diagonal a row."""
        return np.array(np.einsum("ijj->ij", self.L))

    @cached_property
    def minimiser(self) -> Vector:
        """x* = L_bar^-1 b_bar; raises ValueError where L_bar is not positive definite."""
        require_definite(self.L_bar, "L_bar")
        return np.asarray(cho_solve(cho_factor(self.L_bar), self.b_bar))

    @property
    def minimum(self) -> float:
        """f* = f(x*) = -x*' b_bar / 2."""
        return float(-self.minimiser @ self.b_bar / 2)

    def value(self, x: Vector) -> float:
        """f(x)."""
        return float(x @ (self.L_bar @ x / 2 - self.b_bar))

    def gap(self, x: Vector) -> float:
        """f(x) - f* = |x - x*|^2_L / 2, without the cancellation of the difference."""
        error = x - self.minimiser
        return float(error @ self.L_bar @ error / 2)

    def gradient(self, x: Vector) -> Vector:
        """Gradient of f: L_bar x - b_bar."""
        return np.asarray(self.L_bar @ x - self.b_bar)

    def worker_gradient(self, worker: int, x: Vector) -> Vector:
        """Gradient of f_i: L_i x - b_i."""
        return np.asarray(self.L[worker] @ x - self.b[worker])

    def minimised_at_zero(self) -> "Quadratics":
        """The same L_i with b_i = 0: all f_i are minimal at zero (the slides' "interpolation")."""
        return Quadratics(self.L, np.zeros_like(self.b))


def require_definite(matrix: Matrix, name: str) -> None:
    """Raise ValueError unless the symmetric `matrix` is numerically positive definite."""
    lowest, highest = np.linalg.eigvalsh(matrix)[[0, -1]]
    if lowest <= len(matrix) * np.finfo(np.float64).eps * max(highest, 0.0):
        raise ValueError(
            f"{name} has the eigenvalue {lowest:.3g} beside the largest {highest:.3g}, but has to "
            f"be positive definite. Add a ridge such as {max(abs(lowest), 1e-3 * abs(highest)):.1g}"
            ", or restate the problem on the range space of the data."
        )


def least_squares(
    features: Floats, targets: Floats, *, n_workers: int, ridge: float = 0.0
) -> Quadratics:
    """f_i(x) = |A_i x - y_i|^2 / 2m_i + ridge |x|^2 / 2 on consecutive rows of one table.

    Args:
        features: A, one row a sample; shape (m, d).
        targets: y, shape (m,).
        n_workers: n. Rows go to workers in their order, m/n each, the first m mod n one more.
        ridge: makes L_bar positive definite where the columns of A are dependent.

    Returns:
        L_i = A_i' A_i / m_i + ridge I and b_i = A_i' y_i / m_i. f is the mean over workers, as in
        eq. (1): with unequal m_i not exactly the mean over rows.

    Raises:
        ValueError: tables that do not match, fewer rows than workers, or a negative ridge.
    """
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        raise ValueError(
            f"features of shape {features.shape} and targets of shape {targets.shape} do not "
            "match: least_squares wants (m, d) and (m,)."
        )
    m, d = features.shape
    if not 1 <= n_workers <= m:
        raise ValueError(
            f"{m} rows cannot be dealt over n_workers={n_workers}: every f_i needs a row. Use "
            f"1 to {m} workers."
        )
    if ridge < 0:
        raise ValueError(f"ridge={ridge} would take convexity away. Use ridge=0 or a positive one.")
    parts = np.array_split(np.arange(m), n_workers)
    A, y = [features[rows] for rows in parts], [targets[rows] for rows in parts]
    L = np.stack([A_i.T @ A_i / len(A_i) + ridge * np.eye(d) for A_i in A])
    b = np.stack([A_i.T @ y_i / len(A_i) for A_i, y_i in zip(A, y, strict=True)])
    return Quadratics(L, b)


def breast_cancer(n_workers: int = 30, *, ridge: float = 0.1) -> Quadratics:
    """Least squares on scikit-learn's breast_cancer: 569 rows, d = 30, targets -1 and 1.

    Columns are standardised over all rows; the default n = d is what Perm-1 asks for.
    """
    from sklearn.datasets import load_breast_cancer  # 1 s of CPU to import

    table, labels = load_breast_cancer(return_X_y=True)
    features = (table - table.mean(axis=0)) / table.std(axis=0)
    return least_squares(features, 2.0 * labels - 1.0, n_workers=n_workers, ridge=ridge)


def trig(n_workers: int = 5, dim: int = 5) -> Quadratics:
    """A small problem without randomness, the one the published figures of the lab refer to.

    With indices from 1: A_i[r,c] = sin(1.3i + 0.7r + 1.1c + 0.4rc), L_i = A_i' A_i / d + I / 2,
    b_i[c] = cos(0.9i + 1.7c).
    """
    i = np.arange(1.0, n_workers + 1)[:, None, None]
    r, c = np.arange(1.0, dim + 1)[:, None], np.arange(1.0, dim + 1)
    A = np.sin(1.3 * i + 0.7 * r + 1.1 * c + 0.4 * r * c)
    L = A.transpose(0, 2, 1) @ A / dim + np.eye(dim) / 2
    return Quadratics(L, np.cos(0.9 * i[:, 0] + 1.7 * c))


def gaussian(n_workers: int = 4, dim: int = 40, *, seed: int = 0, ridge: float = 0.1) -> Quadratics:
    """L_i = A_i' A_i / d + ridge I, all entries of A_i and b_i independent standard Gaussian."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n_workers, dim, dim))
    L = A.transpose(0, 2, 1) @ A / dim + ridge * np.eye(dim)
    return Quadratics(L, rng.standard_normal((n_workers, dim)))


PROBLEMS: Mapping[str, Callable[..., Quadratics]] = {
    "breast_cancer": breast_cancer,
    "gaussian": gaussian,
    "trig": trig,
}


def problem_named(name: str) -> Callable[..., Quadratics]:
    """The builder of a problem; raises ValueError with the known names for any other name."""
    if name not in PROBLEMS:
        raise ValueError(f"There is no problem {name!r}. Known problems: {', '.join(PROBLEMS)}.")
    return PROBLEMS[name]


def _common_shape(L: Floats, b: Floats) -> tuple[int, int]:
    if b.ndim != 2 or L.shape != (*b.shape, b.shape[-1]) or b.size == 0:
        raise ValueError(
            f"L of shape {L.shape} and b of shape {b.shape} do not match: eq. (9) wants a d x d "
            "matrix and a d-vector for each of n workers, shapes (n, d, d) and (n, d)."
        )
    n, d = b.shape
    return n, d
