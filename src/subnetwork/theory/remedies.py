"""Remedies that do not remove the bias of IST, so that a figure can show why they do not.

Step decay, momentum and averaging share the fixed point x_inf of the mean dynamics with IST; a
table of block gradients takes the noise away and leaves the bias; full rounds only dilute it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subnetwork.deals import Perm
from subnetwork.shapes import PerWorker, Vector
from subnetwork.theory.compressed import itself
from subnetwork.theory.methods import (
    Cut,
    Gradients,
    Method,
    Sending,
    block_cost,
    gathered,
)
from subnetwork.theory.modifications import Descent, send_block
from subnetwork.theory.problem import Problem
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.work import require_step_size


def step_decay(
    problem: Problem, x0: Vector, *, step_size: float, decay: float = 50.0
) -> Method[Vector]:
    """IST with gamma / (1 + k / decay) (F1): the noise goes, the bias stays."""
    n, d = problem.n_workers, problem.dim
    sketch = Sending(Dealt(Perm(n), d, "as trained"), send_block)
    merge = Descent(step_size, decay)
    work = Gradients(problem)
    return Method("step_decay", x0, sketch, work, merge, itself, lambda cut: block_cost(cut.draw))


@dataclass(frozen=True, eq=False)
class Moving:
    """The state of IST with momentum: the model and its velocity."""

    x: Vector
    velocity: Vector


def momentum(
    problem: Problem, x0: Vector, *, step_size: float, beta: float = 0.9
) -> Method[Moving]:
    """IST with heavy-ball momentum on the server (F2): v+ = beta v + g, x+ = x - gamma v+."""
    require_step_size(step_size)
    n, d = problem.n_workers, problem.dim

    def merge(state: Moving, cut: Cut[Moving], returned: Sequence[Vector]) -> Moving:
        velocity = beta * state.velocity + gathered(cut.draw, returned)
        return Moving(state.x - step_size * velocity, velocity)

    return Method(
        "momentum",
        Moving(x0, np.zeros(d)),
        Sending(Dealt(Perm(n), d, "as trained"), lambda s, cut, i: cut.draw.select(s.x, i)),
        Gradients(problem),
        merge,
        lambda state: state.x,
        lambda cut: block_cost(cut.draw),
    )


@dataclass(frozen=True, eq=False)
class Averaging:
    """The state of averaged IST: the model, and the mean of the models after round `after`."""

    x: Vector
    mean: Vector
    count: int


def averaged(
    problem: Problem, x0: Vector, *, step_size: float, after: int = 1000
) -> Method[Averaging]:
    """IST that reports the mean of its iterates after round `after` (F3; the iterate before)."""
    n, d = problem.n_workers, problem.dim
    step = Descent(step_size)

    def merge(state: Averaging, cut: Cut[Averaging], returned: Sequence[Vector]) -> Averaging:
        x = step(state.x, cut, returned)
        if cut.k < after:
            return Averaging(x, x, 0)
        count = state.count + 1
        mean = x if count == 1 else state.mean + (x - state.mean) / count
        return Averaging(x, mean, count)

    return Method(
        "averaged",
        Averaging(x0, x0, 0),
        Sending(Dealt(Perm(n), d, "as trained"), lambda s, cut, i: cut.draw.select(s.x, i)),
        Gradients(problem),
        merge,
        lambda state: state.mean,
        lambda cut: block_cost(cut.draw),
    )


@dataclass(frozen=True, eq=False)
class Tabled:
    """The state of IST with a table: the model, and row i: worker i's last block gradients."""

    x: Vector
    table: PerWorker


def block_table(problem: Problem, x0: Vector, *, step_size: float) -> Method[Tabled]:
    """IST with a table of block gradients at the server, as EF21 and SAG keep one (F4).

    Entry (i, j) of the table is the last [grad f_i(P_i x)]_j; x+ = x - gamma mean_i table_i. The
    entries were taken at submodels, so the mean of the table is biased as IST is.
    """
    require_step_size(step_size)
    n, d = problem.n_workers, problem.dim

    def merge(state: Tabled, cut: Cut[Tabled], returned: Sequence[Vector]) -> Tabled:
        table = np.where(cut.draw.scale != 0, np.stack(returned), state.table)
        return Tabled(state.x - step_size * table.mean(axis=0), table)

    return Method(
        "block_table",
        Tabled(x0, np.zeros((n, d))),
        Sending(Dealt(Perm(n), d, "as trained"), lambda s, cut, i: cut.draw.select(s.x, i)),
        Gradients(problem),
        merge,
        lambda state: state.x,
        lambda cut: block_cost(cut.draw),
    )


def full_rounds(
    problem: Problem, x0: Vector, *, step_size: float, period: int = 10
) -> Method[Vector]:
    """IST with a round of gradient descent every `period` rounds (F5)."""
    if period < 1:
        raise ValueError(f"A full round every period={period} rounds. Use period >= 1.")
    n, d = problem.n_workers, problem.dim
    is_full = lambda _, k: k % period == period - 1  # noqa: E731
    return Method(
        "full_rounds",
        x0,
        Sending(Dealt(Perm(n), d, "as trained"), send_block, is_full),
        Gradients(problem),
        Descent(step_size),
        itself,
        lambda cut: block_cost(cut.draw),
    )
