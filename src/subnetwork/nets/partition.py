"""One deal per axis of a network: the C_i of Algorithm 1 as index sets, never as matrices."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from subnetwork.deals import Deal, Hands
from subnetwork.keys import key, shuffled, words
from subnetwork.nets.buffers import Buffers
from subnetwork.nets.counters import at_size
from subnetwork.nets.entries import Entries, Key
from subnetwork.nets.laws import check_deals, check_draw, deal_from, dealt, least_hand, written
from subnetwork.nets.layout import Layout
from subnetwork.nets.means import mean_over_all, mean_over_holders
from subnetwork.nets.state import ABSENT, ModelState, Submodel, Tensors, views
from subnetwork.nets.terms import Dim, apart, places

_LEFT_OUT = 1  # a stream of its own beside that of the deal


@dataclass(frozen=True)
class NetPartition:
    """One round's cut: the units of every axis, dealt out to the workers.

    Indices are computed once a round, when they are first asked for, and shared by `select`,
    `merge` and whoever exchanges entries.
    """

    layout: Layout
    hands: Mapping[str, Hands]  # axis -> the units of each worker
    buffers: Buffers | None = None  # where `select` puts submodels; None: in memory of their own
    _found: dict[tuple[object, ...], Entries] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return len(next(iter(self.hands.values())))

    def select(self, x: ModelState, worker: int, /) -> Submodel:
        """w_i: copies of the blocks of parameters and moments that worker i holds (line 3).

        They stand one after another in one flat buffer, which is what travels, where all have one
        dtype. The buffer is new, unless the partition has standing `buffers`. A worker that has no
        network this round gets `ABSENT`, and takes no part in it.
        """
        if not self.has_network(worker):
            return ABSENT
        held = [
            {
                name: (entry.detach(), self.entries(name, entry, worker))
                for name, entry in tensors.items()
                if self.holds(name, worker)
            }
            for tensors in (x.params, *x.moments.values())
        ]
        pieces = [piece for tensors in held for piece in tensors.values()]
        room = self._room(worker, pieces)
        for (entry, entries), out in zip(pieces, room, strict=True):
            if not entry.is_meta:
                entries.gather(entry, out)
        rest = iter(room)
        params, *moments = ({name: next(rest) for name in tensors} for tensors in held)
        return Submodel(params, dict(zip(x.moments, moments, strict=True)))

    def merge(
        self, whole: Tensors, parts: Sequence[Tensors], *, in_place: bool = False
    ) -> dict[str, Tensor]:
        """The mean over the holders of each entry; an entry that nobody holds keeps its value.

        One holder: its value. Several: x + mean_i (z_i - x), summed in the order of the workers,
        which leaves an entry that nobody changed as it was, to the bit. Whole numbers and booleans
        have no mean: one takes the value of the last holder that changed it. With one deal per axis
        a matrix between two cut axes is covered by 1/n each round; the other blocks wait. A worker
        whose part is empty (`ABSENT`) holds nothing.

        Args:
            whole: the tensors of the model.
            parts: those of each worker.
            in_place: overwrite the tensors of `whole` and return them, instead of copies.
        """
        merged = {}
        for name, entry in whole.items():
            holders = [i for i, part in enumerate(parts) if part and self.holds(name, i)]
            blocks = [self.entries(name, entry, i) for i in holders]
            values = [parts[i][name] for i in holders]
            target = entry if in_place else entry.detach().clone()
            if self._one_holder(name):
                for block, value in zip(blocks, values, strict=True):
                    block.scatter(target, value)
            elif len(values) > 1 and not any(block.cut for block in blocks):
                mean_over_all(target, values)
            else:
                mean_over_holders(target, blocks, values)
            merged[name] = target
        return merged

    def held(self, tensors: Tensors, parts: Sequence[Tensors] | None = None) -> dict[str, Tensor]:
        """True at every entry that some worker holds this round, by parameter.

        With `parts`, what came back: that some worker held and brought back.
        """
        masks = {
            name: torch.zeros(t.shape, dtype=torch.bool, device=t.device)
            for name, t in tensors.items()
        }
        for name, mask in masks.items():
            for i in range(self.n_workers):
                if self.holds(name, i) and (parts is None or parts[i]):
                    mask[self.block(name, mask, i)] = True
        return masks

    def has_network(self, worker: int) -> bool:
        """Whether worker i has a unit of every axis that its parameters lie along."""
        empty = {axis for axis, hands in self.hands.items() if len(hands[worker]) == 0}
        names = self.layout.dims if empty else ()
        held = (name for name in names if self.holds(name, worker))
        return not any(empty & self.layout.axes_of(name) for name in held)

    def holds(self, name: str, worker: int) -> bool:
        """Whether worker i has the parameter at all: it lies in no block, or one that i holds."""
        axis, unit = self.layout.unit_of.get(name, (None, 0))
        return axis is None or unit in self.hands[axis][worker]

    def entries(self, name: str, entry: Tensor, worker: int) -> Entries:
        """Worker i's entries of a parameter, or of a moment of it, whose tensor is `entry`.

        Only the shape and the device of the tensor matter; it may be a meta tensor.
        """
        shape, device = tuple(entry.shape), entry.device.type
        device = "cpu" if device == "meta" else str(entry.device)
        dims = at_size(self.layout.dims[name], shape, self.layout.sizes)
        path = (dims, shape, worker, device)
        if path not in self._found:
            units = self.units(worker)
            index = tuple(
                None if dim is None else places(dim, units, self.layout.sizes).to(device)
                for dim in dims
            )
            self._found[path] = Entries(shape, index)
        return self._found[path]

    def block(self, name: str, entry: Tensor, worker: int) -> Key:
        """The index of worker i's block in a parameter; the whole tensor where nothing is cut."""
        return self.entries(name, entry, worker).key

    def units(self, worker: int) -> dict[str, Tensor]:
        """The units that a worker holds on each axis."""
        return {axis: torch.as_tensor(hands[worker]) for axis, hands in self.hands.items()}

    def _one_holder(self, name: str) -> bool:
        """Whether no entry of the parameter has two holders."""
        axis, _ = self.layout.unit_of.get(name, ("", 0))
        dims = self.layout.dims[name]
        return axis in self._disjoint or any(apart(dim, self._disjoint) for dim in dims)

    @cached_property
    def _disjoint(self) -> frozenset[str]:
        return frozenset(axis for axis, hands in self.hands.items() if _are_disjoint(hands))

    def _room(self, worker: int, pieces: Sequence[tuple[Tensor, Entries]]) -> list[Tensor]:
        """Memory for the pieces of a submodel, in one buffer where they have one dtype."""
        kinds = {(entry.dtype, entry.device) for entry, _ in pieces}
        shapes = [entries.shape for _, entries in pieces]
        if len(kinds) != 1:
            return [torch.empty(e.shape, dtype=t.dtype, device=t.device) for t, e in pieces]
        ((dtype, device),) = kinds
        length = sum(map(math.prod, shapes))
        if self.buffers is None or device.type == "meta":
            return views(torch.empty(length, dtype=dtype, device=device), shapes)
        return views(self.buffers.flat(worker, length, dtype, device), shapes)


