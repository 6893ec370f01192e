"""(9)-(11): on quadratics the estimator of a round is g = B x - u, whatever is drawn."""

import numpy as np

from subnetwork.experiments.equations.points import deviations, of_identities, zero
from subnetwork.experiments.evidence import Evidence
from subnetwork.shapes import Vector
from subnetwork.theory.declared import DECLARED
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator, share
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt, DiagonalPartition, PreconditionedPerm1

NAMES = {"perm": "Perm-1 (5)", "ist": "IST", "preconditioned_perm1": "precond. (12)"}


def run(*, largest: int = 5, seed: int = 0) -> Evidence:
    """The largest deviation over all draws for n = d = 2..`largest`; `seed` draws x."""
    rows, outcomes, sizes = [], [], list(range(2, largest + 1))
    for name, label in NAMES.items():
        off = []
        for n in sizes:
            x = np.random.default_rng(seed).standard_normal(n)
            problem = trig(n, n)
            sketch = DECLARED[name].build(problem)
            assert isinstance(sketch, Dealt | PreconditionedPerm1)
            e, s = estimator(problem, sketch), share(sketch)
            gaps = []
            for p in every_draw(sketch):
                B, u = drawn(e, p)
                gaps.append(np.abs(_by_3(problem, p, x, s) - (B @ x - u)).max())
            off.append(float(max(gaps)))
        rows += deviations(label, "n", sizes, off)
        outcomes.append(zero(f"g = B x - u in every round ({label})", "(9)-(11)", max(off)))
    config = of_identities("n", "n = d", "largest |g − (Bx − u)| over all draws")
    return Evidence("eq_9_11", config, rows, outcomes)


def _by_3(problem: Quadratics, p: DiagonalPartition, x: Vector, share: float) -> Vector:
    """The merged g of eq. (3), from the f_i themselves."""
    n = problem.n_workers
    each = [p.pull(problem.worker_gradient(i, p.select(x, i)), i) for i in range(n)]
    return np.asarray(share * np.sum(each, axis=0))
