"""Where lines come from and go to: every rank finds it out by itself, from the draws."""

from dataclasses import dataclass

import numpy as np
import torch

from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.grid import Grid
from subnetwork.runtime.direct.held import apart, held_rows, kept
from subnetwork.runtime.direct.kernels import (
    UNKNOWN,
    Array,
    Idle,
    Kept,
    Row,
    last_keepers,
    look_back,
    tally,
)
from subnetwork.runtime.direct.rows import (
    at_home,
    columns_by_round,
    count_senders,
    doubled,
    find_senders,
    sets_of,
    tally_rows,
)
from subnetwork.runtime.direct.wire import Groups

CHUNK = 1 << 16  # lines


@dataclass(frozen=True)
class Route:
    """Where the lines of one table come from and go to, for one rank and one hand-over.

    That of a parameter, or of any tensor with the same table: `grid` says how long a line is.
    """

    grid: Grid
    kept: Kept
    leaving: Array  # lines for each worker
    starts: Array  # of the rows of the next idle lines
    n_echoes: int
    keepers: Array | None  # who sends each line of the next block; None where `senders` says it
    senders: Array | None  # (rows of the next block, workers, words): the lines of each
    arriving: Array  # lines from each worker; none from this rank itself
    unneeded: Array | None = None  # lines of the next block that nobody sends: another keeps them

    @property
    def lines_sent(self) -> int:
        """Lines that leave this rank, each counted once for every worker that gets it."""
        return int(self.leaving.sum())

    @property
    def lines_held(self) -> int:
        """Lines of the next block."""
        rows, cols = held_rows(self.kept.goal, self.kept.me)
        return len(rows) * len(cols)

    @property
    def same_shape(self) -> bool:
        """Whether the next block has as many rows and columns as the one of this round."""
        now, goal = (held_rows(masks, self.kept.me) for masks in (self.kept.now, self.kept.goal))
        return [len(lines) for lines in now] == [len(lines) for lines in goal]

    def groups_from(self, worker: int) -> Groups:
        """Which entries of the lines that a worker sends share a scale."""
        rows, cols = held_rows(self.kept.goal, self.kept.me)
        if self.senders is not None:
            counts = np.bitwise_count(self.senders[:, worker]).sum(axis=1, dtype=np.int64)
            every = np.repeat(rows, counts)
        else:
            assert self.keepers is not None
            every = np.repeat(rows, len(cols))[self.keepers == worker]
        return Groups.of(torch.as_tensor(every[: self.arriving[worker]]), self.grid)

    def scales_from(self, worker: int) -> int:
        """How many scales a worker sends with its lines."""
        return len(self.groups_from(worker).present())


def route(
    draws: Draws, name: str, k: int, rank: int, idle: Idle | None = None,
    *, by_keepers: bool = False,
) -> Route:  # fmt: skip
    """Who sends what to whom of one table between the rounds k and k + 1.

    Pure: every rank finds out by itself what it sends and what it gets, from the keyed draws and
    its own idle lines alone.

    Args:
        draws: the cuts of the run.
        name: a parameter that has it.
        k: the round that ends.
        rank: whose side.
        idle: its idle lines in round k.
        by_keepers: lines go to who will keep them in round k + 1 alone, not to all holders.
    """
    shared = not apart(draws.masks(name, k + 1))
    here = kept(draws, name, k, rank, idle, by_keepers=by_keepers and shared)
    return routed(draws, name, k, here)


def routed(draws: Draws, name: str, k: int, here: Kept) -> Route:
    """The route of what a rank keeps in round k to whoever is to get it."""
    grid, n = draws.grids[name], draws.n_workers
    leaving, starts = np.zeros(n, np.int64), np.zeros(grid.n_rows + 1, np.int64)
    if apart(here.now) and apart(here.goal):
        echoes = 0
        tally_rows(here, sets_of(here.goal, n), leaving, starts)
    else:
        echoes = tally(here, space(grid), leaving, starts)
    rows, cols = held_rows(here.goal, here.me)
    arriving, unneeded, senders = np.zeros(n, np.int64), None, None
    if not len(here.after.rows):
        senders = senders_of(draws, name, k, rows, sets_of(here.goal, n)[here.me])
    keepers = None
    if senders is None:
        keepers = keepers_of(draws, name, k, rows, cols)
        if len(here.after.rows):
            next_keepers = np.empty_like(keepers)
            last_keepers(here.goal, here.after, rows, cols, next_keepers)
            unneeded = next_keepers != here.me
            keepers[unneeded] = here.me  # as if they were there
        arriving += [np.count_nonzero(keepers == i) for i in range(n)]
    else:
        count_senders(senders, arriving)
    arriving[here.me] = 0
    return Route(grid, here, leaving, starts, echoes, keepers, senders, arriving, unneeded)


def senders_of(draws: Draws, name: str, k: int, rows: Array, cols: Array) -> Array | None:
    """Who keeps each of these lines after round k, as `keepers_of`, a word of columns at a time.

    Args:
        draws: the cuts of the run.
        name: the parameter.
        k: a round.
        rows: rows of its table, ascending.
        cols: columns, as bits.

    Returns:
        (rows, workers, words); None where lines had two holders in one of the rounds looked at.
    """
    senders = np.zeros((len(rows), draws.n_workers, len(cols)), np.uint64)
    left = np.tile(cols, (len(rows), 1))
    if not left.any():
        return senders
    for word in draws.history_words(k):
        history, newest = draws.history(name, k, word), min(k, 64 * word + 63) - 64 * word
        if doubled(history.rows) & doubled(history.cols):
            return None
        done = 0
        while done <= newest:  # few rounds at first: most lines were held lately
            sets = np.zeros((min(newest + 1 - done, 16), *senders.shape[1:]), np.uint64)
            columns_by_round(history.cols, newest - done, sets)
            if not find_senders(history.rows, newest - done, sets, rows, left, senders):
                return senders
            done += len(sets)
    at_home(rows, draws.grids[name].n_cols, left, senders)
    return senders


def keepers_of(draws: Draws, name: str, k: int, rows: Array, cols: Array) -> Array:
    """Who keeps each of these lines after round k: the last holder, or the first home of a line.

    Args:
        draws: the cuts of the run.
        name: the parameter.
        k: a round; `draws.start` - 1 asks for the homes.
        rows: rows of its table, ascending.
        cols: columns of its table, ascending.

    Returns:
        Workers, row by row.
    """
    keepers = np.full(len(rows) * len(cols), UNKNOWN, np.uint8)
    unknown = last_keepers(draws.masks(name, k), draws.masks(name, k + 1), rows, cols, keepers)
    for word in draws.history_words(k):
        if not unknown:
            return keepers
        unknown = look_back(draws.history(name, k, word), rows, cols, keepers)
    if unknown:
        table, n_cols = keepers.reshape(len(rows), len(cols)), draws.grids[name].n_cols
        step = max(1, CHUNK // len(cols))
        for first in range(0, len(rows), step):  # some lines at a time: their numbers are wide
            part = table[first : first + step]
            lines = rows[first : first + step, None] * n_cols + cols
            np.copyto(part, (lines % draws.n_workers).astype(np.uint8), where=part == UNKNOWN)
    return keepers


def space(grid: Grid) -> Row:
    """For the lines of one row."""
    return Row(np.empty(grid.n_cols, np.int64), np.empty(grid.n_cols, np.int64))
