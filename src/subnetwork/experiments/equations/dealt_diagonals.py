"""(27) and (28): the moments of Perm-1, and the step size that (28) allows."""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.equations.points import deviations, of_identities, over, points, zero
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import at_most
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.perm1 import BLB_28
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.stationary import growth
from subnetwork.theory.theorems import smallest_theta, stationary_points


def mean_B_27(*, largest: int = 6) -> Evidence:
    """|E B - n D| over all permutations, n = d = 2..`largest`; and the first version's n^2 D."""
    sizes, slides, first = list(range(2, largest + 1)), [], []
    for n in sizes:
        problem, sketch = trig(n, n), Dealt(Perm(n), n, "paper")
        e = estimator(problem, sketch)
        B = np.mean([drawn(e, p)[0] for p in every_draw(sketch)], axis=0)
        D = np.diag(problem.diagonals.mean(axis=0))
        slides.append(float(np.abs(B - n * D).max() / np.abs(B).max()))
        first.append(float(np.abs(B - n**2 * D).max() / np.abs(B).max()))
    rows = deviations("n D, (27)", "n", sizes, slides) + deviations("n² D, v1", "n", sizes, first)
    outcomes = [
        zero("E B = n D", "(27)", max(slides)),
        zero(
            "E B = n^2 D, as an intermediate line has it", "v1 before (27)", min(first)
        ).with_correction("E B = n D (27)", max(slides) < 1e-10),
    ]
    config = of_identities("n", "n = d", "deviation from E B, relative")
    return Evidence("eq_27", config, rows, outcomes)


def steps_28(*, n: int = 4, largest_ratio: float = 1000.0) -> Evidence:
    """The factor of E|x|^2 a round at 1/theta of (28) and of the exact moments.

    Args:
        n: workers and coordinates; L_1 = 4 I, and L_i = (4/r) I for the others.
        largest_ratio: of r, the axis.
    """
    ratios = np.geomspace(2, largest_ratio, 16).tolist()
    by_print, by_theta = [], []
    for r in ratios:
        L = np.array([4.0] + [4.0 / r] * (n - 1))[:, None, None] * np.eye(n)
        problem, sketch = Quadratics(L, np.zeros((n, n))), Dealt(Perm(n), n, "paper")
        theorem, e = stationary_points(problem, sketch), estimator(problem, sketch)
        printed = 1 / smallest_theta(BLB_28(problem), theorem.W)
        by_print.append(growth(e, step_size=printed))
        by_theta.append(growth(e, step_size=theorem.largest_step))
    rows = [
        *points("γ = 1/θ of (28)", "ratio", ratios, by_print),
        *points("γ = 1/θ, exact", "ratio", ratios, by_theta),
    ]
    claim = "gamma = 1/theta of (28) lets E|x|^2 not grow, at any ratio of the L_i: largest factor"
    row = at_most(claim, "(28)", max(by_print), 1.0)
    correction = f"With the exact theta the factor is at most {max(by_theta):.4g}"
    label = "ratio r of L₁ to the other Lᵢ"
    config = over("ratio", label, "factor of E‖x‖² a round", x_scale="log", floor=1.0)
    config |= {"floor_name": "1: above, it grows", "n_workers": n, "dim": n}
    return Evidence("eq_28", config, rows, [row.with_correction(correction, max(by_theta) <= 1)])
