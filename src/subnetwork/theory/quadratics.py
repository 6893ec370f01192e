"""Heterogeneous quadratics f = mean_i f_i as dense matrices: the model of the paper (eq. 9)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from subnetwork.shapes import Floats, Matrices, Matrix, PerWorker, Units, Vector
from subnetwork.theory.problem import Problem


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

    @property
    def hessian_variance(self) -> float:
        """How different the f_i are: lambda_max(mean_i L_i^2 - L_bar^2), 0 for equal L_i.

        The smallest V with mean_i |grad f_i(x) - grad f_i(y)|^2 <= |grad f(x) - grad f(y)|^2 +
        V |x - y|^2 for all x, y (Szlendak et al. 2022), a dial of heterogeneity.
        """
        square = (self.L @ self.L).mean(axis=0) - self.L_bar @ self.L_bar
        return max(float(np.linalg.eigvalsh((square + square.T) / 2)[-1]), 0.0)

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

    def worker_value(self, worker: int, x: Vector) -> float:
        """f_i(x)."""
        return float(x @ (self.L[worker] @ x / 2 - self.b[worker]))

    def worker_block_gradient(self, worker: int, units: Units, x_units: Vector) -> Vector:
        """[grad f_i(P_S x)]_S from the entries of x on S = `units`: q x q work."""
        block = self.L[worker][np.ix_(units, units)]
        return np.asarray(block @ x_units - self.b[worker][units])

    def worker_product(self, worker: int, v: Vector) -> Vector:
        """L_i v."""
        return np.asarray(self.L[worker] @ v)

    def worker_smoothness(self, worker: int) -> float:
        """The largest eigenvalue of L_i."""
        return float(np.linalg.eigvalsh(self.L[worker])[-1])

    def worker_convexity(self, worker: int) -> float:
        """The smallest eigenvalue of L_i; f_i is convex if it is not negative."""
        return float(np.linalg.eigvalsh(self.L[worker])[0])

    def minimised_at_zero(self) -> "Quadratics":
        """The same L_i with b_i = 0: all f_i are minimal at zero (the slides' "interpolation")."""
        return Quadratics(self.L, np.zeros_like(self.b))


def require_quadratics(problem: Problem, what: str) -> Quadratics:
    """The problem as it is; raises ValueError, saying `what` needs it, unless it is dense."""
    if not isinstance(problem, Quadratics):
        raise ValueError(
            f"{what} wants dense quadratics, not {type(problem).__name__}. Use its to_quadratics() "
            "where it has one, or `rounds`, which takes any problem."
        )
    return problem


def require_definite(matrix: Matrix, name: str) -> None:
    """Raise ValueError unless the symmetric `matrix` is numerically positive definite."""
    lowest, highest = np.linalg.eigvalsh(matrix)[[0, -1]]
    if lowest <= len(matrix) * np.finfo(np.float64).eps * max(highest, 0.0):
        raise ValueError(not_definite(name, float(lowest), float(highest)))


def not_definite(name: str, lowest: float, highest: float) -> str:
    """The message for a matrix with such extreme eigenvalues where a definite one is wanted."""
    return (
        f"{name} has the eigenvalue {lowest:.3g} beside the largest {highest:.3g}, but has to "
        f"be positive definite. Add a ridge such as {max(abs(lowest), 1e-3 * abs(highest)):.1g}"
        ", or restate the problem on the range space of the data."
    )


def _common_shape(L: Floats, b: Floats) -> tuple[int, int]:
    if b.ndim != 2 or L.shape != (*b.shape, b.shape[-1]) or b.size == 0:
        raise ValueError(
            f"L of shape {L.shape} and b of shape {b.shape} do not match: eq. (9) wants a d x d "
            "matrix and a d-vector for each of n workers, shapes (n, d, d) and (n, d)."
        )
    n, d = b.shape
    return n, d
