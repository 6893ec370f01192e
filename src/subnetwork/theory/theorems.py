"""The theorems of the slides as objects: each owns its left side, right side and assumptions.

`check()` lists the assumptions that fail, in words; `bound(...)` is the right side and raises
outside of them; `measure(gradient)` is one term of the left side. A theorem whose assumptions fail
is *silent*: it says neither that the method converges nor that it diverges.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

from subnetwork.shapes import Matrix, Vector
from subnetwork.theory.estimator import estimator
from subnetwork.theory.moments import mean_B, second_B
from subnetwork.theory.perm1 import h_17, sigma2_18
from subnetwork.theory.problems import Quadratics, require_definite
from subnetwork.theory.sketches import DiagonalSketch, PreconditionedPerm1


def smallest_theta(BLB: Matrix, W: Matrix) -> float:
    """The smallest theta with BLB <= theta W (eq. 23), both symmetric, BLB psd.

    Raises:
        ValueError: W has a negative eigenvalue, or BLB does not vanish where W does.
    """
    values, V = np.linalg.eigh(W)
    rounding = len(W) * np.finfo(np.float64).eps * np.abs(values).max()
    if values[0] < -rounding:
        raise ValueError(_not_psd(float(values[0])))
    if values[0] > rounding:
        return float(eigh(BLB, W, eigvals_only=True)[-1])
    seen = values > rounding
    null = V[:, ~seen]
    leak = float(np.abs(null.T @ BLB @ null).max())
    if leak > len(W) * np.finfo(np.float64).eps * np.abs(BLB).max():
        raise ValueError(
            f"eq. (23) has no theta: E[B L B] is {leak:.3g} where W-bar is 0. Add a ridge to the "
            "problem, which makes L_bar definite."
        )
    T = V[:, seen] / np.sqrt(values[seen])
    return float(np.linalg.eigvalsh(T.T @ BLB @ T)[-1])


@dataclass(frozen=True, eq=False)
class StationaryPoints:
    """Interpolation: b_i = 0 and any sketch (eqs. 22-24).

    (1/K) sum_k E|grad f(x^k)|^2_N <= 2 (f(x^0) - E f(x^K)) / (gamma K), N = L^-1 W L^-1, if
    W = E[L B + B L] / 2 is psd, E[B L B] <= theta W and 0 < gamma <= 1 / theta.
    """

    L_bar: Matrix
    W: Matrix
    BLB: Matrix  # E[B L B]
    largest_b: float  # max_i |b_i|

    @property
    def theta(self) -> float:
        """The smallest theta of eq. (23); raises ValueError where W is not psd."""
        return smallest_theta(self.BLB, self.W)

    @property
    def largest_step(self) -> float:
        """1 / theta; raises ValueError where W is not psd."""
        return 1 / self.theta

    @property
    def form(self) -> Matrix:
        """Q with measure(grad f(x)) = (x - x*)' Q (x - x*): W itself."""
        return self.W

    def check(self) -> list[str]:
        """The violated assumptions, one sentence each; none means that the theorem speaks."""
        violated = []
        if self.largest_b > 0:
            violated.append(
                f"b_i is not 0 (the largest has norm {self.largest_b:.3g}): use "
                "minimised_at_zero(), or the theorem (18)-(19)."
            )
        for assumption in (self._require_definite, self._require_theta):
            try:
                assumption()
            except ValueError as reason:
                violated.append(str(reason))
        return violated

    def measure(self, gradient: Vector) -> float:
        """|grad f(x)|^2 in the norm of L^-1 W L^-1: one term of the left side of eq. (24)."""
        direction = cho_solve(cho_factor(self.L_bar), gradient)
        return float(direction @ self.W @ direction)

    def bound(self, drop: float, step_size: float, n_rounds: int) -> float:
        """Right side of eq. (24) for drop = f(x^0) - E f(x^K), K = n_rounds.

        Raises:
            ValueError: an assumption of `check()` fails, or the step size is outside (0, 1/theta].
        """
        self._require(step_size)
        return 2 * drop / (step_size * n_rounds)

    def rate(self, step_size: float) -> float:
        """Factor of E|x^k - x*|^2_L a round: 1 - gamma lambda_min(L^-1/2 W L^-1/2).

        The paper's first version, eq. (16); not on the slides. Raises as `bound`.
        """
        self._require(step_size)
        return 1 - step_size * float(eigh(self.W, self.L_bar, eigvals_only=True)[0])

    def _require(self, step_size: float) -> None:
        for sentence in self.check():
            raise ValueError(f"Theorem (22)-(24) is silent: {sentence}")
        require_range(step_size, self.largest_step, "(22)-(24)")

    def _require_definite(self) -> None:
        require_definite(self.L_bar, "L_bar")

    def _require_theta(self) -> None:
        smallest_theta(self.BLB, self.W)


