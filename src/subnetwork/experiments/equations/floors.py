"""(19): the noise that the theorem leaves, printed, tightened and exact, at every step size."""

import numpy as np

from subnetwork.experiments.equations.points import over, points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.theory.curves import expected_preconditioned
from subnetwork.theory.problems import trig
from subnetwork.theory.sketches import PreconditionedPerm1
from subnetwork.theory.theorems import Neighbourhood, neighbourhood

STEPS = np.linspace(0.05, 1.0, 20)


def run() -> Evidence:
    """The floor of the left side of (19) on trig(5, 5) against gamma; with the best beta.

    Of all beta that allow gamma the largest, (1 - gamma) / (2 (1 + gamma)), gives the least bound.
    """
    sketch = PreconditionedPerm1(trig(5, 5))
    theorem = neighbourhood(sketch)
    xs = STEPS.tolist()
    exact = [theorem.floor(g) for g in xs]
    ends = [_followed(sketch, theorem, g) for g in xs]
    tightened = [theorem.bias + g * theorem.sigma2 for g in xs]
    printed = [_printed(theorem, g) for g in xs]
    rows = [
        *points("the measure's limit", "gamma", xs, ends, exact=exact, bound=printed),
        *points("tightened", "gamma", xs, tightened),
    ]
    ratios = [p / e for p, e in zip(printed, exact, strict=True) if p is not None]
    outcomes = [
        _all(
            "The printed floor is above the exact one at every step: least ratio", min(ratios), 1.0
        ),
        _all(
            "The tightened floor is between them: least ratio to the exact one",
            min(t / e for t, e in zip(tightened, exact, strict=True)),
            1.0,
        ),
    ]
    measure = "floor of the mean of ‖∇f(xᵏ)‖², norm L⁻¹"
    config = over("gamma", "step size γ", measure, bound_name="printed (19)")
    return Evidence("eq_19", config, rows, outcomes)


def _printed(theorem: Neighbourhood, gamma: float) -> float | None:
    if gamma >= 1:  # beta = 0, outside of the theorem
        return None
    beta = (1 - gamma) / (2 * (1 + gamma))
    return float((2 / beta * (1 - gamma) + gamma) * theorem.bias + gamma * theorem.sigma2)


def _followed(sketch: PreconditionedPerm1, theorem: Neighbourhood, gamma: float) -> float:
    """E of the measure after 40/gamma rounds."""
    far = expected_preconditioned(sketch, np.ones(sketch.dim), step_size=gamma)
    return next(now.of(theorem.form) for k, now in enumerate(far) if k >= 40 / gamma)


def _all(claim: str, least: float, claimed: float) -> Outcome:
    return Outcome(claim, "(19)", least, claimed, verdict(least >= claimed * (1 - 1e-9)))
