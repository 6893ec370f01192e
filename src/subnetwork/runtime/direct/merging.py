"""Line 9 without a coordinator: the mean over the holders of a line, taken by one of them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from subnetwork.nets.means import added, change, changed
from subnetwork.nets.merges import Steps
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.grid import Grid
from subnetwork.runtime.direct.held import (
    OUTER,
    Held,
    apart,
    as_lines,
    held_rows,
    holders_of_block,
    planes,
    submodel_of,
)
from subnetwork.runtime.direct.kernels import Array, last_keepers
from subnetwork.runtime.direct.links import Exchange, Parcels, Post
from subnetwork.runtime.direct.outer import stepped
from subnetwork.runtime.direct.wire import (
    Wire,
    decoded,
    encoded,
    n_bytes,
    of_tensor,
    scale_groups,
)


@dataclass(frozen=True)
class Shared:
    """The lines of one parameter that a rank holds together with others."""

    grid: Grid
    rank: int
    places: Tensor  # in the rank's block
    rows: Tensor  # of the table
    holders: Array  # words
    keepers: Array

    @classmethod
    def of(cls, draws: Draws, name: str, k: int, rank: int) -> "Shared":
        """Those of round k."""
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

    @property
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

    def groups(self, which: Tensor) -> Tensor:
        """Which of these lines share a scale."""
        return scale_groups(self.rows[which], self.grid)


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
    names = [name for name in draws.like if not apart(draws.masks(name, held.k))]
    if not names:
        return held
    shared = {name: Shared.of(draws, name, held.k, rank) for name in names}
    changes = {
        (plane, name): change(_lines(held, plane, name, shared[name]), held.x[plane][name])
        for plane, tensors in planes(held.submodel).items()
        for name in names
        if plane != OUTER and name in tensors and len(shared[name].places)
    }
    post = _post(draws.n_workers, shared, changes, wire)
    yield post
    arrived = [iter(pieces) for pieces in post.into]
    tensors = {plane: dict(of) for plane, of in planes(held.submodel).items()}
    for (plane, name), own in changes.items():
        of = shared[name]
        total = torch.zeros_like(own[of.mine])
        for i in range(draws.n_workers):
            which = of.held_by(i)
            if i == rank:
                total[which] = added(total[which], own[of.mine])
            elif len(which):
                how, groups = of_tensor(wire, plane, name, own), of.groups(of.mine[which])
                theirs = decoded(how, next(arrived[i]), groups, own)
                total[which] = added(total[which], theirs)
        tensors[plane][name] = _with_mean(of, tensors[plane][name], held.x[plane][name], total)
    return replace(held, submodel=submodel_of(tensors))


def _with_mean(of: Shared, block: Tensor, x: Tensor, total: Tensor) -> Tensor:
    """The block, with x and what all holders did to it in the lines that this rank keeps."""
    count = torch.as_tensor(np.bitwise_count(of.holders[of.mine.numpy()]), dtype=torch.int32)
    merged = block.clone(memory_format=torch.contiguous_format)
    as_lines(merged, of.grid)[of.places[of.mine]] = changed(x[of.mine], total, count[:, None])
    return merged


def _lines(held: Held, plane: str, name: str, of: Shared) -> Tensor:
    return as_lines(planes(held.submodel)[plane][name], of.grid)[of.places]


def _post(
    n_workers: int, shared: dict[str, Shared], changes: dict[tuple[str, str], Tensor], wire: Wire
) -> Post:
    """The changes of every line for its keeper."""
    parcels = Parcels.of(n_workers)
    for (plane, name), own in changes.items():
        of, how = shared[name], of_tensor(wire, plane, name, own)
        leaving = [of.for_keeper(j) for j in range(n_workers)]
        order = torch.cat(leaving)
        coded = encoded(how, own[order], of.groups(order), [len(part) for part in leaving])
        parcels.add(coded.parcels, [_size(of, j, own, how) for j in range(n_workers)])
    return parcels.post()


def _size(of: Shared, worker: int, own: Tensor, how: Wire) -> int:
    """Bytes that a worker sends of a rank's own lines."""
    which = of.held_by(worker)
    if worker == of.rank or not len(which):
        return 0
    return n_bytes(how, len(which), of.groups(of.mine[which]), own)
