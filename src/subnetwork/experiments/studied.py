"""`study` as an experiment: what all theorems say of a sketch on a problem, and its exact curve."""

import numpy as np

from subnetwork.experiments import evidence, runs
from subnetwork.experiments.equations.points import points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.study import Study, study
from subnetwork.theory.theorem_a import TheoremA, theorem_a
from subnetwork.theory.verdicts import Verdict

NAME = "study"


def run(
    problem: Quadratics | None = None,
    *,
    sketch: str = "ist",
    step_size: float | None = None,
    n_rounds: int = 200,
) -> Evidence:
    """Ask `study`, and follow E f(x^k) - f* and E|x^k - x_inf|^2 from x^0 = (1, ..., 1).

    Args:
        problem: quadratics with a definite L_bar and d <= 200; trig(4, 16) where None.
        sketch: a name in `declared.DECLARED`.
        step_size: gamma; the largest that a speaking theorem allows where None.
        n_rounds: K.

    Returns:
        The exact curves with the bound of theorem A where it speaks, floor and bias as lines; a
        verdict a theorem.

    Raises:
        ValueError: as `study`, or more coordinates than exact curves are meant for.
    """
    found = study(trig(4, 16) if problem is None else problem, sketch, step_size=step_size)
    ks, problem, gamma = runs.marks(n_rounds), found.problem, found.step_size
    x0 = np.ones(problem.dim)
    gaps = found.curve(x0, n_rounds)[ks, 0].tolist()
    theorem = theorem_a(found.linear)
    rows = points("exact E f(xᵏ) − f*", "k", ks, gaps, bound=_bounds(found, theorem, ks))
    rows += points("bias f(x∞) − f*", "k", ks, [found.bias] * len(ks))
    config = {
        "figure": "curves",
        "measure": f"f(xᵏ) − f*, sketch {sketch}, γ = {gamma:.4g}",
        "bound_name": "theorem A",
        "floor": found.floor,
        "floor_name": "exact floor",
        **evidence.sizes(problem, n_rounds=n_rounds),
        "sketch": sketch,
        "step_size": gamma,
        "largest_stable_step": found.stable_step,
        "table": str(found),
    }
    return Evidence(NAME, config, rows, [_said(v, gamma) for v in found.verdicts])


def _bounds(found: Study, theorem: TheoremA, ks: list[int]) -> list[float | None]:
    """On f - f*, by (|x - x_inf| + |x_inf - x*|)^2 lambda_max / 2; None where A does not speak.

    E(a + c)^2 <= (sqrt(E a^2) + c)^2 for a = |x^k - x_inf| and a number c.
    """
    gamma = found.step_size
    if theorem.check() or gamma > theorem.largest_step * (1 + 1e-12):
        return [None] * len(ks)
    off = float(np.linalg.norm(found.x_inf - found.problem.minimiser))
    steep = float(np.linalg.eigvalsh(found.problem.L_bar)[-1])
    start = float(np.sum((1 - found.x_inf) ** 2))
    return [(np.sqrt(theorem.bound(start, gamma, k)) + off) ** 2 * steep / 2 for k in ks]


def _said(v: Verdict, step_size: float) -> Outcome:
    """What a theorem says: its largest step beside the one taken, or that it is silent."""
    claim = f"{v.equations} speaks of {v.measured}, for steps up to the claimed one"
    if v.largest_step is None:
        why = "; ".join(v.silent)
        return Outcome(f"{v.equations} is silent: {why}", v.equations, step_size, None, "silent")
    if step_size > v.largest_step * (1 + 1e-12):
        return Outcome(claim, v.equations, step_size, v.largest_step, "silent")
    return Outcome(claim, v.equations, step_size, v.largest_step, "holds", record=NAME)
