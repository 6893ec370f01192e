"""Only some workers take part: blocks of the others are kept, or zero as (4) literally says."""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.equations.points import over, points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import equal
from subnetwork.theory import variants
from subnetwork.theory.curves import fixed_point
from subnetwork.theory.estimator import Estimator
from subnetwork.theory.problems import trig
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.work import GradientSteps


def run(*, n_workers: int = 6, dim: int = 12, step_size: float = 0.15) -> Evidence:
    """f(x_inf) - f* of IST on trig(n, d) when m of the n workers take part in a round."""
    problem, n = trig(n_workers, dim), n_workers
    ist = Dealt(Perm(n), dim, "as trained")
    e = variants.one_round(GradientSteps(problem, step_size), ist, "holders")
    zeroed = Estimator(e.G - np.eye(dim), e.U, e.occupancy, drift=1.0)
    ms = list(range(1, n + 1))
    kept = [problem.gap(fixed_point(variants.some_take_part(e, m))) for m in ms]
    literal = [problem.gap(fixed_point(variants.some_take_part(zeroed, m))) for m in ms]
    rows = points("missing blocks kept", "m", ms, kept) + points(
        "missing blocks 0, (4)", "m", ms, literal
    )
    outcomes = [
        equal(
            "Kept blocks leave x_inf where it is, with 1 worker as with all: f(x_inf) - f*",
            "(4)",
            kept[0],
            kept[-1],
        ),
        equal(
            "Blocks set to 0 leave x_inf where it is, with 1 worker as with all: f(x_inf) - f*",
            "(4)",
            literal[0],
            literal[-1],
        ).with_correction(
            "Literal (4) wants everyone; keep what nobody returned", kept[0] < literal[0]
        ),
    ]
    config = over("m", f"workers taking part, of n = {n}", "f(x∞) − f*", n_workers=n, dim=dim)
    return Evidence("participation", config, rows, outcomes)
