"""What one rank holds of a model: its subnetwork, and its share of what nobody trains now."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from subnetwork.nets.state import Submodel, Tensors
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.grid import Grid, Table
from subnetwork.runtime.direct.kernels import Array, Idle, Kept, Masks
from subnetwork.runtime.direct.memory import LARGE, Spare, room
from subnetwork.runtime.direct.rows import n_words
from subnetwork.runtime.memory import give_back

PARAMS = ""
"""The plane of the parameters; a plane of moments has the moment's name."""
OUTER = "::outer"
"""The plane of the momentum of the merge's own step, named as no optimizer's state is: local work
does not know it, and no mean is taken of it."""
NOBODY = Masks(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
Planes: TypeAlias = Mapping[str, Tensors]
"""Plane -> parameter -> tensor."""


class Member(NamedTuple):
    """One of the tensors that make up a part: a parameter, or a moment of it."""

    plane: str
    name: str


@dataclass(frozen=True)
class Share:
    """Lines of one parameter that a rank keeps though nobody trains them now."""

    lines: Idle
    values: Tensors  # plane -> (lines, length)


@dataclass(frozen=True)
class Held:
    """One rank's part of the model at the start of round k: w_i, and its share of the rest."""

    k: int
    submodel: Submodel
    shares: Mapping[str, Share]
    x: Planes = field(default_factory=dict)
    """Values, as (lines, length), of the lines that several workers were given: what a mean over
    holders is taken around."""
    before: Tensors = field(default_factory=dict)
    """x^k of what this rank trains, between local work and a merge that steps from it."""
    spare: Spare | None = field(default=None, compare=False, repr=False)
    """Memory for the hand-over to use, if there is any, between local work and it."""

    @property
    def n_bytes(self) -> int:
        """Bytes that are stored here between two rounds, the index of idle lines included."""
        tensors = list(self.submodel.tensors())
        tensors += [t for share in self.shares.values() for t in share.values.values()]
        tensors += [t for plane in self.x.values() for t in plane.values()]
        lines = {id(share.lines): share.lines for share in self.shares.values()}  # some are shared
        index = sum(each.words.nbytes + each.starts.nbytes for each in lines.values())
        return index + sum(t.numel() * t.element_size() for t in tensors)


@dataclass(frozen=True)
class Loose:
    """A part in pieces, to be let go of one by one, or put together."""

    blocks: dict[Member, Tensor] = field(default_factory=dict)
    idle: dict[Member, Tensor] = field(default_factory=dict)
    index: dict[str, Idle] = field(default_factory=dict)

    @classmethod
    def of(cls, held: Held) -> "Loose":
        """The pieces of a part."""
        shares = held.shares.items()
        idle = {Member(p, name): t for name, share in shares for p, t in share.values.items()}
        index = {name: share.lines for name, share in shares}
        return cls(by_member(planes(held.submodel)), idle, index)

    def together(self, draws: Draws, rank: int, k: int, of_planes: Sequence[str]) -> Held:
        """The part of a rank at the start of round k, of tensors as (lines, length)."""
        blocks: dict[str, dict[str, Tensor]] = {plane: {} for plane in of_planes}
        waiting: dict[str, dict[str, Tensor]] = {name: {} for name in draws.like}
        for name in draws.like:
            holds = draws.partition(k).holds(name, rank)
            shape = block_shape(draws, name, k, rank) if holds else ()
            for member in (Member(plane, name) for plane in of_planes):
                if holds and member in self.blocks:
                    blocks[member.plane][name] = self.blocks[member].view(shape)
                if name in self.index and member in self.idle:
                    waiting[name][member.plane] = self.idle[member]
        shares = {name: Share(self.index[name], of) for name, of in waiting.items() if of}
        return with_x(draws, rank, Held(k, submodel_of(blocks), shares))


def by_member(of_planes: Planes) -> dict[Member, Tensor]:
    """Tensors by plane and name."""
    return {Member(p, name): t for p, tensors in of_planes.items() for name, t in tensors.items()}


def planes(submodel: Submodel) -> Planes:
    """The tensors of a submodel by plane, in the order in which they travel."""
    return {PARAMS: submodel.params, **submodel.moments}


def submodel_of(tensors: Planes) -> Submodel:
    """The submodel of these planes."""
    moments = {plane: t for plane, t in tensors.items() if plane != PARAMS}
    return Submodel(tensors[PARAMS], moments)


def as_lines(tensor: Tensor, grid: Grid) -> Tensor:
    """A tensor of a parameter, whole or a block, as (lines, length)."""
    return tensor.contiguous().view(-1, grid.length)


def bits(tensor: Tensor) -> Array:
    """The memory of (lines, length) as whole numbers, to be moved unread; four bytes if possible.

    Fewer types are fewer kernels to compile.
    """
    words = tensor.element_size() * tensor.shape[1] % 4 == 0 and tensor.element_size() > 1
    sizes = {1: torch.uint8, 2: torch.int16}
    return tensor.view(torch.int32 if words else sizes[tensor.element_size()]).numpy()


def held_rows(masks: Masks, worker: int) -> tuple[Array, Array]:
    """The rows and columns of a worker, ascending."""
    bit = np.uint64(1 << worker)
    return np.flatnonzero(masks.rows & bit), np.flatnonzero(masks.cols & bit)


def block_shape(draws: Draws, name: str, k: int, worker: int) -> tuple[int, ...]:
    """The shape of a parameter in the subnetwork of a worker; it has to hold the parameter."""
    return tuple(draws.partition(k).entries(name, draws.like[name], worker).shape)


def kept(
    draws: Draws, name: str, k: int, rank: int, idle: Idle | None, goal: Masks | None = None,
    *, by_keepers: bool = False,
) -> Kept:  # fmt: skip
    """Which lines of a parameter a rank keeps in round k, and who is to get them next.

    All who hold them then; with `by_keepers`, of these who will keep them.
    """
    now, then = draws.masks(name, k), draws.masks(name, k + 1)
    idle = no_lines(draws.grids[name]) if idle is None else idle
    cols = held_rows(now, rank)[1]
    mine = as_words((now.cols & np.uint64(1 << rank))[None] != 0)[0]
    after = draws.masks(name, k + 2) if by_keepers else NOBODY
    return Kept(rank, now, then, then if goal is None else goal, after, mine, len(cols), idle)


def no_lines(grid: Grid) -> Idle:
    """An empty index of a grid."""
    words = np.zeros((grid.n_rows, n_words(grid.n_cols)), np.uint64)
    return Idle(np.zeros(grid.n_rows + 1, np.int64), words)


def as_words(chosen: Array) -> Array:
    """(rows, columns) of bool as (rows, words) of bits."""
    packed = np.packbits(chosen, axis=1, bitorder="little")
    room = np.zeros((len(chosen), 8 * n_words(chosen.shape[1])), np.uint8)
    room[:, : packed.shape[1]] = packed
    return room.view("<u8").astype(np.uint64, copy=False)


def taken(
    draws: Draws, rank: int, k: int, whole: Iterable[tuple[str, Mapping[str, Tensor]]],
    *, emptied: bool = False,
) -> Held:  # fmt: skip
    """A rank's part at the start of a run, out of parameters that come one after another.

    A line that nobody holds in round k starts with worker (line mod n).

    Args:
        draws: the cuts of the run, with `start` = k.
        rank: whose part.
        k: the first round.
        whole: parameter, and plane -> its whole tensor. None is kept longer than its turn.
        emptied: whether tensors may lose their values: rows that were looked at give their memory
            back, where there is much of it. No two of them may share memory.
    """
    params: dict[str, dict[str, Tensor]] = {}
    shares: dict[str, Share] = {}
    for name, tensors in whole:
        grid, now = draws.grids[name], draws.masks(name, k)
        lines = _lines_at_home(grid, now, rank, draws.n_workers)
        values = {}
        for plane, tensor in tensors.items():
            table = tensor.detach().contiguous().view(grid.n_rows, grid.n_cols, grid.length)
            block, values[plane] = _picked(held_rows(now, rank), lines, table, emptied=emptied)
            of_plane = params.setdefault(plane, {})
            if draws.partition(k).holds(name, rank):
                of_plane[name] = block.view(block_shape(draws, name, k, rank))
        if lines.starts[-1]:
            shares[name] = Share(lines, values)
    return with_x(draws, rank, Held(k, submodel_of(params), shares))


def _lines_at_home(grid: Grid, now: Masks, rank: int, n_workers: int) -> Idle:
    """Of lines that nobody holds, those that start with a rank."""
    starts = np.zeros(grid.n_rows + 1, np.int64)
    words = np.zeros((grid.n_rows, n_words(grid.n_cols)), np.uint64)
    columns = np.arange(grid.n_cols)
    for u in range(grid.n_rows):  # a row at a time: the table may be large
        own = (now.rows[u] & now.cols == 0) & ((u * grid.n_cols + columns) % n_workers == rank)
        words[u] = as_words(own[None])[0]
        starts[u + 1] = starts[u] + np.count_nonzero(own)
    return Idle(starts, words)


def _picked(
    own: tuple[Array, Array], lines: Idle, table: Tensor, *, emptied: bool
) -> tuple[Tensor, Tensor]:
    """Values of a block, and of idle lines, out of a whole tensor as (rows, columns, length).

    Some rows at a time, whose memory goes back with `emptied`: tensor and part are never there
    together.
    """
    (n_rows, n_cols, length), dtype = table.shape, table.dtype
    rows, cols = own[0], torch.as_tensor(own[1])
    block = room((len(rows) * len(cols), length), dtype)
    waiting = room((int(lines.starts[-1]), length), dtype)
    by_rows = block.view(len(rows), len(cols), length)
    n_bytes = n_cols * length * table.element_size()
    at_once = max(1, LARGE // max(1, n_bytes))
    for first in range(0, n_rows, at_once):
        last = min(first + at_once, n_rows)
        start, end = np.searchsorted(rows, (first, last))
        if start < end:
            chunk = table.index_select(0, torch.as_tensor(rows[start:end]))
            torch.index_select(chunk, 1, cols, out=by_rows[start:end])
        if lines.starts[first] < lines.starts[last]:
            bytes_of = lines.words[first:last].view(np.uint8)
            bits = np.unpackbits(bytes_of, axis=1, count=n_cols, bitorder="little")
            chosen = torch.as_tensor(bits.astype(bool)).view(-1)
            idle = table[first:last].view(len(chosen), length)[chosen]
            waiting[lines.starts[first] : lines.starts[last]] = idle
        if emptied:
            give_back(table.data_ptr() + first * n_bytes, (last - first) * n_bytes)
    return block, waiting


def with_x(draws: Draws, rank: int, held: Held) -> Held:
    """The part with copies of the lines that several workers hold."""
    x: dict[str, dict[str, Tensor]] = {}
    of_tables: dict[Table, Tensor] = {}
    for (plane, name), tensor in by_member(planes(held.submodel)).items():
        grid = draws.grids[name]
        if grid.table not in of_tables:
            of_tables[grid.table] = torch.as_tensor(shared_lines(draws, name, held.k, rank))
        shared = of_tables[grid.table]
        if plane != OUTER and len(shared):
            x.setdefault(plane, {})[name] = as_lines(tensor, grid)[shared]
    return Held(held.k, held.submodel, held.shares, x)


def holders_of_block(draws: Draws, name: str, k: int, rank: int) -> Array:
    """The word of holders of every line of a rank's block, row-major."""
    now = draws.masks(name, k)
    rows, cols = held_rows(now, rank)
    return (now.rows[rows][:, None] & now.cols[cols]).reshape(-1)


def shared_lines(draws: Draws, name: str, k: int, rank: int) -> Array:
    """The places in a rank's block of the lines that others hold too."""
    if apart(draws.masks(name, k)):
        return np.empty(0, np.int64)
    return np.flatnonzero(np.bitwise_count(holders_of_block(draws, name, k, rank)) > 1)


def apart(masks: Masks) -> bool:
    """Whether no line has two holders, as far as rows or columns alone tell."""
    return any(bool((np.bitwise_count(words) <= 1).all()) for words in masks)
