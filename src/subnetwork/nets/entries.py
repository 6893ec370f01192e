"""The entries of one parameter that one worker holds: gathered into a buffer and written back."""

import math
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType
from typing import TypeAlias

import torch
from torch import Tensor

Key: TypeAlias = tuple[Tensor | slice, ...] | EllipsisType
"""An index: `tensor[key]` are the entries."""

_CHUNK = 1 << 18  # entries moved at a time: what passes through stays in the cache


@dataclass(frozen=True, eq=False)
class Entries:
    """A box of a tensor: along every dim some indices, or all of them.

    Attributes:
        whole: the shape of the whole tensor.
        index: for every dim the indices that are held, ascending; None where all of them are.

    >>> block = Entries((3, 4), (torch.tensor([0, 2]), None))
    >>> block.shape, block.flat().tolist()
    ((2, 4), [0, 1, 2, 3, 8, 9, 10, 11])
    """

    whole: tuple[int, ...]
    index: tuple[Tensor | None, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the block."""
        pairs = zip(self.whole, self.index, strict=True)
        return tuple(n if index is None else len(index) for n, index in pairs)

    @property
    def numel(self) -> int:
        """How many entries there are."""
        return math.prod(self.shape)

    @cached_property
    def cut(self) -> tuple[int, ...]:
        """The dims that are not whole."""
        return tuple(d for d, index in enumerate(self.index) if index is not None)

    @cached_property
    def key(self) -> Key:
        """The same as an index of torch: `tensor[key]`, and `tensor[key] = block`.

        A dim that is whole is a slice, which moves rows at once, as long as the cut dims are next
        to each other; else the index would put them first.
        """
        if not self.cut:
            return ...
        first, last = self.cut[0], self.cut[-1]
        dims = self.cut if last - first + 1 == len(self.cut) else tuple(range(len(self.whole)))
        key: list[Tensor | slice] = [slice(None)] * len(self.whole)
        for place, d in enumerate(dims):
            key[d] = self._along(d).reshape([-1 if p == place else 1 for p in range(len(dims))])
        return tuple(key)

    def flat(self) -> Tensor:
        """The numbers of the entries in the whole tensor (row-major), in the block's own order.

        Ascending, eight bytes an entry: for exchanges. `gather` and `scatter` do not need them.
        """
        if not self.whole:
            return torch.zeros(1, dtype=torch.int64)
        return (self._along(0)[:, None] * self._stride + self._within).reshape(-1)

    def gather(self, entry: Tensor, out: Tensor) -> Tensor:
        """Copy the entries of the whole tensor into `out`, a tensor of the block's shape."""
        if not self.cut:
            return out.copy_(entry)
        if not out.numel():
            return out
        rows = self.index[0]
        if self.cut == (0,):
            assert rows is not None
            return torch.index_select(entry, 0, rows, out=out)
        step = max(1, _CHUNK // max(1, math.prod(self.whole[1:])))
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            chunk = entry[start:stop] if rows is None else entry.index_select(0, rows[start:stop])
            for d in self.cut:
                index = self.index[d]
                if d and index is not None:
                    target = {"out": out[start:stop]} if d == self.cut[-1] else {}
                    chunk = torch.index_select(chunk, d, index, **target)
        return out

    def scatter(self, entry: Tensor, block: Tensor) -> Tensor:
        """Write a block back into the whole tensor, in place; returns that tensor."""
        if not self.cut:
            return entry.copy_(block)
        rows = self.index[0]
        if self.cut == (0,):
            assert rows is not None
            return entry.index_copy_(0, rows, block)
        if not entry.is_contiguous():
            entry[self.key] = block
            return entry
        if not block.numel():
            return entry
        flat, block = entry.view(-1), block.reshape(block.shape[0], -1)
        step = max(1, _CHUNK // max(1, block.shape[1]))
        along = self._along(0)
        for start in range(0, len(along), step):
            row = along[start : start + step, None]
            places = (row * self._stride + self._within).view(-1)
            flat.scatter_(0, places, block[start : start + step].reshape(-1))
        return entry

    def to(self, device: torch.device) -> "Entries":
        """The same with its indices on a device."""
        moved = tuple(None if index is None else index.to(device) for index in self.index)
        return Entries(self.whole, moved)

    def _along(self, dim: int) -> Tensor:
        index = self.index[dim]
        if index is not None:
            return index
        device = self.index[self.cut[0]].device if self.cut else None  # type: ignore[union-attr]
        return torch.arange(self.whole[dim], device=device)

    @property
    def _stride(self) -> int:
        """Entries in one row of the whole tensor."""
        return math.prod(self.whole[1:])

    @cached_property
    def _within(self) -> Tensor:
        """The numbers of the entries within one row."""
        places = torch.zeros(1, dtype=torch.int64, device=self._along(0).device)
        for d in range(1, len(self.whole)):
            places = (places[:, None] * self.whole[d] + self._along(d)).view(-1)
        return places
