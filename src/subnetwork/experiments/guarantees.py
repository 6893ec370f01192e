"""The theorems (19)-(34) against exact expectations on small problems: no Monte Carlo."""

import numpy as np

from subnetwork.deals import Full, Perm
from subnetwork.experiments.interpolation import theta_28
from subnetwork.experiments.outcome import Outcome, at_most, equal
from subnetwork.shapes import Vector
from subnetwork.theory.curves import along, expected, expected_perm1, expected_preconditioned
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.moments import mean_B
from subnetwork.theory.perm1 import BLB_28
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt, DiagonalSketch, PreconditionedPerm1
from subnetwork.theory.theorems import (
    StationaryPoints,
    neighbourhood,
    smallest_theta,
    stationary_points,
)

K = 200
BETA = 0.25


def guarantees(problem: Quadratics, x0: Vector) -> list[Outcome]:
    """Equations (19)-(34) for a problem with n = d <= 6, started at x0."""
    d = problem.dim
    perm, at_zero = Dealt(Perm(d), d, "paper"), problem.minimised_at_zero()
    return [
        *_to_a_neighbourhood(PreconditionedPerm1(problem), x0),
        *_stationary(at_zero, perm, x0, "Perm-1"),
        *_stationary(
            trig(2, 6).minimised_at_zero(), Dealt(Perm(2), 6, "paper"), np.ones(6), "Perm-3"
        ),
        *_gradient_descent(at_zero, x0),
        *_perm1(at_zero, perm),
        _divergence(),
        *_homogeneous(problem, x0),
        *_heterogeneous(PreconditionedPerm1(at_zero), x0),
    ]


def _to_a_neighbourhood(sketch: PreconditionedPerm1, x0: Vector) -> list[Outcome]:
    theorem = neighbourhood(sketch)

    def left_and_drop(step_size: float) -> tuple[float, float]:
        curve = expected_preconditioned(sketch, x0, step_size=step_size)
        left = along(theorem.form[None], curve, K)[:, 0]
        return float(left[:-1].mean()), float(left[0] - left[-1]) / 2

    gamma = theorem.largest_step(BETA)
    left, drop = left_and_drop(gamma)
    left_1, drop_1 = left_and_drop(1.0)
    what = f"(19) with gamma = {gamma:.3g}, beta = {BETA}, K = {K}: left side <= right side"
    return [
        at_most(what, "(19)", left, theorem.bound(drop, gamma, K, beta=BETA)).with_correction(
            "True but loose: |h|^2_L + gamma sigma^2 is enough noise, for every gamma <= 1",
            left <= theorem.tightened(drop, gamma, K),
        ),
        equal(
            "The tightened (19) is an equality at gamma = 1, outside of the printed range",
            "(19)",
            left_1,
            theorem.tightened(drop_1, 1.0, K),
        ),
    ]


def _stationary(
    problem: Quadratics, sketch: DiagonalSketch, x0: Vector, name: str
) -> list[Outcome]:
    theorem, e = stationary_points(problem, sketch), estimator(problem, sketch)
    draws = [drawn(e, p)[0] for p in every_draw(sketch)]
    enumerated = np.mean([B @ problem.L_bar @ B.T for B in draws], axis=0)
    gamma = theorem.largest_step
    curve = expected(problem, e, x0, step_size=gamma)
    left, twice_gap = along(np.stack([theorem.form, problem.L_bar]), curve, K).T
    drop = float(twice_gap[0] - twice_gap[-1]) / 2
    rates = float((twice_gap[1:10] / twice_gap[:9]).max())  # before they reach rounding
    return [
        equal(
            f"theta from closed-form moments is theta from all draws ({name})",
            "(22)-(23)",
            theorem.theta,
            smallest_theta(enumerated, theorem.W),
        ),
        at_most(
            f"(24) with gamma = 1/theta, K = {K}: left side <= right side ({name})",
            "(24)",
            float(left[:-1].mean()),
            theorem.bound(drop, gamma, K),
        ),
        at_most(
            f"E|x^k - x*|^2_L shrinks by 1 - gamma lambda_min(L^-1/2 W L^-1/2) or more ({name})",
            "(24)",
            rates,
            theorem.rate(gamma),
        ),
    ]


def _gradient_descent(problem: Quadratics, x0: Vector) -> list[Outcome]:
    n, d = problem.n_workers, problem.dim
    theorem = stationary_points(problem, Dealt(Full(n), d, "paper"))
    largest = float(np.linalg.eigvalsh(problem.L_bar)[-1])
    left, drop = _norm_of_gradient(problem, Dealt(Full(n), d, "paper"), x0, theorem.largest_step)
    return [
        equal("theta of gradient descent is lambda_max(L)", "(25)", theorem.theta, largest),
        at_most(f"(26), K = {K}: left side <= right side", "(26)", left, 2 * largest * drop / K),
    ]


