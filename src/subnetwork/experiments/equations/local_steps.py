"""Several local steps, n = d: the floor and the limit move from one formula to another."""

from itertools import pairwise

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.equations.points import over, points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, equal, verdict
from subnetwork.theory import variants
from subnetwork.theory.curves import fixed_point
from subnetwork.theory.problems import trig
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.stationary import stationary
from subnetwork.theory.work import GradientSteps

TAUS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)


def run(*, step_size: float = 0.2) -> Evidence:
    """E f - f* in the end and at x_inf of IST on trig(5, 5), against the local steps tau."""
    problem, sketch = trig(5, 5), Dealt(Perm(5), 5, "as trained")
    floors, biases, off = [], [], []
    D = problem.diagonals
    for tau in TAUS:
        e = variants.one_round(GradientSteps(problem, step_size, tau), sketch, "holders")
        floors.append(stationary(problem, e, step_size=1.0).of(problem.L_bar / 2))
        biases.append(problem.gap(fixed_point(e)))
        w = 1 - (1 - step_size * D) ** tau
        closed = (w * problem.b / D).sum(axis=0) / w.sum(axis=0)
        off.append(float(np.abs(fixed_point(e) - closed).max()))
    last = problem.gap((problem.b / D).mean(axis=0))
    xs = [float(tau) for tau in TAUS]
    rows = points("floor: E f − f*", "tau", xs, floors) + points(
        "bias: f(x∞) − f*", "tau", xs, biases
    )
    rising = all(a < b for a, b in pairwise(floors))
    outcomes = [
        equal(
            "x_inf is the mean of b_ij/[L_i]_jj with weights 1 - (1 - gamma [L_i]_jj)^tau: "
            "deviation",
            "deck",
            max(off),
            0.0,
        ),
        Outcome(
            "The floor grows with tau: at 50 steps, beside 1",
            "deck",
            floors[-1],
            floors[0],
            verdict(rising),
        ),
    ]
    config = over("tau", "local steps τ", f"f − f*, γ = {step_size:g}", x_scale="log", floor=last)
    return Evidence("local_steps", config | {"floor_name": "bias, τ → ∞"}, rows, outcomes)
