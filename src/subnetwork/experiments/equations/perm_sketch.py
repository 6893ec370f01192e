"""(5): Perm-q where n does not divide d, three ways to deal what is left over."""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.equations.points import over, points, zero
from subnetwork.experiments.evidence import Evidence
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.sketches import Dealt


def run(*, n_workers: int = 3, largest: int = 9) -> Evidence:
    """The largest entries of E C_i and of mean_i C_i, both 1 where all is well; all draws.

    Args:
        n_workers: n.
        largest: the largest d.
    """
    n, sizes = n_workers, range(n_workers, largest + 1)
    ours, unbiased, fixed = [], [], []
    for d in sizes:
        draws = list(every_draw(Dealt(Perm(n), d, "paper")))
        scale = np.array([p.scale for p in draws])
        ours.append(max(float(scale.mean(axis=0).max()), float(scale.mean(axis=1).max())))
        held = scale / n
        by_size = held * (d / held.sum(axis=2, keepdims=True))  # C_i = (d/|S_i|) P_i
        unbiased.append(float(by_size.mean(axis=1).max()))
        fixed.append(n * -(-d // n) / d)  # the first workers always hold one more
    xs = [float(d) for d in sizes]
    rows = [
        *points("C = nP, remainder to random workers", "d", xs, ours),
        *points("C = nP, fixed sizes: E Cᵢ", "d", xs, fixed),
        *points("C = (d/|Sᵢ|)P: mean of the Cᵢ", "d", xs, unbiased),
    ]
    off = max(abs(value - 1) for value in ours)
    claim = f"E C_i = I and mean_i C_i = I in every round (n={n}, d={n}..{largest})"
    measure = f"largest entry of E Cᵢ and of the mean of the Cᵢ (n = {n}; 1 is right)"
    config = over("d", "coordinates d", measure, n_workers=n)
    return Evidence("eq_5", config, rows, [zero(claim, "(5)", off)])
