"""Many seeds of Algorithm 1 at once on quadratics, compiled; equal to `rounds` to rounding."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from subnetwork.deals import Perm
from subnetwork.shapes import Floats, Matrices, Vector
from subnetwork.theory import kernels
from subnetwork.theory.quadratics import Quadratics, require_quadratics
from subnetwork.theory.sketches import DiagonalSketch
from subnetwork.theory.work import GradientSteps

Form: TypeAlias = Literal["update", "merge", "holders"]
_FORMS = {"update": kernels.UPDATE, "merge": kernels.MERGE, "holders": kernels.HOLDERS}
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class Simulation:
    """What to run: a sketch that deals by Perm, a work and a merge.

    `form` names the merge: "update" is eq. (2), "merge" is eq. (4), "holders" is as trained.
    """

    sketch: DiagonalSketch
    work: GradientSteps
    form: Form

    @property
    def problem(self) -> Quadratics:
        """The problem of the work; raises ValueError unless it is dense quadratics."""
        return require_quadratics(self.work.problem, "The compiled simulation")


def simulate(
    simulation: Simulation,
    x0: Vector,
    *,
    measures: Matrices,
    seeds: Sequence[int],
    n_rounds: int,
    n_threads: int = 1,
) -> Floats:
    """Run every seed for `n_rounds` rounds and measure quadratics of the error e = x^k - x*.

    Args:
        simulation: problem, sketch, step size, local steps and merge.
        x0: where all seeds start.
        measures: the matrices A to report e' A e of, shape (m, d, d).
        seeds: one run each, the same draws as `rounds(..., seed=seed)`.
        n_rounds: K.
        n_threads: threads to share the seeds among; the numbers do not depend on it.

    Returns:
        e' A e, shape (seeds, K + 1, m): entry k is x^k, so entry 0 is x^0.

    Raises:
        ValueError: the sketch does not deal by Perm.
    """
    setup = _setup(simulation, x0, measures)
    keys = np.array([seed & _MASK64 for seed in seeds], dtype=np.uint64)
    out = np.empty((len(keys), n_rounds + 1, len(measures)))
    if n_threads == 1:
        kernels.simulate(setup, keys, out)
        return out
    chunks = np.array_split(np.arange(len(keys)), n_threads)
    with ThreadPoolExecutor(n_threads) as threads:
        jobs = [
            threads.submit(kernels.simulate, setup, keys[c], out[c[0] : c[-1] + 1])
            for c in chunks
            if len(c)
        ]
        for job in jobs:
            job.result()
    return out


def _setup(simulation: Simulation, x0: Vector, measures: Matrices) -> kernels.Setup:
    deal, problem, work = simulation.sketch.deal, simulation.problem, simulation.work
    if not isinstance(deal, Perm):
        raise ValueError(
            f"The compiled simulation deals by Perm, not by {deal}. Use `rounds`, or Perm."
        )
    weights = deal.weights or (1,) * deal.n_workers
    return kernels.Setup(
        L=np.ascontiguousarray(problem.L),
        b=np.ascontiguousarray(problem.b),
        scales=np.ascontiguousarray(simulation.sketch.scales),
        weights=np.array(weights, dtype=np.int64),
        x0=np.ascontiguousarray(x0),
        x_star=problem.minimiser,
        measures=np.ascontiguousarray(measures),
        step_size=float(work.step_size),
        n_steps=work.n_steps,
        form=_FORMS[simulation.form],
    )
