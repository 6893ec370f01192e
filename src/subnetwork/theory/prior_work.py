"""What earlier analyses of IST assume, and what is true: eqs. (7), (20) and (21)."""

from dataclasses import dataclass

import numpy as np

from subnetwork.shapes import Vector
from subnetwork.theory.moments import Linear
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.theorem_a import theorem_a
from subnetwork.theory.theorems import require_range


@dataclass(frozen=True)
class CompressedIterates:
    """GDCI, x+ = C(x) - gamma grad f(C(x)), on a quadratic of condition kappa (eq. 20).

    Khaled & Richtarik (2019), used by Yuan et al. (2022), ask for omega = d/q - 1 of the order of
    kappa^-2. On diagonal quadratics and an unbiased C that acts on each coordinate by itself, the
    method is stable in mean square, for a good gamma, if and only if omega < 4 kappa/(kappa - 1)^2.
    """

    kappa: float

    def __post_init__(self) -> None:
        if not 1 <= self.kappa < float("inf"):
            raise ValueError(
                f"kappa={self.kappa} is no condition number. Use lambda_max/lambda_min >= 1."
            )

    @property
    def required(self) -> float:
        """kappa^-2: the largest omega that the proof takes, up to a constant."""
        return self.kappa**-2

    @property
    def threshold(self) -> float:
        """4 kappa/(kappa - 1)^2: the omega from which on no step size is stable."""
        return float("inf") if self.kappa == 1 else 4 * self.kappa / (self.kappa - 1) ** 2

    def growth(self, omega: float, step_size: float, *, smoothness: float = 1.0) -> float:
        """E|x+|^2 / |x|^2 in the worst direction: max (1 - gamma lambda)^2 (1 + omega)."""
        ends = (smoothness / self.kappa, smoothness)
        return max((1 - step_size * end) ** 2 for end in ends) * (1 + omega)

    def best_step(self, *, smoothness: float = 1.0) -> float:
        """2 / (lambda_min + lambda_max), which the threshold is attained at."""
        return 2 / (smoothness + smoothness / self.kappa)

    def check(self, omega: float) -> list[str]:
        """Whether (20) takes this omega, constants left out."""
        if omega <= self.required:
            return []
        return [
            f"omega = {omega:.3g} is above kappa^-2 = {self.required:.3g}, where (20) ends; the "
            f"method itself is stable up to {self.threshold:.3g}."
        ]


@dataclass(frozen=True)
class NonConvexSGD:
    """min_{k < K} E|grad F(x^k)|^2 <= 6 (F(x^0) - inf F) / (gamma K) + gamma L C.

    SGD with an unbiased g of grad F (Khaled & Richtarik 2020), for E|g|^2 <= 2A (F - inf F) +
    B |grad F|^2 + C and gamma <= min(1 / sqrt(L A K), 1 / (L B)). IST is such SGD, on F.

    Attributes:
        L: smoothness of F.
        A: as above, and B, C.
        B: likewise.
        C: likewise.
    """

    L: float
    A: float
    B: float
    C: float

    def largest_step(self, n_rounds: int) -> float:
        """min(1 / sqrt(L A K), 1 / (L B))."""
        return 1 / max(float(np.sqrt(self.L * self.A * n_rounds)), self.L * self.B)

    def bound(self, drop: float, step_size: float, n_rounds: int) -> float:
        """Right side, for drop = F(x^0) - inf F; raises ValueError for a larger step."""
        require_range(step_size, self.largest_step(n_rounds), "of non-convex SGD")
        return 6 * drop / (step_size * n_rounds) + step_size * self.L * self.C


def sgd_on_F(e: Linear) -> NonConvexSGD:
    """The constants of a symmetric sketch on quadratics: F(x) = (x - x_inf)' H (x - x_inf) / 2.

    E|B d + r|^2 <= 2 theta_I d' H d + 2 s2 for d = x - x_inf and r = B x_inf - u, so that
    A = 2 theta_I, B = 0 and C = 2 s2, with theta_I and s2 of theorem A.
    """
    a = theorem_a(e)
    return NonConvexSGD(float(np.linalg.eigvalsh(a.H)[-1]), 2 * a.theta, 0.0, 2 * a.s2)


@dataclass(frozen=True, eq=False)
class BoundedGradient:
    """|grad f(x)|^2 <= G for all x (eqs. 7, 21): false for every quadratic with L_bar != 0."""

    problem: Quadratics
    G: float

    def check(self) -> list[str]:
        """The violated assumption, with a point that violates it."""
        x = self.witness()
        if x is None:
            return []
        squared = float(np.sum(self.problem.gradient(x) ** 2))
        return [
            f"|grad f(x)|^2 = {squared:.3g} > G = {self.G:.3g} at a point of norm "
            f"{np.linalg.norm(x):.3g}: no quadratic has a bounded gradient. Use a theorem without "
            "(7), such as (22)-(24) or A."
        ]

    def witness(self) -> Vector | None:
        """A point with |grad f(x)|^2 > G, along the largest eigenvector of L_bar; None if L = 0."""
        values, V = np.linalg.eigh(self.problem.L_bar)
        if values[-1] <= 0:
            return None
        # the gradient along v is at least lambda t - |b_bar|
        reach = np.sqrt(self.G) + float(np.linalg.norm(self.problem.b_bar))
        return np.asarray(V[:, -1] * 1.001 * (reach + 1e-9) / values[-1])
