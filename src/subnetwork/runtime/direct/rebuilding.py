"""A dead rank's part at the start of a round, put together by those that are left."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.handover import (
    Route,
    arriving_sizes,
    route,
    settle,
    shaped,
    travelling,
)
from subnetwork.runtime.direct.held import PARAMS, Held, Share, submodel_of, with_x
from subnetwork.runtime.direct.links import Exchange, Parcels, Post
from subnetwork.runtime.direct.memory import room
from subnetwork.runtime.direct.replicas import Replica, neighbour, own_lines, unknown
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
    parcels = Parcels.of(draws.n_workers)
    coming = [
        _coming(draws, route(draws, name, k - 1, rank), (name, plane), parcels, wire)
        for name, plane in _tensors(draws, moments)
    ]
    index, keeper = unknown(draws, k, rank).lines, neighbour(rank, draws.n_workers)
    own = {name: own_lines(draws, name, k, rank) for name in draws.like}
    copies = []
    for each in coming:
        n_idle = int(index[each.name].starts[-1]) if each.name in index else 0
        copies.append(
            [_from(parcels, keeper, each.block, n) for n in (len(own[each.name]), n_idle)]
        )
    yield parcels.post()
    blocks: dict[str, dict[str, Tensor]] = {plane: {} for plane in (PARAMS, *moments)}
    idle: dict[str, dict[str, Tensor]] = {}
    for each, (kept, waiting) in zip(coming, copies, strict=True):
        length = each.block.shape[1]
        each.block[own[each.name]] = read(kept, each.block.dtype).view(-1, length)
        settle(each.way, each.block, each.arrived, each.how)
        blocks[each.plane][each.name] = each.block
        if each.name in index:
            values = read(waiting, each.block.dtype).view(-1, length)
            idle.setdefault(each.name, {})[each.plane] = values
    ways = {each.name: each.way for each in coming}
    shares = {name: Share(index[name], values) for name, values in idle.items()}
    return with_x(draws, rank, Held(k, submodel_of(shaped(ways, blocks)), shares))


@dataclass(frozen=True)
class _Coming:
    """One tensor of which others send lines."""

    name: str
    plane: str
    way: Route
    block: Tensor
    arrived: Tensor
    how: Wire


def _tensors(draws: Draws, moments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and planes, in the order in which they travel."""
    every: Mapping[str, object] = dict.fromkeys((PARAMS, *moments))
    for name in draws.like:
        for plane, _ in travelling(draws, every, name, "float32"):
            yield name, plane


def _coming(
    draws: Draws, way: Route, tensor: tuple[str, str], parcels: Parcels, wire: Wire
) -> _Coming:
    name, plane = tensor
    how = dict(travelling(draws, {PARAMS: 0, plane: 0}, name, wire))[plane]
    block = room((way.lines_held, way.grid.length), draws.like[name].dtype)
    nothing = [torch.empty(0, dtype=torch.uint8)] * draws.n_workers
    arrived = parcels.add(nothing, arriving_sizes(way, block, how))
    return _Coming(name, plane, way, block, arrived, how)


def _from(parcels: Parcels, rank: int, like: Tensor, n_lines: int) -> Tensor:
    """Memory for so many lines of a tensor from a rank."""
    memory = torch.empty(n_lines * like.shape[1] * like.element_size(), dtype=torch.uint8)
    if n_lines:
        parcels.into[rank].append(memory)
    return memory
