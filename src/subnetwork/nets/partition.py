"""One deal per axis of a network: the C_i of Algorithm 1 as index sets, never as matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

from subnetwork.deals import Deal, Hands
from subnetwork.nets.layout import Layout
from subnetwork.nets.state import ModelState, Submodel, Tensors
from subnetwork.nets.terms import Dim, apart, places

Block = tuple[Tensor | slice, ...] | EllipsisType


@dataclass(frozen=True)
class NetPartition:
    """One round's cut: the units of every axis, dealt out to the workers."""

    layout: Layout
    hands: Mapping[str, Hands]  # axis -> the units of each worker

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return len(next(iter(self.hands.values())))

    def select(self, x: ModelState, worker: int, /) -> Submodel:
        """w_i: copies of the blocks of parameters and moments that worker i holds (line 3)."""
        return Submodel(
            self._cut(x.params, worker),
            {name: self._cut(moment, worker) for name, moment in x.moments.items()},
        )

    def merge(self, whole: Tensors, parts: Sequence[Tensors]) -> dict[str, Tensor]:
        """The mean over the holders of each entry; an entry that nobody holds keeps its value.

        One holder: its value. Several: x + mean_i (z_i - x), summed in the order of the workers,
        which leaves an entry that nobody changed as it was, to the bit. With one deal per axis a
        matrix between two cut axes is covered by 1/n each round; the other blocks wait. A worker
        whose part lacks a parameter (`ABSENT`) is no holder of it.
        """
        disjoint = frozenset(axis for axis, hands in self.hands.items() if _are_disjoint(hands))
        merged = {}
        for name, entry in whole.items():
            holders = [i for i, part in enumerate(parts) if name in part and self.holds(name, i)]
            blocks = [self.block(name, entry, i) for i in holders]
            values = [parts[i][name] for i in holders]
            axis, _ = self.layout.unit_of.get(name, ("", 0))
            if axis in disjoint or any(apart(dim, disjoint) for dim in self.layout.dims[name]):
                merged[name] = _assigned(entry, blocks, values)
            else:
                merged[name] = _mean_over_holders(entry, blocks, values)
        return merged

    def held(self, tensors: Tensors, parts: Sequence[Tensors] | None = None) -> dict[str, Tensor]:
        """True at every entry that some worker holds this round, by parameter.

        With `parts`, what came back: that some worker held and brought back.
        """
        masks = {name: torch.zeros(t.shape, dtype=torch.bool) for name, t in tensors.items()}
        for name, mask in masks.items():
            for i in range(self.n_workers):
                if self.holds(name, i) and (parts is None or name in parts[i]):
                    mask[self.block(name, mask, i)] = True
        return masks

    def holds(self, name: str, worker: int) -> bool:
        """Whether worker i has the parameter at all: it lies in no block, or one that i holds."""
        axis, unit = self.layout.unit_of.get(name, (None, 0))
        return axis is None or unit in self.hands[axis][worker]

    def block(self, name: str, entry: Tensor, worker: int) -> Block:
        """The index of worker i's block in a parameter; the whole tensor where nothing is cut."""
        return block_of(self.layout, self.layout.dims[name], entry, self.units(worker))

    def units(self, worker: int) -> dict[str, Tensor]:
        """The units that a worker holds on each axis."""
        return {axis: torch.as_tensor(hands[worker]) for axis, hands in self.hands.items()}

    def _cut(self, tensors: Tensors, worker: int) -> dict[str, Tensor]:
        return {
            name: entry[self.block(name, entry, worker)].detach().clone()
            for name, entry in tensors.items()
            if self.holds(name, worker)
        }


@dataclass(frozen=True)
class NetSketch:
    """The law of the cut: one deal, drawn afresh for every axis and round, keyed by both."""

    layout: Layout
    deal: Deal

    def __post_init__(self) -> None:
        for axis, size in self.layout.sizes.items():
            try:
                self.deal.hands(size, seed=0, k=0)  # refuses here what it would refuse in round 0
            except ValueError as mistake:
                raise ValueError(f"Axis {axis}: {mistake}") from None

    def sample(self, seed: int, k: int, /) -> NetPartition:
        """The cut of round k."""
        hands = {
            axis: self.deal.hands(size, seed=seed, k=k, axis=number)
            for number, (axis, size) in enumerate(self.layout.sizes.items())
        }
        return NetPartition(self.layout, hands)


def block_of(
    layout: Layout, dims: Sequence[Dim], entry: Tensor, units: Mapping[str, Tensor]
) -> Block:
    """The index of the entries that belong to some units; the whole tensor where nothing is cut.

    A dim that is whole is a slice, which moves rows at once, as long as the cut dims are next to
    each other; else the index would put them first.
    """
    cut = [d for d, dim in enumerate(dims) if dim is not None]
    if not cut:
        return ...
    if cut[-1] - cut[0] + 1 > len(cut):
        cut = list(range(len(dims)))
    kept: list[Tensor | slice] = [slice(None)] * len(dims)
    for d in cut:
        dim = dims[d]
        index = torch.arange(entry.shape[d])
        if dim is not None:
            index = places(dim, units, layout.sizes)
        kept[d] = index.reshape([-1 if other == d else 1 for other in cut])
    return tuple(kept)


def _are_disjoint(hands: Hands) -> bool:
    units = np.concatenate(hands)
    return len(np.unique(units)) == len(units)


def _assigned(entry: Tensor, blocks: Sequence[Block], values: Sequence[Tensor]) -> Tensor:
    """What `_mean_over_holders` gives where no entry has two holders, in one pass."""
    merged = entry.clone()
    for block, value in zip(blocks, values, strict=True):
        merged[block] = value
    return merged


def _mean_over_holders(entry: Tensor, blocks: Sequence[Block], values: Sequence[Tensor]) -> Tensor:
    sole, change = entry.clone(), torch.zeros_like(entry)
    holders = torch.zeros(entry.shape, dtype=entry.dtype)
    for block, value in zip(blocks, values, strict=True):
        sole[block] = value
        change[block] += value - entry[block]
        holders[block] += 1
    return torch.where(holders > 1, entry + change / holders.clamp(min=1), sole)
