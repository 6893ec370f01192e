"""A dead rank's part at the start of a round, put together by those that are left."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from subnetwork.runtime.direct.bundles import Bundle, bundles, travelling
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.handover import arriving_sizes, settle
from subnetwork.runtime.direct.held import OUTER, PARAMS, Held, Loose, Member
from subnetwork.runtime.direct.links import Exchange, Parcels, Post
from subnetwork.runtime.direct.memory import room
from subnetwork.runtime.direct.replicas import Replica, neighbour, own_lines, unknown
from subnetwork.runtime.direct.routing import Route, route
from subnetwork.runtime.direct.wire import Wire, raw, read


def given_back(
    draws: Draws, rank: int, lost: int, sent: Post, replica: Replica, moments: Sequence[str]
) -> Exchange[None]:
    """A survivor's side of `rebuilt`: it sends what it sent before, its neighbour the replica too.

    Args:
        draws: the cuts of the run.
        rank: whose side.
        lost: the dead one's rank.
        sent: what this rank sent in the hand-over into the round.
        replica: what rank - 1 kept itself in it.
        moments: that travel, the merge's own among them; counts of steps are none of them here.
    """
    parcels = Parcels.of(draws.n_workers)
    parcels.leaving[lost].extend(sent.pieces[lost])
    if rank == neighbour(lost, draws.n_workers):
        assert replica.whole
        for name, plane in _tensors(draws, moments):
            values = [replica.own[name][plane]]
            values += [replica.idle[name][plane]] if name in replica.lines else []
            parcels.leaving[lost].extend(raw(t) for t in values if t.numel())
    yield parcels.post()


def rebuilt(
    draws: Draws, rank: int, k: int, moments: Sequence[str], wire: Wire = "float32"
) -> Exchange[Held]:
    """The part of a dead rank at the start of round k, on the process that has taken its seat.

    Equal to the bit to what the dead one had.

    Args:
        draws: the cuts of the run, which began before round k.
        rank: the seat.
        k: the round.
        moments: that travel, the merge's own among them; counts of steps are none of them here.
        wire: how lines travelled in the hand-over.
    """
    parcels, of_planes = Parcels.of(draws.n_workers), (PARAMS, *moments)
    coming = [
        _coming(replace(way, grid=bundle.grid), bundle, parcels)
        for of_table in bundles(draws, of_planes, wire)
        for bundle in of_table
        for way in [route(draws, bundle.name, k - 1, rank, by_keepers=bundle.by_keepers)]
    ]
    loose = Loose(index=dict(unknown(draws, k, rank).lines))
    keeper = neighbour(rank, draws.n_workers)
    copies, found = [], dict[tuple[str, bool], Tensor]()
    for name, plane in _tensors(draws, moments):
        which = name, plane == OUTER
        if which not in found:
            found[which] = own_lines(draws, name, k, rank, plane)
        own = found[which]
        n_idle = int(loose.index[name].starts[-1]) if name in loose.index else 0
        sent = [_from(parcels, keeper, draws, name, n) for n in (len(own), n_idle)]
        copies.append((Member(plane, name), own, sent))
    yield parcels.post()
    for each in coming:
        settle(each.way, each.block, each.arrived, each.bundle.how)
        loose.blocks.update(each.bundle.parted(each.block))
    for member, own, (kept, waiting) in copies:
        block = loose.blocks[member]
        block[own] = read(kept, block.dtype).view(-1, block.shape[1])
        if member.name in loose.index:
            loose.idle[member] = read(waiting, block.dtype).view(-1, block.shape[1])
    return loose.together(draws, rank, k, of_planes)


@dataclass(frozen=True)
class _Coming:
    """A bundle of which others send lines."""

    bundle: Bundle
    way: Route
    block: Tensor
    arrived: Tensor


def _tensors(draws: Draws, moments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and planes, in the order in which they travel."""
    every: Mapping[str, object] = dict.fromkeys((PARAMS, *moments))
    for name in draws.like:
        for plane, _ in travelling(draws, every, name, "float32"):
            yield name, plane


def _coming(way: Route, bundle: Bundle, parcels: Parcels) -> _Coming:
    block = room((way.lines_held, way.grid.length), bundle.dtype)
    nothing = [torch.empty(0, dtype=torch.uint8)] * len(parcels.into)
    arrived = parcels.add(nothing, arriving_sizes(way, block, bundle.how))
    return _Coming(bundle, way, block, arrived)


def _from(parcels: Parcels, rank: int, draws: Draws, name: str, n_lines: int) -> Tensor:
    """Memory for so many lines of a parameter from a rank."""
    size = draws.grids[name].length * draws.like[name].element_size()
    memory = torch.empty(n_lines * size, dtype=torch.uint8)
    if n_lines:
        parcels.into[rank].append(memory)
    return memory