def _perm1(problem: Quadratics, perm: Dealt) -> list[Outcome]:
    n_D = problem.n_workers * np.diag(problem.diagonals.mean(axis=0))
    e = estimator(problem, perm)
    B = np.mean([drawn(e, p)[0] for p in every_draw(perm)], axis=0)
    return [
        equal("E B = n D: largest deviation", "(27)", float(np.abs(B - n_D).max()), 0.0),
        *theta_28(problem, stationary_points(problem, perm)),
    ]


def _divergence() -> Outcome:
    """Where (28) is far off: n = d = 4, L_1 = 4I and L_i = 0.01I for the others."""
    L = np.array([4.0, 0.01, 0.01, 0.01])[:, None, None] * np.eye(4)
    problem, sketch = Quadratics(L, np.zeros((4, 4))), Dealt(Perm(4), 4, "paper")
    theorem, e = stationary_points(problem, sketch), estimator(problem, sketch)

    def factor(step_size: float) -> float:
        curve = expected_perm1(problem, e, np.ones(4), step_size=step_size)
        start, after = along(np.eye(4)[None], curve, 1)[:, 0]
        return float(after / start)

    gamma = 1 / smallest_theta(BLB_28(problem), theorem.W)
    return at_most(
        "gamma = 1/theta from (28) lets E|x|^2 not grow (L_1 = 4I, L_2..4 = 0.01I)",
        "(28)",
        factor(gamma),
        1.0,
    ).with_correction(
        f"With the exact theta the factor is {factor(theorem.largest_step):.4g}",
        factor(theorem.largest_step) <= 1,
    )


def _homogeneous(problem: Quadratics, x0: Vector) -> list[Outcome]:
    """f_i(D^-1/2 x) with L_i = L: all D_i are I, so (28) is right and B = nI always."""
    n, d = problem.n_workers, problem.dim
    root = np.sqrt(np.diag(problem.L_bar))
    L = problem.L_bar / np.outer(root, root)
    scaled = Quadratics(np.stack([L] * n), np.zeros((n, d)))
    perm = Dealt(Perm(n), d, "paper")
    e, theorem = estimator(scaled, perm), stationary_points(scaled, perm)
    worst = max(float(np.abs(drawn(e, p)[0] - n * np.eye(d)).max()) for p in every_draw(perm))
    left, drop = _norm_of_gradient(scaled, perm, x0, theorem.largest_step)
    bound = 2 * float(np.linalg.eigvalsh(L)[-1]) * drop / K
    return [
        equal("B = n I for every permutation: largest deviation", "(29)-(30)", worst, 0.0),
        equal("theta is n", "(30)", theorem.theta, float(n)),
        at_most(f"(31), K = {K}: left side <= right side", "(31)", left, bound),
    ]


def _heterogeneous(sketch: PreconditionedPerm1, x0: Vector) -> list[Outcome]:
    problem = sketch.problem
    theorem: StationaryPoints = stationary_points(problem, sketch)
    B = mean_B(estimator(problem, sketch))
    left, drop = _norm_of_gradient(problem, sketch, x0, theorem.largest_step)
    after = along(np.eye(problem.dim)[None], expected_preconditioned(sketch, x0, step_size=1.0), 1)
    bound = 2 * float(np.linalg.eigvalsh(problem.L_bar)[-1]) * drop / K
    off = float(np.abs(B - np.eye(problem.dim)).max())
    return [
        equal("E B = I: largest deviation", "(32)-(33)", off, 0.0),
        equal("theta is 1", "(34)", theorem.theta, 1.0),
        at_most(f"(34), K = {K}: left side <= right side", "(34)", left, bound),
        equal("E|x^1|^2 after one round at gamma = 1", "(34)", float(after[1, 0]), 0.0),
    ]


def _norm_of_gradient(
    problem: Quadratics, sketch: DiagonalSketch, x0: Vector, step_size: float
) -> tuple[float, float]:
    """(1/K) sum_k E|grad f(x^k)|^2 in the plain norm, and f(x^0) - E f(x^K)."""
    L = problem.L_bar
    curve = expected(problem, estimator(problem, sketch), x0, step_size=step_size)
    squares, gaps = along(np.stack([L @ L, L / 2]), curve, K).T
    return float(squares[:-1].mean()), float(gaps[0] - gaps[-1])
