"""Equations (2)-(18) by enumeration of every draw on a small problem: claimed beside measured."""

from collections.abc import Callable

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.outcome import Outcome, equal, verdict
from subnetwork.shapes import Floats, Vector
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.merges import merge_form, update_form
from subnetwork.theory.perm1 import dealt_b, h_17, sigma2_18
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import (
    Dealt,
    DiagonalPartition,
    DiagonalSketch,
    PreconditionedPerm1,
)
from subnetwork.theory.work import GradientSteps

TOLERANCE = 1e-10


def identities(problem: Quadratics, x: Vector) -> list[Outcome]:
    """Equations (2)-(18) for a problem with n = d <= 6, at the point x."""
    perm, preconditioned = (
        Dealt(Perm(problem.dim), problem.dim, "paper"),
        PreconditionedPerm1(problem),
    )
    return [
        *_forms(problem, perm, preconditioned, x),
        *_permutation_sketch(),
        *_challenges(problem, perm, x),
        *_preconditioned(preconditioned, x),
        _heterogeneity(preconditioned, x),
    ]


def _forms(
    problem: Quadratics, perm: Dealt, preconditioned: PreconditionedPerm1, x: Vector
) -> list[Outcome]:
    work = GradientSteps(problem, 0.1)

    def apart(sketch: DiagonalSketch) -> float:
        """The largest |(4) - (2)| of one round over all draws."""
        gaps = []
        for partition in every_draw(sketch):
            trained = work(0, partition, [partition.select(x, i) for i in range(len(x))])
            gap = merge_form(x, partition, trained) - update_form(x, partition, trained)
            gaps.append(np.linalg.norm(gap))
        return float(max(gaps))

    by_2 = _zero("One round of (4) is one of (2), with the sketch (5)", "(2), (4)", apart(perm))
    differ = _zero(
        "One round of (4) is one of (2), with the sketch (12)", "(4)", apart(preconditioned)
    )
    return [
        by_2,
        differ.with_correction(
            "(4) equals (2) if and only if mean_i C_i = I, which (12) lacks: (4) multiplies the "
            "model by mean_i C_i. The theorems speak of (2).",
            _coverage(preconditioned) > TOLERANCE,
        ),
    ]


def _permutation_sketch() -> list[Outcome]:
    found = []
    for n, d in ((2, 6), (2, 5)):
        sketch = Dealt(Perm(n), d, "paper")
        bias = _mean(sketch, lambda p: p.scale) - 1
        worst = max(float(np.abs(bias).max()), _coverage(sketch))
        found.append(
            _zero(f"E C_i = I, and mean_i C_i = I in every round (n={n}, d={d})", "(5)", worst)
        )
    q_is_3, remainder = found
    return [
        q_is_3.with_correction(
            'The heading "for n = d" would force q = 1; (5) wants d = q n.', q_is_3.stands
        ),
        remainder.with_correction(
            "n does not divide d: what is left over goes to workers drawn at random.",
            remainder.stands,
        ),
    ]


def _challenges(problem: Quadratics, perm: Dealt, x: Vector) -> list[Outcome]:
    grad = problem.gradient(x)

    def inner(p: DiagonalPartition) -> Vector:
        return np.asarray(problem.gradient(p.scale[0] * x))

    def outer(p: DiagonalPartition) -> Vector:
        return np.asarray(p.scale[0] * problem.gradient(p.scale[0] * x))

    def cubes(p: DiagonalPartition) -> Vector:
        return np.asarray((p.scale[0] * x) ** 3)

    plain = float(np.linalg.norm(_mean(perm, inner) - grad))
    sketched = float(np.linalg.norm(_mean(perm, outer) - grad))
    cubic = float(np.linalg.norm(_mean(perm, cubes) - x**3))
    A = problem.L_bar
    return [
        _above(
            "|E grad f(Cx) - grad f(x)| > 0 for the quadratics (9)", "(6)", plain
        ).with_correction(
            "For quadratics (6) is an equality. Biased is E[C grad f(Cx)], by "
            f"{sketched:.3g}: the outer C does it.",
            sketched > TOLERANCE,
        ),
        _above("|E grad f(Cx) - grad f(x)| > 0 for f = sum x^4 / 4", "(6)", cubic),
        equal(
            "|grad f(x)| = |Ax| for f = x'Ax, and grows without bound",
            "(7)-(8)",
            float(np.linalg.norm(2 * A @ x)),
            float(np.linalg.norm(A @ x)),
        ).with_correction("The gradient is 2Ax; that (7) fails for quadratics stands.", True),
    ]


