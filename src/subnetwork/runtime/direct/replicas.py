"""What brings a dead rank's part back: what others sent it, and a replica of what it kept itself.

A rank's part at the start of round k came from two sides. What other ranks sent, they keep: the
bytes of their posts. What it kept itself - lines of its block that it was the keeper of (of the
merge's momentum, that it keeps on), and lines that nobody trains - its neighbour (rank + 1) mod n
gets a replica of, of which idle lines travel once, when they become idle. So a dead rank's part is
put together by the survivors, to the bit.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from subnetwork.nets.state import Tensors
from subnetwork.runtime.direct.bundles import travelling
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.held import (
    OUTER,
    PARAMS,
    Held,
    apart,
    as_lines,
    as_words,
    held_rows,
    kept,
    no_lines,
    planes,
)
from subnetwork.runtime.direct.kernels import Array, Idle, Row, among, left_over
from subnetwork.runtime.direct.links import Exchange, Parcels
from subnetwork.runtime.direct.memory import room
from subnetwork.runtime.direct.routing import keepers_of, senders_of
from subnetwork.runtime.direct.rows import sets_of
from subnetwork.runtime.direct.wire import raw, read

ROWS = 256  # of a table whose keepers are looked up at once


@dataclass(frozen=True)
class Replica:
    """What a rank kept itself in the hand-over into round k, on its neighbour."""

    k: int
    of: int
    lines: Mapping[str, Idle]
    """Its idle lines in round k: every parameter's, the index of those that have some."""
    idle: Mapping[str, Tensors] = field(default_factory=dict)
    """Parameter -> plane -> their values."""
    own: Mapping[str, Tensors] = field(default_factory=dict)
    """Parameter -> plane -> the lines of its block that it sent itself, by `own_lines`."""
    whole: bool = False
    """Whether the values are there; before, only the index is."""

    @property
    def n_bytes(self) -> int:
        """Bytes that are stored for it, the index included."""
        values = [t for each in (self.idle, self.own) for of in each.values() for t in of.values()]
        index = sum(of.words.nbytes + of.starts.nbytes for of in self.lines.values())
        return index + sum(t.numel() * t.element_size() for t in values)


def neighbour(rank: int, n_workers: int) -> int:
    """Who has the replica of what a rank keeps."""
    return (rank + 1) % n_workers


def unknown(draws: Draws, k: int, of: int) -> Replica:
    """The replica before anything has come for it, in round k: an index, found by the draws."""
    lines = {name: idle_lines(draws, name, k, of) for name in draws.like}
    return Replica(k, of, {name: index for name, index in lines.items() if index.starts[-1]})


def idle_lines(draws: Draws, name: str, k: int, rank: int) -> Idle:
    """The lines of a parameter that nobody holds in round k and this rank keeps, by looking back.

    It takes as long as looking up all keepers: at the start, and where a rank has died.
    """
    grid, now = draws.grids[name], draws.masks(name, k)
    words, columns = no_lines(grid).words, np.arange(grid.n_cols)
    for first in range(0, grid.n_rows, ROWS):
        rows = np.arange(first, min(first + ROWS, grid.n_rows))
        keepers = keepers_of(draws, name, k, rows, columns).reshape(len(rows), -1)
        nobodys = now.rows[rows][:, None] & now.cols == 0
        words[rows] = as_words(nobodys & (keepers == rank))
    counts = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
    return Idle(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), words)


def own_lines(draws: Draws, name: str, k: int, rank: int, plane: str = PARAMS) -> Tensor:
    """The places in a rank's block of round k of the lines that it kept itself, of one plane.

    Of the momentum of the merge's step those that it keeps on: others have no value here.
    """
    goal = draws.masks(name, k)
    rows, cols = held_rows(goal, rank)
    senders = senders_of(draws, name, k - 1, rows, sets_of(goal, draws.n_workers)[rank])
    if senders is None:
        own = np.flatnonzero(keepers_of(draws, name, k - 1, rows, cols) == rank)
    else:
        words = np.ascontiguousarray(senders[:, rank]).view(np.uint8)
        own = np.flatnonzero(np.unpackbits(words, axis=1, bitorder="little")[:, cols])
    if plane == OUTER and not apart(goal):
        own = own[keepers_of(draws, name, k, rows, cols)[own] == rank]
    return torch.as_tensor(own)


