"""(6): where the bias of the gradient estimator comes from, the inner C or the outer one."""

from collections.abc import Callable

import numpy as np

from subnetwork.deals import RandQ
from subnetwork.experiments.equations.points import TOLERANCE, deviations, of_identities
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.shapes import Vector
from subnetwork.theory.hands import every_hand
from subnetwork.theory.problems import trig

INNER, OUTER = "E∇f(Cx)", "E[C∇f(Cx)]"


def run(*, dim: int = 6, seed: int = 0) -> Evidence:
    """|E g - grad f(x)| / |grad f(x)| over all hands of q coordinates; `seed` draws x."""
    x = np.random.default_rng(seed).standard_normal(dim)
    slopes: dict[str, Callable[[Vector], Vector]] = {
        "quadratic": trig(1, dim).gradient,
        "Σx⁴": lambda at: np.asarray(at**3),
    }
    qs = [float(q) for q in range(1, dim)]  # at q = d, C = I and nothing is biased
    found = {
        f"{label}, {name}": [_bias(slope, x, int(q), outer=label == OUTER) for q in qs]
        for name, slope in slopes.items()
        for label in (INNER, OUTER)
    }
    rows = [row for label, ys in found.items() for row in deviations(label, "q", qs, ys)]
    config = of_identities("q", "coordinates of a worker, q", "deviation from ∇f(x), relative")
    return Evidence("eq_6", config, rows, _outcomes(found))


def _bias(slope: Callable[[Vector], Vector], x: Vector, q: int, *, outer: bool) -> float:
    held, weights = every_hand(RandQ(1, q), len(x))
    C = held * len(x) / q
    each = [(c if outer else 1.0) * slope(c * x) for c in C]
    grad = slope(x)
    return float(np.linalg.norm(weights @ np.array(each) - grad) / np.linalg.norm(grad))


def _outcomes(found: dict[str, list[float]]) -> list[Outcome]:
    """Below q = d; at q = d, C = I and nothing is biased."""

    def least(label: str) -> float:
        return min(found[label])

    plain = max(found[f"{INNER}, quadratic"])
    return [
        Outcome(
            "E grad f(Cx) is not grad f(x) for the quadratics (9): deviation at any q < d",
            "(6)",
            plain,
            0.0,
            verdict(plain > TOLERANCE),
        ).with_correction(
            "For quadratics (6) is an equality. Biased is E[C grad f(Cx)]: the outer C does it.",
            plain <= TOLERANCE < least(f"{OUTER}, quadratic"),
        ),
        Outcome(
            "E grad f(Cx) is not grad f(x) for f = sum x^4 / 4: least deviation over q < d",
            "(6)",
            least(f"{INNER}, Σx⁴"),
            0.0,
            verdict(least(f"{INNER}, Σx⁴") > TOLERANCE),
        ),
    ]
