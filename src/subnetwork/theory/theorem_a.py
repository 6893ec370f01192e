"""Theorem A (ours): a Euclidean guarantee that needs no W-bar, for any b_i and any sketch."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from subnetwork.shapes import Matrix
from subnetwork.theory.estimator import Estimator
from subnetwork.theory.moments import Linear, mean_B, second_B
from subnetwork.theory.stationary import s2
from subnetwork.theory.theorems import require_range


@dataclass(frozen=True, eq=False)
class TheoremA:
    """E|x^k - x_inf|^2 <= (1 - gamma mu)^k |x^0 - x_inf|^2 + 2 gamma s2 / mu.

    H = E[B] symmetric and definite, theta_I = lambda_max(E[B'B], H), mu = lambda_min(H), s2 =
    E|B x_inf - u|^2, 0 < gamma <= 1/(2 theta_I). Where s2 = 0, as for b_i = 0, 1/theta_I is small
    enough. It speaks where W-bar is indefinite, too.
    """

    H: Matrix  # E[B]
    BB: Matrix  # E[B' B]
    s2: float

    @property
    def theta(self) -> float:
        """theta_I, the smallest with E[B'B] <= theta_I H."""
        return float(eigh(self.BB, self.H, eigvals_only=True)[-1])

    @property
    def mu(self) -> float:
        """lambda_min(H)."""
        return float(np.linalg.eigvalsh(self.H)[0])

    @property
    def quiet(self) -> bool:
        """Whether x_inf is left alone by every draw: s2 = 0 but for rounding."""
        return self.s2 <= 1e-14 * float(np.trace(self.BB))

    @property
    def largest_step(self) -> float:
        """1/(2 theta_I), and 1/theta_I where s2 = 0."""
        return (1.0 if self.quiet else 0.5) / self.theta

    @property
    def form(self) -> Matrix:
        """The identity: the left side is E|x^k - x_inf|^2."""
        return np.eye(len(self.H))

    def check(self) -> list[str]:
        """The violated assumptions, one sentence each."""
        skew = float(np.abs(self.H - self.H.T).max())
        if skew > 1e-10 * float(np.abs(self.H).max()):
            return [
                f"E[B] differs from its transpose by {skew:.3g}: use a symmetric sketch, such as "
                "Perm, in the place of Jacobi."
            ]
        if self.mu <= 0:
            return [f"E[B] has the eigenvalue {self.mu:.3g}: add a ridge to the problem."]
        return []

    def bound(self, distance: float, step_size: float, k: int) -> float:
        """Right side at round k, for distance = |x^0 - x_inf|^2.

        Raises:
            ValueError: an assumption of `check()` fails, or the step size is too large.
        """
        for sentence in self.check():
            raise ValueError(f"Theorem A is silent: {sentence}")
        require_range(step_size, self.largest_step, "A")
        return float((1 - step_size * self.mu) ** k * distance + self.floor(step_size))

    def floor(self, step_size: float) -> float:
        """2 gamma s2 / mu, what the bound tends to; 0 where s2 = 0."""
        return 0.0 if self.quiet else 2 * step_size * self.s2 / self.mu


def theorem_a(e: Linear) -> TheoremA:
    """Theorem A for a linear method, from its exact moments."""
    return TheoremA(mean_B(e), _BB(e), s2(e))


def _BB(e: Linear) -> Matrix:
    """E[B' B], by transposing every G_i."""
    eye = np.eye(len(mean_B(e)))
    if isinstance(e, Estimator):
        return second_B(e.transposed, eye)
    return np.asarray(np.einsum("r,rlj,rlm->jm", e.weight, e.B, e.B))
