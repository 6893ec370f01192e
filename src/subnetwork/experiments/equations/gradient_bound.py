"""(7)-(8), (21): is |grad f|^2 bounded by a G, as earlier analyses assume?"""

import numpy as np

from subnetwork.experiments.equations.points import over, points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, at_most, equal
from subnetwork.shapes import Curve, Vector
from subnetwork.theory.glm import logistic_gaussian
from subnetwork.theory.prior_work import BoundedGradient
from subnetwork.theory.problem import Problem
from subnetwork.theory.problems import Quadratics, trig

SIZES = np.geomspace(1e-2, 1e4, 49)


def run(*, G: float = 100.0, seed: int = 0) -> Evidence:
    """|grad f(t v)|^2 against t, v a random direction; for f = x'Ax, as in (8), A = L_bar.

    Args:
        G: the bound that is assumed.
        seed: draws v.
    """
    A = trig(1, 8).L_bar
    quadratic = Quadratics(2 * A[None], np.zeros((1, 8)))
    v = np.random.default_rng(seed).standard_normal(8)
    v /= np.linalg.norm(v)
    bounds = [G] * len(SIZES)
    logistic = logistic_gaussian(n_workers=4, dim=8, ridge=0.0)
    rows = [
        *points("f = x′Ax", "size", SIZES.tolist(), _squares(quadratic, v), bound=bounds),
        *points(
            "‖Ax‖², as printed", "size", SIZES.tolist(), ((SIZES * np.linalg.norm(A @ v)) ** 2)
        ),
        *points("logistic loss, no ridge", "size", SIZES.tolist(), _squares(logistic, v)),
    ]
    config = over("size", "‖x‖", "‖∇f(x)‖²", x_scale="log", bound_name=f"G = {G:g}", G=G, seed=seed)
    return Evidence("eq_7_8", config, rows, _outcomes(quadratic, A @ v, v, G))


def _squares(problem: Problem, v: Vector) -> Curve:
    return np.array([float(np.sum(problem.gradient(t * v) ** 2)) for t in SIZES])


def _outcomes(problem: Quadratics, Av: Vector, v: Vector, G: float) -> list[Outcome]:
    at = BoundedGradient(problem, G).witness()
    squared = 0.0 if at is None else float(np.sum(problem.gradient(at) ** 2))
    printed = equal(
        "|grad f(x)| = |Ax| for f = x'Ax",
        "(8)",
        float(np.linalg.norm(problem.gradient(v))),
        float(np.linalg.norm(Av)),
    )
    return [
        printed.with_correction("The gradient is 2Ax; that it is unbounded stands.", squared > G),
        at_most(f"|grad f(x)|^2 <= G = {G:g} for all x", "(7), (21)", squared, G).with_correction(
            "False for every quadratic: a witness for any G", squared > G
        ),
    ]
