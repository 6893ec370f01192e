"""Line 3 without a coordinator: every line goes from its keeper to those who hold it next, once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from subnetwork.runtime.direct.bundles import Bundle, bundles, travelling
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.held import (
    Held,
    Loose,
    apart,
    as_lines,
    bits,
    held_rows,
    kept,
    no_lines,
    planes,
)
from subnetwork.runtime.direct.kernels import (
    Array,
    Idle,
    Lines,
    Masks,
    Next,
    Sent,
    deal_out,
    take_in,
)
from subnetwork.runtime.direct.lanes import are_quick
from subnetwork.runtime.direct.links import Exchange, Parcels
from subnetwork.runtime.direct.memory import Spare, made
from subnetwork.runtime.direct.routing import Route, route, routed, space
from subnetwork.runtime.direct.rows import (
    Dense,
    deal_out_rows,
    n_words,
    sets_of,
    take_in_lanes,
    take_in_rows,
)
from subnetwork.runtime.direct.wire import (
    Groups,
    Wire,
    decoded,
    encoded,
    n_bytes,
)


def handed_over(
    draws: Draws, rank: int, held: Held, wire: Wire = "float32", *, in_place: bool = False
) -> Exchange[Held]:
    """The part at the start of the next round, from the merged one: one exchange.

    Tensors are let go of as soon as they are dealt out: where the caller keeps no reference to
    `held`, old and new part are never there together, but for what travels in company.

    Args:
        draws: the cuts of the run.
        rank: whose part.
        held: what `merged` returned.
        wire: how lines travel.
        in_place: write the next blocks over those of `held`, where they have the same shape, and
            later ones over its old idle lines, where it has `spare` memory; nobody may need any of
            these any more.
    """
    k, of_planes, loose, after = held.k, tuple(planes(held.submodel)), Loose.of(held), Loose()
    spare, coming = held.spare, list[_Coming]()
    del held
    for of_table in bundles(draws, of_planes, wire):
        coming += _dealt_out(draws, rank, k, of_table, (loose, after), spare, in_place=in_place)
    parcels = Parcels.of(draws.n_workers, spare)
    arrived = [parcels.add(each.moved.parcels, each.moved.sizes) for each in coming]
    if spare is not None:
        spare.clear()
    yield parcels.post()
    while coming:
        each = coming.pop(0)  # what travelled in company is let go of when it is parted
        settle(each.way, each.moved.block, arrived.pop(0), each.bundle.how)
        after.blocks.update(each.bundle.parted(each.moved.block))
        after.idle.update(each.bundle.parted(each.moved.idle))
    return after.together(draws, rank, k + 1, of_planes)


@dataclass(frozen=True)
class _Coming:
    """A bundle that is dealt out, and what is to come for it."""

    bundle: Bundle
    way: Route
    moved: "_Moved"


def _dealt_out(
    draws: Draws, rank: int, k: int, of_table: Sequence[Bundle], parts: tuple[Loose, Loose],
    spare: Spare | None, *, in_place: bool,
) -> list[_Coming]:  # fmt: skip
    """All tensors of one table out of the part of round k, which lets go of them."""
    loose, after = parts
    name, found = of_table[0].name, []
    way = route(draws, name, k, rank, loose.index.get(name))
    idle, to_keepers = _no_idle(way), way
    if any(bundle.by_keepers for bundle in of_table) and not apart(way.kept.goal):
        to_keepers = route(draws, name, k, rank, loose.index.get(name), by_keepers=True)
    for bundle in of_table:
        here = replace(to_keepers if bundle.by_keepers else way, grid=bundle.grid)
        have = bundle.taken(loose.blocks), bundle.taken(loose.idle)
        over = in_place or bundle.fused
        moved = _moved(here, bundle.dtype, bundle.how, have, idle, spare, in_place=over)
        if over and spare is not None:
            spare.add(t for t in have if t is not None and not _share_memory(t, moved.block))
        del have
        later = replace(here, kept=here.kept._replace(idle=no_lines(way.grid)))
        found.append(_Coming(bundle, later, moved))
    for each in {each for bundle in of_table for each in bundle.names}:
        loose.index.pop(each, None)
        if way.starts[-1]:
            after.index[each] = idle
    return found


@dataclass(frozen=True)
class _Moved:
    block: Tensor  # (lines, length); the lines that others send are not there yet
    idle: Tensor
    parcels: Sequence[Tensor]  # bytes for each worker
    sizes: Sequence[int]  # of what each worker sends


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _moved(
    way: Route,
    dtype: torch.dtype,
    how: Wire,
    have: tuple[Tensor | None, Tensor | None],
    idle: Idle,
    spare: Spare | None = None,
    *,
    in_place: bool = False,
) -> _Moved:
    """One tensor dealt out: the next block, the next idle values, and bytes for each worker."""
    length = way.grid.length
    have_lines = [None if t is None else _aligned(as_lines(t, way.grid)) for t in have]
    if in_place and have_lines[0] is not None and way.same_shape:
        block = have_lines[0]
    else:
        block = made((way.lines_held, length), dtype, spare, lasts=True)
    waiting = made((int(way.starts[-1]), length), dtype, spare, lasts=True)
    leaving = made((way.lines_sent, length), dtype, spare)
    rows = np.empty(way.lines_sent if how == "int8" else 0, np.int64)
    echoes = np.empty(way.n_echoes, np.int64), np.empty(way.n_echoes, np.int64)
    out = bits(leaving)
    sent = Sent(out.reshape(-1), rows, *echoes)
    source = Lines(*(bits(leaving[:0] if t is None else t) for t in have_lines))
    target = Next(Lines(bits(block), bits(waiting)), idle, _places(way))
    ends = np.cumsum(way.leaving) * out.shape[1]
    if out.shape[1] == 1 and apart(way.kept.now) and apart(way.kept.goal):
        deal_out_rows(way.kept, _dense(way, out), source, sent, ends, target)
    else:
        deal_out(way.kept, space(way.grid), source, sent, ends, target)
    groups = Groups.of(torch.as_tensor(rows), way.grid) if how == "int8" else None
    if how != "float32" and spare is not None:
        spare.give_back(2 * leaving.nbytes)  # rounded, and as others will have it
    coded = encoded(how, leaving, groups, way.leaving.tolist())
    if way.n_echoes:
        block[torch.as_tensor(echoes[1])] = coded.values[torch.as_tensor(echoes[0] // out.shape[1])]
    return _Moved(block, waiting, coded.parcels, arriving_sizes(way, block, how))


def _aligned(lines: Tensor) -> Tensor:
    """Lines that start at a multiple of four bytes, which `bits` wants: a copy if they must be."""
    return lines.clone() if lines.storage_offset() * lines.element_size() % 4 else lines


def arriving_sizes(way: Route, block: Tensor, how: Wire) -> list[int]:
    """Bytes that each worker sends of one tensor."""
    return [
        n_bytes(how, int(n), way.scales_from(i) if how == "int8" and n else 0, block)
        for i, n in enumerate(way.arriving)
    ]


def settle(way: Route, block: Tensor, arrived: Tensor, how: Wire) -> None:
    """Put what the others sent of one tensor, one after another, into the block."""
    values = arrived
    if how != "float32":
        sizes = arriving_sizes(way, block, how)
        values = torch.cat(
            [
                decoded(how, parcel, way.groups_from(i) if how == "int8" else None, block)
                for i, parcel in enumerate(torch.split(arrived, sizes))
            ]
        ).view(-1)
    inside = bits(block)
    starts = (np.cumsum(way.arriving) - way.arriving) * inside.shape[1]
    flat = bits(values.view(block.dtype).view(-1, way.grid.length)).reshape(-1)
    if way.senders is not None:
        if _by_lanes(inside):
            mine = sets_of(way.kept.goal, len(starts))[way.kept.me]
            space, flat_block = np.empty(64, inside.dtype), inside.reshape(-1)
            take_in_lanes(way.senders, way.kept.me, flat, starts, mine, flat_block, space)
        else:
            take_in_rows(way.senders, way.kept.me, flat, starts, _places(way), inside)
        return
    assert way.keepers is not None
    take_in(way.keepers, way.kept.me, flat, starts, inside)
    if way.unneeded is not None:
        inside[way.unneeded] = 0


def _places(way: Route) -> Array:
    """Column -> its place among those of the next block; last, how many these are."""
    cols = held_rows(way.kept.goal, way.kept.me)[1]
    places = np.zeros(way.grid.n_cols + 1, np.int32)
    places[cols] = np.arange(len(cols))
    places[-1] = len(cols)
    return places


def _no_idle(way: Route) -> Idle:
    """The index of the next idle lines, of which the columns are to be filled in."""
    return Idle(way.starts, np.zeros((way.grid.n_rows, n_words(way.grid.n_cols)), np.uint64))


def _dense(way: Route, lines: Array) -> Dense:
    cols = held_rows(way.kept.now, way.kept.me)[1].astype(np.int32)
    goal = sets_of(way.kept.goal, len(way.leaving))
    words = np.zeros(goal.shape[1], np.uint64)
    return Dense(np.zeros(64 * len(words), lines.dtype), cols, goal, words, _by_lanes(lines))


def _by_lanes(lines: Array) -> bool:
    """Whether lines are taken sixteen at a time: single entries of four bytes, where it pays."""
    return lines.shape[1] == 1 and lines.itemsize == 4 and are_quick()


def gathered(
    draws: Draws, rank: int, held: Held, name: str, to: Sequence[int] = (0,)
) -> Exchange[dict[str, Tensor]]:
    """One whole parameter and its moments, on the ranks that ask; elsewhere nothing.

    It may be called at the start of a round and after its merge: x^k, or x^{k+1}. One tensor after
    the other, the model passes through a rank that could not hold it.

    Args:
        draws: the cuts of the run.
        rank: whose side.
        held: its part.
        name: the parameter; the same on all ranks.
        to: who gets it; the same on all ranks.

    Returns:
        Plane -> tensor, as they are stored: gathering rounds nothing.
    """
    if held.spare is not None and rank in to:
        n_planes = len(travelling(draws, planes(held.submodel), name, "float32"))
        held.spare.give_back(n_planes * draws.like[name].nbytes)
    grid, share = draws.grids[name], held.shares.get(name)
    word = np.uint64(sum(1 << worker for worker in to))
    goal = Masks(np.full(grid.n_rows, word), np.full(grid.n_cols, word))
    lines = None if share is None else share.lines
    way = routed(draws, name, held.k, kept(draws, name, held.k, rank, lines, goal))
    idle = _no_idle(way)
    parcels = Parcels.of(draws.n_workers)
    arrived: dict[tuple[str, Wire], Tensor] = {}
    whole, old = {}, planes(held.submodel)
    for plane, how in travelling(draws, old, name, "float32"):
        have = old[plane].get(name), None if share is None else share.values[plane]
        moved = _moved(way, draws.like[name].dtype, how, have, idle)
        whole[plane] = moved.block
        arrived[plane, how] = parcels.add(moved.parcels, moved.sizes)
    yield parcels.post()
    for (plane, how), sent in arrived.items():
        settle(way, whole[plane], sent, how)
    return {p: block.view(grid.shape) for p, block in whole.items()} if rank in to else {}
