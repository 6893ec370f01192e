"""(12), (17): f -> c f leaves x* alone; does it leave the limit of the method alone?"""

import numpy as np

from subnetwork.experiments.equations.points import over, points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import equal
from subnetwork.theory.curves import fixed_point
from subnetwork.theory.declared import DECLARED
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.study import linear_of

NAMES = {"(12)": "preconditioned_perm1", "Jacobi": "jacobi", "IST": "ist"}


def run() -> Evidence:
    """|x_inf - x*| / |x*| on c f, f = trig(5, 5), for three sketches."""
    problem, factors = trig(5, 5), np.geomspace(0.01, 100, 41).tolist()
    size = float(np.linalg.norm(problem.minimiser))
    found: dict[str, list[float]] = {}
    for label, name in NAMES.items():
        found[label] = []
        for c in factors:
            scaled = Quadratics(c * problem.L, c * problem.b)
            linear, _ = linear_of(scaled, DECLARED[name].build(scaled))
            off = fixed_point(linear) - problem.minimiser
            found[label].append(float(np.linalg.norm(off)) / size)
    rows = [row for label, ys in found.items() for row in points(label, "c", factors, ys)]
    claim = "The limit of {} does not depend on the units of f: c = 100 against c = 0.01"
    outcomes = [
        equal(claim.format(label), "(12), (17)", ys[-1], ys[0]) for label, ys in found.items()
    ]
    outcomes[0] = outcomes[0].with_correction(
        "It does: use IST or the Jacobi scheme, whose limits do not",
        all(row.stands for row in outcomes[1:]),
    )
    config = over("c", "c, where the problem is c f", "‖x∞ − x*‖ / ‖x*‖", x_scale="log")
    return Evidence("units", config, rows, outcomes)
