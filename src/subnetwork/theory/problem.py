"""What a problem is: f = mean_i f_i on n workers, as the methods and the theorems see it.

Three levels, each for those who need no more: workers evaluate a `Problem`, theorems ask a
`SolvedProblem` for its solution and its Assumption 1, and closed forms want a `QuadraticProblem`.
"""

from typing import Protocol, runtime_checkable

from subnetwork.shapes import PerWorker, Units, Vector


@runtime_checkable
class Problem(Protocol):
    """f = mean_i f_i (eq. 1), to be evaluated."""

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        ...

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        ...

    def value(self, x: Vector) -> float:
        """f(x)."""
        ...

    def gradient(self, x: Vector) -> Vector:
        """Gradient of f."""
        ...

    def worker_value(self, worker: int, x: Vector) -> float:
        """f_i(x)."""
        ...

    def worker_gradient(self, worker: int, x: Vector) -> Vector:
        """Gradient of f_i."""
        ...

    def worker_block_gradient(self, worker: int, units: Units, x_units: Vector) -> Vector:
        """[grad f_i(P_S x)]_S from the entries of x on S = `units`: what a submodel computes."""
        ...


@runtime_checkable
class SolvedProblem(Problem, Protocol):
    """A problem whose solution is known, and each f_i with its matrix L_i of Assumption 1.

    f_i(x + h) <= f_i(x) + <grad f_i(x), h> + h' L_i h / 2; an equality for quadratics.
    """

    @property
    def minimiser(self) -> Vector:
        """x*; raises ValueError where there is none."""
        ...

    @property
    def minimum(self) -> float:
        """f* = f(x*)."""
        ...

    @property
    def diagonals(self) -> PerWorker:
        """Diag(L_i), one diagonal a row."""
        ...

    def gap(self, x: Vector) -> float:
        """f(x) - f*."""
        ...

    def worker_product(self, worker: int, v: Vector) -> Vector:
        """L_i v, without a d x d matrix where the problem has none."""
        ...

    def worker_smoothness(self, worker: int) -> float:
        """The largest eigenvalue of L_i."""
        ...

    def worker_convexity(self, worker: int) -> float:
        """A mu_i so that f_i - mu_i |x|^2 / 2 is convex; negative where f_i is not convex."""
        ...


@runtime_checkable
class QuadraticProblem(Problem, Protocol):
    """f_i(x) = x' L_i x / 2 - x' b_i (eq. 9), however the L_i are stored."""

    @property
    def b(self) -> PerWorker:
        """The vectors b_i."""
        ...

    @property
    def diagonals(self) -> PerWorker:
        """Diag(L_i), one diagonal a row."""
        ...

    def worker_product(self, worker: int, v: Vector) -> Vector:
        """L_i v."""
        ...
