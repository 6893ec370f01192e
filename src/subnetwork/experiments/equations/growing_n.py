"""First version, after (28): does the bias of (12) diminish as n = d grows?"""

import numpy as np

from subnetwork.experiments.equations.points import over, points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.first_version import correlated
from subnetwork.experiments.outcome import at_most, equal
from subnetwork.theory.perm1 import h_17
from subnetwork.theory.sketches import PreconditionedPerm1


def run(*, sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128)) -> Evidence:
    """|x_inf - x*| / |x*| for L_i = 0.7 I + 0.3 11', b_i = (-1)^j: of (12), and of IST.

    Args:
        sizes: n = d, even.
    """
    scaled, length, ist = [], [], []
    for n in sizes:
        problem = correlated(n)
        x, h = problem.minimiser, h_17(PreconditionedPerm1(problem))
        size = float(np.linalg.norm(x))
        scaled.append(float(np.linalg.norm(h)) / size)
        length.append(float(np.linalg.norm(x - h)) / size)
        ist.append(float(np.linalg.norm(problem.b_bar / np.diag(problem.L_bar) - x)) / size)
    exact = [1 - 0.7 / np.sqrt(n) for n in sizes]
    xs = [float(n) for n in sizes]
    rows = [
        *points("(12): ‖x∞ − x*‖", "n", xs, scaled, exact=exact),
        *points("(12): ‖x∞‖", "n", xs, length),
        *points("IST: ‖x∞ − x*‖", "n", xs, ist),
    ]
    off = max(abs(a - b) for a, b in zip(scaled, exact, strict=True))
    claim = f"|x_inf - x*|/|x*| shrinks as n = d grows: n = {sizes[-1]} against n = {sizes[0]}"
    outcomes = [
        at_most(claim, "v1 after (28)", scaled[-1], scaled[0]).with_correction(
            "x_inf tends to 0 while x* does not: 1 - 0.7/sqrt(n) here", off < 1e-10
        ),
        equal("IST stays at 0.3 for every n", "v1 after (28)", max(ist), min(ist)),
    ]
    config = over("n", "n = d", "relative to ‖x*‖", x_scale="log")
    return Evidence("growing_n", config, rows, outcomes)