def stationary_points(problem: Quadratics, sketch: DiagonalSketch) -> StationaryPoints:
    """Theorem (22)-(24) for a sketch on a problem, from the exact E[B] and E[B L B]."""
    e = estimator(problem, sketch)
    LB = problem.L_bar @ mean_B(e)
    largest_b = float(np.linalg.norm(problem.b, axis=1).max())
    return StationaryPoints(problem.L_bar, (LB + LB.T) / 2, second_B(e, problem.L_bar), largest_b)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Convergence to a neighbourhood for preconditioned Perm-1 and any b_i (eqs. 18-19).

    (1/K) sum_k E|grad f(x^k)|^2_{L^-1} <= 2 (f(x^0) - E f(x^K)) / (gamma K)
      + (2 (1 - gamma) / beta + gamma) |h|^2_L + gamma sigma^2
    for 0 < beta < 1/2 and 0 < gamma <= (1/2 - beta) / (1/2 + beta).
    """

    L_bar: Matrix
    h: Vector  # eq. (17): x* minus the point that E x^k tends to
    sigma2: float  # eq. (18), here a number and no assumption

    @property
    def form(self) -> Matrix:
        """Q with measure(grad f(x)) = (x - x*)' Q (x - x*): L_bar."""
        return self.L_bar

    @property
    def bias(self) -> float:
        """|h|^2_L."""
        return float(self.h @ self.L_bar @ self.h)

    def largest_step(self, beta: float) -> float:
        """(1/2 - beta) / (1/2 + beta); raises ValueError for beta outside (0, 1/2)."""
        if not 0 < beta < 0.5:
            raise ValueError(
                f"beta={beta} is outside (0, 1/2), where theorem (18)-(19) is stated. beta=0.25 "
                "allows step sizes up to 1/3."
            )
        return (0.5 - beta) / (0.5 + beta)

    def check(self) -> list[str]:
        """None: that D_i^-1/2 exists is required where the sketch is made."""
        return []

    def measure(self, gradient: Vector) -> float:
        """|grad f(x)|^2 in the norm of L^-1: one term of the left side of eq. (19)."""
        return float(gradient @ cho_solve(cho_factor(self.L_bar), gradient))

    def bound(self, drop: float, step_size: float, n_rounds: int, *, beta: float = 0.25) -> float:
        """Right side of eq. (19) as printed, for drop = f(x^0) - E f(x^K), K = n_rounds.

        Raises:
            ValueError: beta outside (0, 1/2), or a step size above `largest_step(beta)`.
        """
        require_range(step_size, self.largest_step(beta), f"(18)-(19) with beta={beta:g}")
        noise = (2 / beta * (1 - step_size) + step_size) * self.bias + step_size * self.sigma2
        return 2 * drop / (step_size * n_rounds) + noise

    def tightened(self, drop: float, step_size: float, n_rounds: int) -> float:
        """Ours, below (19) for every 0 < gamma <= 1, without beta; an equality at gamma = 1.

        2 drop / (gamma K) + |h|^2_L + gamma sigma^2, by Young's inequality from E f(x+) = f(x)
        - gamma (1 - gamma/2) |grad f|^2 - gamma (1 - gamma) <grad f, h> + gamma^2/2 (|h|^2_L +
        sigma^2).
        """
        require_range(step_size, 1.0, "(19), tightened,")
        return 2 * drop / (step_size * n_rounds) + self.bias + step_size * self.sigma2

    def floor(self, step_size: float) -> float:
        """What the left side tends to: |h|^2_L + gamma / (2 - gamma) sigma^2, 0 < gamma < 2."""
        if not 0 < step_size < 2:
            raise ValueError(
                f"step_size={step_size:.4g} has no floor: E x^k contracts by 1 - gamma a "
                "round. Use 0 < step_size < 2."
            )
        return self.bias + step_size / (2 - step_size) * self.sigma2


def neighbourhood(sketch: PreconditionedPerm1) -> Neighbourhood:
    """Theorem (18)-(19) for the problem of a sketch, with h (17) and sigma^2 (18) exactly."""
    return Neighbourhood(sketch.problem.L_bar, h_17(sketch), sigma2_18(sketch))


def require_range(step_size: float, largest: float, theorem: str) -> None:
    """Raise ValueError unless 0 < step_size <= largest, up to rounding."""
    if not 0 < step_size <= largest * (1 + 1e-12):
        digits = 3 - math.floor(math.log10(largest))
        works = math.floor(largest * 10**digits) / 10**digits  # four digits, never rounded up
        raise ValueError(
            f"step_size={step_size:.4g} is outside (0, {works:.4g}], where theorem {theorem} "
            f"speaks. Use step_size={works:.4g} or less; the method itself runs at any."
        )


def _not_psd(lowest: float) -> str:
    return (
        f"eq. (22) fails: W-bar has the eigenvalue {lowest:.3g} < 0. Standardise the columns of "
        "the data, precondition (eq. 12), or add a ridge to the problem; theorem A may speak."
    )