@dataclass(frozen=True)
class NetSketch:
    """The law of the cut: one deal, drawn afresh for every axis and round, keyed by both.

    Different axes may have different deals: ``{"blocks": AtLeast(4, least=3), "*": Full(4)}``. An
    axis takes the deal of the first pattern that names it.
    """

    layout: Layout
    deal: Deal | Mapping[str, Deal]
    buffers: Buffers | None = None
    """Standing buffers for the submodels: each round overwrites those of the last. None: every
    submodel has memory of its own, and rounds stay as they were for as long as they are kept."""
    width: int = 1
    """Hands on the axes of width are cut down to a multiple of so many units, so that submodels
    come in few shapes and `torch.compile` makes few graphs. The units left over, other ones each
    round, sit it out."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"Hands are multiples of width={self.width} units; use 1 or more.")
        check_deals(self.deal.values() if isinstance(self.deal, Mapping) else [self.deal])
        deals = self.deals
        for number, (axis, size) in enumerate(self.layout.sizes.items()):
            dealt(deals[axis], axis, size, number, seed=0, k=0)  # refuses what it would in round 0
            least = least_hand(deals[axis], size, number)  # of all rounds; None: see `sample`
            if axis not in self.layout.depth and least is not None and least < self.width:
                raise ValueError(
                    f"Axis {axis}: a hand of {least} units has no multiple of width={self.width}. "
                    f"Use width={least} or less."
                )
        if len({deal.n_workers for deal in deals.values()}) > 1:
            counts = {axis: deal.n_workers for axis, deal in deals.items()}
            raise ValueError(
                f"All axes of a model are dealt to the same workers, not to {counts} of them. "
                "Give every deal the same n_workers."
            )

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        given = [*self.deal.values()] if isinstance(self.deal, Mapping) else [self.deal]
        return given[0].n_workers

    @property
    def deals(self) -> dict[str, Deal]:
        """The deal of every axis; raises ValueError where patterns and axes do not match."""
        axes = list(self.layout.sizes)
        if not isinstance(self.deal, Mapping):
            return dict.fromkeys(axes, self.deal)
        for pattern in self.deal:
            if not any(fnmatch(axis, pattern) for axis in axes):
                raise ValueError(
                    f"No axis that is cut is called {pattern!r}, for which a deal is given. "
                    f"The axes are: {', '.join(axes)}."
                )
        found = {
            axis: next((d for pattern, d in self.deal.items() if fnmatch(axis, pattern)), None)
            for axis in axes
        }
        if left := [axis for axis, deal in found.items() if deal is None]:
            raise ValueError(
                f"No deal is given for the axes {left}: the patterns {list(self.deal)} do not name "
                'them. Add one under "*" for all others.'
            )
        return {axis: deal for axis, deal in found.items() if deal is not None}

    def sample(self, seed: int, k: int, /) -> NetPartition:
        """The cut of round k.

        Raises:
            ValueError: where a hand of this round is smaller than `width`, under a deal whose
                smallest hand could not be known before (`Bernoulli`, or one of your own); where
                the hands of a deal of your own are none; where seed or k is no whole number.
        """
        check_draw(seed, k)
        deals = self.deals
        hands = {
            axis: dealt(deals[axis], axis, size, number, seed=seed, k=k)
            for number, (axis, size) in enumerate(self.layout.sizes.items())
        }
        if self.width > 1:
            for number, axis in enumerate(hands):
                if axis not in self.layout.depth:
                    hands[axis] = self._cut_down(axis, hands[axis], (seed, k, number))
        return NetPartition(self.layout, hands, self.buffers)

    def to_json(self) -> str:
        """The law as text that `from_json` reads to the bit: deals with their scores, and width.

        Layout and buffers are not in it. For the header of a checkpoint: a run goes on under the
        law that it had.

        Raises:
            ValueError: a deal of your own, which cannot be written down.
        """
        deal = self.deal
        law = (
            {pattern: written(d) for pattern, d in deal.items()}
            if isinstance(deal, Mapping)
            else written(deal)
        )
        named = "deals" if isinstance(deal, Mapping) else "deal"
        return json.dumps({named: law, "width": self.width}, allow_nan=False)

    @classmethod
    def from_json(cls, layout: Layout, text: str) -> "NetSketch":
        """The sketch that `to_json` wrote, on the layout of the same model."""
        law = json.loads(text)
        if "deal" in law:
            return cls(layout, deal_from(law["deal"]), width=law["width"])
        deals = {pattern: deal_from(data) for pattern, data in law["deals"].items()}
        return cls(layout, deals, width=law["width"])

    def _cut_down(self, axis: str, hands: Hands, path: tuple[int, int, int]) -> Hands:
        """Leave random units out of each hand, keyed like the draw itself."""
        kept = []
        for i, hand in enumerate(hands):
            if 0 < len(hand) < self.width:
                raise ValueError(
                    f"Axis {axis}: worker {i} was dealt {len(hand)} units in round {path[1]}, in "
                    f"which there is no multiple of width={self.width}. Use a smaller width, or a "
                    "deal whose hands are never so small."
                )
            stream = words(key(*path, i, _LEFT_OUT))
            places = shuffled(len(hand), stream)[: len(hand) - len(hand) % self.width]
            kept.append(hand[np.sort(np.asarray(places, dtype=np.int64))])
        return tuple(kept)


def block_of(
    layout: Layout, dims: Sequence[Dim], entry: Tensor, units: Mapping[str, Tensor]
) -> Key:
    """The index of the entries that belong to some units; the whole tensor where nothing is cut."""
    index = tuple(None if dim is None else places(dim, units, layout.sizes) for dim in dims)
    return Entries(tuple(entry.shape), index).key


def _are_disjoint(hands: Hands) -> bool:
    units = np.concatenate(hands)
    return len(np.unique(units)) == len(units)