def _preconditioned(sketch: PreconditionedPerm1, x: Vector) -> list[Outcome]:
    problem, e = sketch.problem, estimator(sketch.problem, sketch)
    eye = np.eye(problem.dim)

    def g(p: DiagonalPartition) -> Vector:
        """Eq. (3), from the f_i themselves."""
        n = problem.n_workers
        each = [p.scale[i] * problem.worker_gradient(i, p.scale[i] * x) for i in range(n)]
        return np.asarray(np.mean(each, axis=0))

    def as_10(p: DiagonalPartition) -> Vector:
        B, u = drawn(e, p)
        return B @ x - u

    draws = list(every_draw(sketch))
    of_form = max(float(np.abs(g(p) - as_10(p)).max()) for p in draws)
    Bs = [drawn(e, p)[0] for p in draws]
    E_u = _mean(sketch, lambda p: drawn(e, p)[1])
    E_g = _mean(sketch, g)
    by_17 = np.linalg.solve(problem.L_bar, problem.gradient(x)) + h_17(sketch)
    return [
        _zero("g = B x - mean_i C_i b_i in every round", "(10)-(11)", of_form),
        _zero("E B = I with the sketch (12)", "(12)-(13)", _largest(np.mean(Bs, axis=0) - eye)),
        _zero("B = I for every permutation", "(13)", max(_largest(B - eye) for B in Bs)),
        _zero("E mean_i C_i b_i", "(14)", _largest(E_u - dealt_b(sketch).mean(axis=0))),
        _zero("E g = x - E mean_i C_i b_i", "(15)-(16)", _largest(E_g - (x - E_u))),
        _zero("E g = L^-1 grad f(x) + h", "(17)", _largest(E_g - by_17)),
    ]


def _heterogeneity(sketch: PreconditionedPerm1, x: Vector) -> Outcome:
    problem, e = sketch.problem, estimator(sketch.problem, sketch)

    def spread(at: Vector) -> float:
        g = np.array([B @ at - u for B, u in (drawn(e, p) for p in every_draw(sketch))])
        centred = g - g.mean(axis=0)
        return float(np.einsum("sj,jl,sl->s", centred, problem.L_bar, centred).mean())

    claim = "E|g - E g|^2_L = tr(L Cov g) at every x: (18) is no assumption"
    here, elsewhere = spread(x), spread(10 * x)
    row = equal(claim, "(18)", here, sigma2_18(sketch))
    return row.with_correction(
        "sigma^2 is a number with a closed form, the same at every x.",
        row.stands and abs(here - elsewhere) <= TOLERANCE * here,
    )


def _mean(sketch: DiagonalSketch, f: Callable[[DiagonalPartition], Floats]) -> Floats:
    """E f over all draws."""
    return np.asarray(np.mean([f(partition) for partition in every_draw(sketch)], axis=0))


def _coverage(sketch: DiagonalSketch) -> float:
    """The largest entry of |mean_i C_i - I| over all draws."""
    return max(_largest(p.scale.mean(axis=0) - 1) for p in every_draw(sketch))


def _largest(array: Floats) -> float:
    return float(np.abs(array).max())


def _zero(claim: str, equation: str, deviation: float) -> Outcome:
    """An identity, by its largest deviation."""
    return equal(f"{claim}: largest deviation", equation, deviation, 0.0, tolerance=TOLERANCE)


def _above(claim: str, equation: str, measured: float) -> Outcome:
    """A claim that something is not zero."""
    return Outcome(claim, equation, measured, 0.0, verdict(measured > TOLERANCE))
