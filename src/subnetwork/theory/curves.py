"""Exact expectations of Algorithm 1: no Monte Carlo, one step a round.

With e = x - x* a round is e+ = e - gamma (B e - r), r = u - B x*. Everything below follows the
first two moments of e, so that nothing cancels near the solution. For any quadratic measure
e' A e, E e' A e = <A, E[e e']>: f - f* has A = L_bar / 2, the theorems have A = `theorem.form`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from subnetwork.shapes import Floats, Matrices, Matrix, PerWorker, Vector
from subnetwork.theory.draws import Draws
from subnetwork.theory.estimator import Estimator
from subnetwork.theory.moments import Linear, cross, mean_B, mean_u, pair, second_B, second_u
from subnetwork.theory.perm1 import covariance_18, h_17
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import PreconditionedPerm1


@dataclass(frozen=True, eq=False)
class Moments:
    """m = E[e] and M = E[e e'] of the error e = x^k - x*."""

    m: Vector
    M: Matrix

    def of(self, A: Matrix) -> float:
        """E[e' A e]."""
        return float((A * self.M).sum())


def expected(problem: Quadratics, e: Linear, x0: Vector, *, step_size: float) -> Iterator[Moments]:
    """Moments of x^0, x^1, ... without end, for any linear method; O(n d^3) a round."""
    x_star, H = _star(problem, e), mean_B(e)
    r_bar = mean_u(e) - H @ x_star
    m = x0 - problem.minimiser
    M = np.outer(m, m)
    noise = second_r(e, x_star)
    while True:
        yield Moments(m, M)
        # E[(e - gamma B e) r'] with r = u - B x*
        B_r = cross(e, m) - second_B(e, np.outer(m, x_star))
        mixed = np.outer(m, r_bar) - step_size * B_r
        half = M / 2 - step_size * (H @ M - mixed) + step_size**2 / 2 * (second_B(e, M) + noise)
        M = half + half.T  # symmetric to the bit: a skew part would grow where M shrinks
        m = m - step_size * (H @ m - r_bar)


def expected_perm1(
    problem: Quadratics, e: Estimator, x0: Vector, *, step_size: float
) -> Iterator[Moments]:
    """The same where no worker holds two coordinates (n = d), elementwise: O(d^2) a round.

    Raises:
        ValueError: some worker can hold two coordinates.
    """
    A, R = _one_coordinate(problem, e, step_size)
    law = e.occupancy
    Phi, AR, RR = pair(A, A, law), pair(A, R, law), pair(R, R, law)
    contraction, drift = A.mean(axis=0), R.mean(axis=0)
    m = x0 - problem.minimiser
    M = np.outer(m, m)
    while True:
        yield Moments(m, M)
        mixed = step_size * m[:, None] * AR
        M = Phi * M + mixed + mixed.T + step_size**2 * RR
        m = contraction * m + step_size * drift


def expected_preconditioned(
    sketch: PreconditionedPerm1, x0: Vector, *, step_size: float
) -> Iterator[Moments]:
    """The same for preconditioned Perm-1, each round in closed form, since B = I always."""
    start, end = x0 - sketch.problem.minimiser, -h_17(sketch)
    covariance = covariance_18(sketch)
    left, spread = 1.0, 0.0  # (1-gamma)^k and gamma^2 sum_{t<k} (1-gamma)^2t
    while True:
        m = left * (start - end) + end
        yield Moments(m, np.outer(m, m) + spread * covariance)
        spread += (step_size * left) ** 2
        left *= 1 - step_size


def fixed_point(e: Linear) -> Vector:
    """x_inf = E[B]^-1 E[u], where E x^k tends to for every small enough step size."""
    about_origin = np.asarray(np.linalg.solve(mean_B(e), mean_u(e)))
    origin = None if isinstance(e, Draws) else e.origin
    return about_origin if origin is None else about_origin + origin


def bias(problem: Quadratics, e: Linear) -> float:
    """f(x_inf) - f*: what no step size removes."""
    return problem.gap(fixed_point(e))


def stationary_perm1(problem: Quadratics, e: Estimator, *, step_size: float) -> Moments:
    """The moments that `expected_perm1` tends to: bias and floor at this step size.

    Raises:
        ValueError: some worker can hold two coordinates, or the step size is not stable.
    """
    limit = stable_step(problem, e)
    if not 0 < step_size < limit:
        raise ValueError(
            f"step_size={step_size:.4g} has no stationary second moment: E|x|^2 grows at or above "
            f"{limit:.4g}. Use a smaller one."
        )
    A, R = _one_coordinate(problem, e, step_size)
    law = e.occupancy
    m = R.mean(axis=0) / e.diagonals.mean(axis=0)
    mixed = step_size * m[:, None] * pair(A, R, law)
    M = (mixed + mixed.T + step_size**2 * pair(R, R, law)) / (1 - pair(A, A, law))
    return Moments(m, M)


def stable_step(problem: Quadratics, e: Estimator) -> float:
    """The exact mean-square stability limit of Perm-1: 2 min_j E[B_jj] / E[B_jj^2].

    E|x^k|^2 stays bounded below it and grows without bound above. Raises as `expected_perm1`.
    """
    _one_coordinate(problem, e, 1.0)
    delta = e.diagonals
    return float((2 * delta.mean(axis=0) / (delta**2).mean(axis=0)).min())


def along(measures: Matrices, moments: Iterable[Moments], n_rounds: int) -> Floats:
    """E[e' A e] at x^0, ..., x^K, K = n_rounds, for every A in `measures`; shape (K + 1, m)."""
    return np.array([[now.of(A) for A in measures] for now in islice(moments, n_rounds + 1)])


def _one_coordinate(
    problem: Quadratics, e: Estimator, step_size: float
) -> tuple[PerWorker, PerWorker]:
    """1 - gamma [G_i]_jj, and r's table U_ij - [G_i]_jj x*_j."""
    law = e.occupancy
    plain = e.drift == 0 and not e.noise.worker and not law.shared
    if not law.disjoint or law.together[2] > 0 or problem.n_workers != problem.dim or not plain:
        raise ValueError(
            f"The elementwise curve wants one coordinate a worker, but there are d={problem.dim} "
            f"for n_workers={problem.n_workers}. Use Perm with n_workers={problem.dim}, or the "
            "curve `expected`, which takes any deal, merge and noise."
        )
    delta = e.diagonals
    return 1 - step_size * delta, e.U - delta * _star(problem, e)


def _star(problem: Quadratics, e: Linear) -> Vector:
    """x* seen from the origin of the method."""
    origin = None if isinstance(e, Draws) else e.origin
    return problem.minimiser if origin is None else problem.minimiser - origin


def second_r(e: Linear, x_star: Vector) -> Matrix:
    """E[r r'] for r = u - B x*."""
    Bu = cross(e, x_star)
    return np.asarray(second_u(e) - Bu - Bu.T + second_B(e, np.outer(x_star, x_star)))
