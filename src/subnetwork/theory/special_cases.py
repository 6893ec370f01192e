"""The special cases of theorem (22)-(24) on the slides: gradient descent, Perm-1, preconditioning.

Each knows its constant before any moments are taken, and bounds |grad f|^2 in the norm it names.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from subnetwork.shapes import Matrix, Vector
from subnetwork.theory.perm1 import BLB_28, BLB_28_corrected
from subnetwork.theory.problems import Quadratics, require_definite
from subnetwork.theory.sketches import PreconditionedPerm1, require_diagonals
from subnetwork.theory.theorems import require_range, smallest_theta


@dataclass(frozen=True, eq=False)
class SpecialCase:
    """(1/K) sum_k E|grad f(x^k)|^2_N <= 2 c (f(x^0) - E f(x^K)) / (gamma K), 0 < gamma <= 1/theta.

    Attributes:
        equations: its numbers.
        matrix: L_bar, or L-tilde in the variable of (29).
        W: the norm is N = L^-1 W L^-1.
        theta: the smallest of eq. (23).
        c: 1, or lambda_max(L) where the slides bound |grad f|^2 in the plain norm.
        plain: whether the left side is in the plain norm.
        violated: assumptions that fail on the problem.
    """

    equations: str
    matrix: Matrix
    W: Matrix
    theta: float
    c: float
    plain: bool
    violated: tuple[str, ...]

    @property
    def largest_step(self) -> float:
        """1 / theta."""
        return 1 / self.theta

    @property
    def form(self) -> Matrix:
        """Q with measure(grad f(x)) = (x - x*)' Q (x - x*)."""
        return np.asarray(self.matrix @ self.matrix) if self.plain else self.W

    def check(self) -> list[str]:
        """The violated assumptions, one sentence each."""
        return list(self.violated)

    def measure(self, gradient: Vector) -> float:
        """One term of the left side."""
        if self.plain:
            return float(gradient @ gradient)
        direction = cho_solve(cho_factor(self.matrix), gradient)
        return float(direction @ self.W @ direction)

    def bound(self, drop: float, step_size: float, n_rounds: int) -> float:
        """Right side for drop = f(x^0) - E f(x^K), K = n_rounds.

        Raises:
            ValueError: an assumption of `check()` fails, or the step size is outside (0, 1/theta].
        """
        for sentence in self.check():
            raise ValueError(f"Theorem {self.equations} is silent: {sentence}")
        require_range(step_size, self.largest_step, self.equations)
        return 2 * self.c * drop / (step_size * n_rounds)


def gradient_descent(problem: Quadratics) -> SpecialCase:
    """C_i = I, theta = lambda_max(L_bar): (25)-(26), of order 1/K and tight."""
    L = problem.L_bar
    violated = _definite(L, "L_bar")  # (26) itself holds for any b_i, as B x - u = grad f(x)
    return SpecialCase("(25)-(26)", L, L @ L, _largest(L), 1.0, True, violated)


def perm1(problem: Quadratics, *, printed: bool = False) -> SpecialCase:
    """C_i = n e e' (27)-(28): with the covariance of the dealt diagonals, or as printed.

    Raises:
        ValueError: W-bar is not psd, so that (23) has no theta; or n != d.
    """
    _require_square(problem)
    D = problem.n_workers * problem.diagonals.mean(axis=0)
    W = (problem.L_bar * D + D[:, None] * problem.L_bar) / 2
    BLB = BLB_28(problem) if printed else BLB_28_corrected(problem)
    violated = (*_at_zero(problem), *_definite(problem.L_bar, "L_bar"))
    if printed and not np.allclose(problem.diagonals, problem.diagonals[0], rtol=1e-12, atol=0):
        violated += ("the D_i differ between workers, where (28) drops a term: use the corrected.",)
    return SpecialCase("(27)-(28)", problem.L_bar, W, smallest_theta(BLB, W), 1.0, False, violated)


def homogeneous(problem: Quadratics) -> SpecialCase:
    """f_i(D^-1/2 x) for equal L_i, Perm-1 (29)-(31): B = n I for every permutation, theta = n.

    Distances are in the new variable; x = D^-1/2 x_new. At gamma = 1/n the bound is that of (31),
    and one round lands on the solution.

    Raises:
        ValueError: n != d, or some diagonal entry is not positive.
    """
    _require_square(problem)
    require_diagonals(problem, "(29) divides by its root")
    root = np.sqrt(np.diag(problem.L_bar))
    L = problem.L_bar / np.outer(root, root)
    apart = float(np.abs(problem.L - problem.L[0]).max())
    violated = (*_at_zero(problem), *_definite(L, "L-tilde"))
    if apart > 1e-12 * np.abs(problem.L).max():
        violated += (
            f"the L_i differ by {apart:.3g}, but (29) speaks of one L: use `heterogeneous` (32).",
        )
    n = float(problem.n_workers)
    # N = L^-1 W L^-1 = n L^-1 >= (n / lambda_max) I gives the plain norm of (31)
    return SpecialCase("(29)-(31)", L, n * L, n, _largest(L) / n, True, violated)


def heterogeneous(sketch: PreconditionedPerm1) -> SpecialCase:
    """C_i = sqrt(n/[L_i]_jj) e_j e_j' (32)-(34): B = I for every permutation, theta = 1."""
    problem = sketch.problem
    L = problem.L_bar
    violated = (*_at_zero(problem), *_definite(L, "L_bar"))
    return SpecialCase("(32)-(34)", L, L, 1.0, _largest(L), True, violated)


def _largest(L: Matrix) -> float:
    return float(np.linalg.eigvalsh(L)[-1])


def _at_zero(problem: Quadratics) -> tuple[str, ...]:
    largest = float(np.linalg.norm(problem.b, axis=1).max())
    if largest == 0:
        return ()
    return (f"b_i is not 0 (the largest has norm {largest:.3g}): use minimised_at_zero().",)


def _definite(L: Matrix, name: str) -> tuple[str, ...]:
    try:
        require_definite(L, name)
    except ValueError as reason:
        return (str(reason),)
    return ()


def _require_square(problem: Quadratics) -> None:
    if problem.n_workers != problem.dim:
        raise ValueError(
            f"Perm-1 deals one of d={problem.dim} coordinates to each of n_workers="
            f"{problem.n_workers}. Use n_workers={problem.dim}, or `stationary_points` with Perm."
        )
