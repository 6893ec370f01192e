"""Line 9 without a coordinator: the mean over the holders of a line, taken by one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from subnetwork.nets.means import added, change, changed
from subnetwork.nets.merges import Steps
from subnetwork.runtime.direct.bundles import Bundle, bundles
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.grid import Grid
from subnetwork.runtime.direct.held import (
    OUTER,
    Held,
    Member,
    apart,
    as_lines,
    by_member,
    held_rows,
    holders_of_block,
    planes,
    submodel_of,
)
from subnetwork.runtime.direct.kernels import Array, last_keepers
from subnetwork.runtime.direct.links import Exchange, Parcels, Post
from subnetwork.runtime.direct.outer import stepped
from subnetwork.runtime.direct.wire import (
    Groups,
    Wire,
    decoded,
    encoded,
    n_bytes,
)


@dataclass(frozen=True)
class Shared:
    """The lines of one table that a rank holds together with others."""

    grid: Grid
    rank: int
    places: Tensor  # in the rank's block
    rows: Tensor  # of the table
    holders: Array  # words
    keepers: Array

    @classmethod
    def of(cls, draws: Draws, name: str, k: int, rank: int) -> "Shared":
        """Those of a parameter in round k."""
        now, then = draws.masks(name, k), draws.masks(name, k + 1)
        rows, cols = held_rows(now, rank)
        holders = holders_of_block(draws, name, k, rank)
        keepers = np.empty(len(holders), np.uint8)
        last_keepers(now, then, rows, cols, keepers)
        places = np.flatnonzero(np.bitwise_count(holders) > 1)
        row_of = rows[places // max(1, len(cols))]
        return cls(
            draws.grids[name],
            rank,
            torch.as_tensor(places),
            torch.as_tensor(row_of),
            holders[places],
            keepers[places],
        )

    @cached_property
    def mine(self) -> Tensor:
        """Which of them this rank keeps: an index."""
        return torch.as_tensor(np.flatnonzero(self.keepers == self.rank))

    def for_keeper(self, worker: int) -> Tensor:
        """Which of them another worker keeps."""
        none = worker == self.rank
        return torch.as_tensor(np.flatnonzero((self.keepers == worker) & (not none)))

    def held_by(self, worker: int) -> Tensor:
        """Which of `mine` a worker holds too."""
        bit = np.uint64(1 << worker)
        return torch.as_tensor(np.flatnonzero(self.holders[self.mine.numpy()] & bit))

    def groups(self, which: Tensor, how: Wire) -> Groups | None:
        """Which entries of these lines share a scale, where they have one."""
        return Groups.of(self.rows[which], self.grid) if how == "int8" else None


def merged(
    draws: Draws, rank: int, held: Held, wire: Wire = "float32", steps: Steps | None = None
) -> Exchange[Held]:
    """The part after the merge of its round: x + mean_i (z_i - x) wherever this rank is keeper.

    Lines of a single holder stay as they are: no exchange at all where there are no others. The sum
    is taken in the order of the workers, so that it is that of `NetPartition.merge` to the bit.

    Args:
        draws: the cuts of the run.
        rank: whose part.
        held: its part, with the trained values in `submodel`; for a merge that steps from x^k, what
            `outer.trained` returns.
        wire: how changes travel.
        steps: the step that the merge takes from x^k along the mean; None: the mean is x^{k+1}.
    """
    mean = yield from _mean(draws, rank, held, wire)
    return mean if steps is None else stepped(mean, steps)


def _mean(draws: Draws, rank: int, held: Held, wire: Wire) -> Exchange[Held]:
    changes = _changes(draws, rank, held, wire)
    if changes is None:
        return held
    post = _post(draws.n_workers, changes)
    yield post
    arrived = [iter(pieces) for pieces in post.into]
    merged = by_member(planes(held.submodel))
    for each in changes:
        of, own = each.of, each.own
        total = torch.zeros_like(own[of.mine])
        for i in range(draws.n_workers):
            which = of.held_by(i)
            if i == rank:
                total[which] = added(total[which], own[of.mine])
            elif len(which):
                how = each.bundle.how
                theirs = decoded(how, next(arrived[i]), of.groups(of.mine[which], how), own)
                total[which] = added(total[which], theirs)
        for member, lines in each.bundle.parted(each.mean(total)).items():
            block = merged[member].clone(memory_format=torch.contiguous_format)
            as_lines(block, draws.grids[member.name])[of.places[of.mine]] = lines
            merged[member] = block
    tensors = {
        plane: {name: merged[Member(plane, name)] for name in of_plane}
        for plane, of_plane in planes(held.submodel).items()
    }
    return replace(held, submodel=submodel_of(tensors))


@dataclass(frozen=True)
class _Change:
    """What a rank did to lines that others hold too."""

    bundle: Bundle
    of: Shared
    x: Tensor  # (lines, length)
    own: Tensor

    def mean(self, total: Tensor) -> Tensor:
        """The mean: x and what all holders did to it, in the lines that this rank keeps."""
        holders = np.bitwise_count(self.of.holders[self.of.mine.numpy()])
        count = torch.as_tensor(holders, dtype=torch.int32)
        return changed(self.x[self.of.mine], total, count[:, None])


def _changes(draws: Draws, rank: int, held: Held, wire: Wire) -> list[_Change] | None:
    """This rank's changes; None where no line of the model has several holders."""
    own_planes = [plane for plane in planes(held.submodel) if plane != OUTER]
    listed = [
        of_table
        for of_table in bundles(draws, own_planes, wire)
        if not apart(draws.masks(of_table[0].name, held.k))
    ]
    if not listed:
        return None
    blocks, before, found = by_member(planes(held.submodel)), by_member(held.x), []
    for of_table in listed:
        shared = Shared.of(draws, of_table[0].name, held.k, rank)
        for bundle in of_table if len(shared.places) else ():
            if held.spare is not None:  # x, changes, those that are sent and come; blocks anew
                n_bytes = 4 * len(shared.places) * bundle.grid.length * bundle.dtype.itemsize
                held.spare.give_back(n_bytes + sum(blocks[m].nbytes for m in bundle.members))
            x, lines = bundle.joined(before), {}
            for member, grid in zip(bundle.members, bundle.grids, strict=True):
                lines[member] = as_lines(blocks[member], grid)[shared.places]
            of = replace(shared, grid=bundle.grid)
            found.append(_Change(bundle, of, x, change(bundle.joined(lines), x)))
    return found


def _post(n_workers: int, changes: Sequence[_Change]) -> Post:
    """The changes of every line for its keeper."""
    parcels = Parcels.of(n_workers)
    for each in changes:
        of, own, how = each.of, each.own, each.bundle.how
        leaving = [of.for_keeper(j) for j in range(n_workers)]
        order = torch.cat(leaving)
        coded = encoded(how, own[order], of.groups(order, how), [len(part) for part in leaving])
        parcels.add(coded.parcels, [_size(of, j, own, how) for j in range(n_workers)])
    return parcels.post()


def _size(of: Shared, worker: int, own: Tensor, how: Wire) -> int:
    """Bytes that a worker sends of a rank's own lines."""
    which = of.held_by(worker)
    if worker == of.rank or not len(which):
        return 0
    groups = of.groups(of.mine[which], how)
    return n_bytes(how, len(which), 0 if groups is None else len(groups.present()), own)
