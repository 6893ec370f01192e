"""Many seeds of Algorithm 1 at once on quadratics, compiled; equal to `rounds` to rounding.

What a seed computes depends on nothing but its own number: not on the seeds beside it, the number
of threads, the rounds that are looked at, or where a run was interrupted.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from subnetwork.deals import Deal, Perm
from subnetwork.keys import key
from subnetwork.shapes import Floats, Matrices, PerWorker, Vector
from subnetwork.theory.kernels import forms
from subnetwork.theory.plans import Plan, banded, dense, perm1
from subnetwork.theory.quadratics import Quadratics, require_quadratics
from subnetwork.theory.sketches import DiagonalSketch
from subnetwork.theory.work import GradientSteps, require_step_size

Form: TypeAlias = Literal["update", "merge", "holders"]


@dataclass(frozen=True)
class Simulation:
    """What to run: a sketch that deals by Full, Perm, RandQ or Bernoulli, a work and a merge.

    `form` names the merge: "update" is eq. (2), "merge" is eq. (4), "holders" is as trained.
    """

    sketch: DiagonalSketch
    work: GradientSteps
    form: Form

    @property
    def problem(self) -> Quadratics:
        """The problem of the work; raises ValueError unless it is dense quadratics."""
        return require_quadratics(self.work.problem, "The compiled simulation")

    @property
    def plan(self) -> Plan:
        """The compiled rounds of this; raises ValueError for a deal that has no compiled twin."""
        given = (self.sketch.scales, self.work.step_size, self.work.n_steps, self.form)
        deal, problem = self.sketch.deal, self.problem
        if _one_each(deal, problem.dim):
            return perm1(problem.diagonals, problem.b, deal, *given)
        return dense(problem, deal, *given)


@dataclass(frozen=True, eq=False)
class BandedSimulation:
    """The same for Perm on tridiagonal L_i, in O(d) numbers a round and no d x d array.

    Attributes:
        diag: diagonals of the L_i.
        off: [L_i]_{j,j+1}, one column less.
        b: the vectors b_i.
        scales: [C_i]_jj where held, such as `Dealt(...).scales`; or, one number for all, (1, 1).
        deal: a Perm.
        step_size: gamma.
        n_steps: local steps.
        form: the merge, as in `Simulation`.
    """

    diag: PerWorker
    off: Floats
    b: PerWorker
    scales: Floats
    deal: Perm
    step_size: float
    form: Form
    n_steps: int = 1

    def __post_init__(self) -> None:
        require_step_size(self.step_size)
        n, d = self.diag.shape
        if self.off.shape != (n, d - 1) or self.b.shape != (n, d):
            raise ValueError(
                f"diag of shape {self.diag.shape}, off of shape {self.off.shape} and b of shape "
                f"{self.b.shape} do not match: bands want (n, d), (n, d - 1) and (n, d)."
            )
        if self.scales.shape not in ((n, d), (1, 1)) or self.deal.n_workers != n:
            raise ValueError(
                f"scales of shape {self.scales.shape} and a deal over {self.deal.n_workers} "
                f"workers do not match {n} workers and d={d}: scales are (n, d) or (1, 1)."
            )
        self.deal.hands(d, seed=0, k=0)  # refuses now what could not be dealt later

    @property
    def plan(self) -> Plan:
        """The compiled rounds of this."""
        if _one_each(self.deal, self.diag.shape[1]):  # the bands take no part
            given = (self.scales, self.step_size, self.n_steps, self.form)
            return perm1(self.diag, self.b, self.deal, *given)
        arrays = (self.diag, self.off, self.b, self.scales)
        return banded(arrays, self.deal, self.step_size, self.n_steps, self.form)


def iterates(
    simulation: Simulation | BandedSimulation,
    x0: Floats,
    *,
    seeds: Sequence[int],
    at: Sequence[int],
    start: int = 0,
    n_threads: int = 1,
) -> Iterator[tuple[int, Floats]]:
    """Run every seed and yield (k, the x^k of all seeds, a row each) for every k in `at`.

    A run to 200 equals one to 100 and a second with `start=100` from the rows the first one
    reached, to the bit; so do more seeds, in any groups, and any number of threads.

    Args:
        simulation: what to run.
        x0: the x^start of all seeds, shape (d,), or of each, shape (seeds, d).
        seeds: one run each, the same draws as `rounds(..., seed=seed)`.
        at: rounds to stop at, ascending, none before `start`.
        start: the round of x0.
        n_threads: threads to share the seeds among.

    Raises:
        ValueError: `at` is not ascending from `start`, or the deal has no compiled twin.
    """
    require_ascending(at, start)
    plan = simulation.plan
    keys = np.array([key(seed) for seed in seeds], dtype=np.uint64)
    X = np.empty((len(keys), plan.dim))
    X[:] = x0
    parts = _parts(len(keys), plan.width, n_threads)
    with ThreadPoolExecutor(n_threads) as threads:
        each = map if n_threads == 1 else threads.map
        for k, stop in pairwise([start, *at]):
            span = np.array([k, stop])
            jobs = [(X[part], keys[part], span) for part in parts]
            list(each(lambda job: plan.advance(*job), jobs))
            yield stop, X.copy()


def simulate(
    simulation: Simulation,
    x0: Vector,
    *,
    measures: Matrices,
    seeds: Sequence[int],
    n_rounds: int,
    n_threads: int = 1,
    at: Sequence[int] | None = None,
) -> Floats:
    """Run every seed for `n_rounds` rounds and measure quadratics of the error e = x^k - x*.

    Args:
        simulation: problem, sketch, step size, local steps and merge.
        x0: where all seeds start.
        measures: the symmetric matrices A to report e' A e of, shape (m, d, d).
        seeds: one run each, the same draws as `rounds(..., seed=seed)`.
        n_rounds: K.
        n_threads: threads to share the seeds among; the numbers do not depend on it.
        at: the rounds to measure at, ascending; all, 0 to K, where None. A measure costs O(d^2)
            for every seed, often more than the round: ask for few, such as log-spaced ones.

    Returns:
        e' A e, shape (seeds, len(at), m): entry k is x^k, so entry 0 is x^0 where `at` is None.

    Raises:
        ValueError: the deal has no compiled twin, or `at` is not ascending within 0..K.
    """
    stops = range(n_rounds + 1) if at is None else at
    require_ascending(stops, 0)
    if len(stops) and stops[-1] > n_rounds:
        raise ValueError(f"at={stops[-1]} lies behind the last of n_rounds={n_rounds} rounds.")
    out = np.empty((len(seeds), len(stops), len(measures)))
    states = iterates(simulation, x0, seeds=seeds, at=stops, n_threads=n_threads)
    for a, (_, X) in enumerate(states):
        out[:, a] = measured(X - simulation.problem.minimiser, measures)
    return out


def running_means(
    simulation: Simulation,
    x0: Vector,
    *,
    measures: Matrices,
    seeds: Sequence[int],
    at: Sequence[int],
    n_threads: int = 1,
) -> Floats:
    """(1/K) sum_{k<K} e' A e at x^k for every K in `at`: the left sides of the theorems.

    Every round is measured, as it has to be; only the sums are kept.

    Returns:
        Shape (seeds, len(at), m).

    Raises:
        ValueError: as `simulate`, or a K below 1, over which there is no mean.
    """
    require_ascending(at, 1)
    total = np.zeros((len(seeds), len(measures)))
    out, column = np.empty((len(seeds), len(at), len(measures))), {K: a for a, K in enumerate(at)}
    last = range(max(at, default=0))
    for k, X in iterates(simulation, x0, seeds=seeds, at=last, n_threads=n_threads):
        total += measured(X - simulation.problem.minimiser, measures)
        if k + 1 in column:
            out[:, column[k + 1]] = total / (k + 1)
    return out


def measured(errors: Floats, measures: Matrices) -> Floats:
    """Forms e' A e for every row e and every symmetric A, shape (rows, m)."""
    out = np.empty((len(errors), len(measures)))
    column = np.empty(len(errors))
    for a, A in enumerate(measures):
        forms.quadratic_forms(np.ascontiguousarray(A), errors, column)
        out[:, a] = column
    return out


def require_ascending(at: Sequence[int], start: int) -> None:
    """Raise ValueError unless `at` ascends from `start` or later."""
    for before, k in zip([start - 1, *at], at, strict=False):
        if k <= before:
            raise ValueError(
                f"Rounds are run in order, but at={k} follows {before}. Give ascending rounds, "
                f"none before {start}."
            )


def _one_each(deal: Deal, dim: int) -> bool:
    return isinstance(deal, Perm) and deal.n_workers == dim


def _parts(n_seeds: int, width: int, n_threads: int) -> list[slice]:
    """Seeds that run in lockstep: as many as share a cache well, and work for every thread."""
    size = max(1, min(width, -(-n_seeds // n_threads)))
    return [slice(first, first + size) for first in range(0, n_seeds, size)]