def replicated(
    draws: Draws, rank: int, held: Held, known: Mapping[str, Idle], other: Replica
) -> Exchange[Replica]:
    """Send the neighbour what this rank kept itself in the hand-over; get the other neighbour's.

    Args:
        draws: the cuts of the run.
        rank: whose side.
        held: its part at the start of a round, untrained.
        known: its idle lines of the round before, as far as its neighbour has their values.
        other: the replica of the round before of rank - 1's lines, here.

    Returns:
        The replica of rank - 1's lines.
    """
    k, to, of = held.k, neighbour(rank, draws.n_workers), other.of
    parcels, have = Parcels.of(draws.n_workers), planes(held.submodel)
    coming = {name: _coming(draws, name, k, other, have) for name in draws.like}
    arrived: dict[tuple[str, str], Tensor] = {}
    nothing = torch.empty(0, dtype=torch.uint8)
    for name, each in coming.items():
        leaving = _leaving(draws, rank, held, name, known.get(name))
        for plane, _ in travelling(draws, have, name, "float32"):
            sizes, out = [0] * draws.n_workers, [nothing] * draws.n_workers
            out[to] = raw(leaving[plane])
            line = draws.grids[name].length * draws.like[name].element_size()
            sizes[of] = line * (each.n_own[plane] + int(each.fresh.sum()))
            arrived[plane, name] = parcels.add(out, sizes)
    yield parcels.post()
    own: dict[str, dict[str, Tensor]] = {}
    idle: dict[str, dict[str, Tensor]] = {}
    for (plane, name), sent in arrived.items():
        each, like, length = coming[name], draws.like[name], draws.grids[name].length
        values = read(sent, like.dtype).view(-1, length)
        own.setdefault(name, {})[plane] = values[: each.n_own[plane]].clone()
        lines = room((len(each.fresh), length), like.dtype)
        fresh = torch.as_tensor(each.fresh)
        lines[fresh] = values[each.n_own[plane] :]
        if not fresh.all():
            lines[~fresh] = other.idle[name][plane][torch.as_tensor(each.stays)]
        idle.setdefault(name, {})[plane] = lines
    index = {name: each.lines for name, each in coming.items() if each.lines.starts[-1]}
    return Replica(k, of, index, {n: idle[n] for n in index}, own, whole=True)


@dataclass(frozen=True)
class _Coming:
    """What is to come for a replica of one parameter."""

    lines: Idle  # idle lines now
    fresh: Array  # which of them come
    stays: Array  # which of those of the round before stay
    n_own: Mapping[str, int]  # by plane


def _coming(draws: Draws, name: str, k: int, other: Replica, of_planes: Collection[str]) -> _Coming:
    grid, then = draws.grids[name], draws.masks(name, k)
    before = other.lines.get(name, no_lines(grid))
    words, space = no_lines(grid).words, np.empty(grid.n_cols, np.int64)
    left_over(kept(draws, name, k - 1, other.of, before, then), Row(space, space.copy()), words)
    starts = np.zeros(grid.n_rows + 1, np.int64)
    starts[1:] = np.cumsum(np.bitwise_count(words).sum(axis=1, dtype=np.int64))
    fresh = np.ones(int(starts[-1]), bool)
    if other.whole:
        fresh = ~_among(words, before.words, len(fresh))
    stays = _among(before.words, words, int(before.starts[-1]))
    n_own = dict.fromkeys(of_planes, len(own_lines(draws, name, k, other.of)))
    if OUTER in of_planes:
        n_own[OUTER] = len(own_lines(draws, name, k, other.of, OUTER))
    return _Coming(Idle(starts, words), fresh, stays, n_own)


def _leaving(
    draws: Draws, rank: int, held: Held, name: str, known: Idle | None
) -> dict[str, Tensor]:
    """Plane -> the lines of one parameter that its replica lacks."""
    grid, share, have = draws.grids[name], held.shares.get(name), planes(held.submodel)
    own = own_lines(draws, name, held.k, rank)
    fresh = np.empty(0, bool)
    if share is not None:
        fresh = np.ones(int(share.lines.starts[-1]), bool)
        if known is not None:
            fresh = ~_among(share.lines.words, known.words, len(fresh))
    found = {}
    for plane, _ in travelling(draws, have, name, "float32"):
        parts = [torch.empty((0, grid.length), dtype=draws.like[name].dtype)]
        if name in have[plane]:
            places = own_lines(draws, name, held.k, rank, OUTER) if plane == OUTER else own
            parts.append(as_lines(have[plane][name], grid)[places])
        if share is not None:
            parts.append(share.values[plane][torch.as_tensor(fresh)])
        found[plane] = torch.cat(parts)
    return found


def _among(words: Array, others: Array, n_lines: int) -> Array:
    """For each of these lines, in order, whether it is one of the others."""
    flags = np.zeros(n_lines, bool)
    among(words, others, flags)
    return flags
