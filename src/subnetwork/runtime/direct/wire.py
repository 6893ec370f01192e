"""What a line looks like on its way: as it is, or rounded to fewer bits.

Rounding is part of the algorithm, not an accident of transport: after a hand-over all holders of a
line agree on its value. A line that is sent to anyone is rounded everywhere, also where the rank
that sends it goes on holding it; a line that stays with its only holder, or that nobody needs, is
not rounded. Contributions to a mean over holders are sent as the rounded change z_i - x. Momentum
of the merge's own step is rounded where it goes to another keeper.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from subnetwork.runtime.direct.counted import is_counter
from subnetwork.runtime.direct.grid import Grid

Wire: TypeAlias = Literal["float32", "bfloat16", "int8"]
BLOCK = 256  # entries that share a scale, at least


@dataclass(frozen=True)
class Coded:
    """Lines as bytes, and as the values that everyone agrees on."""

    parcels: list[Tensor]  # bytes for each destination
    values: Tensor  # (lines, length)


def check_wire(wire: str) -> None:
    """Raise ValueError for a wire that there is not."""
    if wire not in get_args(Wire):
        raise ValueError(
            f"wire={wire!r} is none of {', '.join(get_args(Wire))}. float32 sends every entry as "
            "it is, bfloat16 half the bytes, int8 about a quarter."
        )


def of_tensor(wire: Wire, plane: str, name: str, tensor: Tensor) -> Wire:
    """How one tensor travels.

    Moments are never cut to int8, where small ones would become zero; counters, and what has 16
    bits or fewer, travel as they are.
    """
    if is_counter(name) or not tensor.is_floating_point() or tensor.element_size() <= 2:
        return "float32"
    return "bfloat16" if wire == "int8" and plane else wire


@dataclass(frozen=True)
class Groups:
    """Which entries of some lines share a scale, for int8.

    Those that a tensor has in one row of its table, or in as many rows as make up a block.
    """

    of_line: Tensor  # (lines, tensors): the number of the group
    lengths: tuple[int, ...]  # entries of a line, tensor by tensor
    n: int  # groups of the whole table

    @classmethod
    def of(cls, rows: Tensor, grid: Grid) -> "Groups":
        """Those of the lines of these rows of a table."""
        each = [max(1, BLOCK // (grid.n_cols * length)) for length in grid.lengths]  # rows
        ends = torch.tensor([-(-grid.n_rows // n) for n in each]).cumsum(0)
        of_line = rows[:, None] // torch.tensor(each)
        if len(each) > 1:  # one after the other
            of_line[:, 1:] += ends[:-1]
        return cls(of_line, grid.lengths, int(ends[-1]))

    def split(self, n_lines: Sequence[int]) -> "list[Groups]":
        """Those of so many lines, and of so many more, .."""
        return [replace(self, of_line=part) for part in torch.split(self.of_line, list(n_lines))]

    def present(self) -> Tensor:
        """Which groups these lines have: their numbers, ascending."""
        found = torch.zeros(self.n, dtype=torch.bool)
        found[self.of_line.flatten()] = True
        return found.nonzero()[:, 0]

    def largest(self, lines: Tensor) -> Tensor:
        """The largest entry of each group, by magnitude."""
        parts = torch.split(lines.abs(), list(self.lengths), dim=1)
        tops = torch.stack([part.amax(dim=1) for part in parts], dim=1).to(torch.float32)
        found = torch.zeros(self.n)
        return found.scatter_reduce_(0, self.of_line.flatten(), tops.flatten(), "amax")

    def spread(self, scales: Tensor) -> Tensor:
        """The scale of each entry, as (lines, length or 1), from those of all groups."""
        each = scales[self.of_line]
        if len(self.lengths) == 1:
            return each
        return each.repeat_interleave(torch.tensor(self.lengths), dim=1)


def n_bytes(wire: Wire, n_lines: int, n_scales: int, like: Tensor) -> int:
    """Bytes of so many lines.

    Args:
        wire: how they travel.
        n_lines: how many.
        n_scales: for int8, how many groups of entries have a scale.
        like: (lines, length), of their length and dtype.
    """
    n_entries, itemsize = n_lines * like.shape[1], like.element_size()
    return {
        "float32": n_entries * itemsize,
        "bfloat16": n_entries * 2,
        "int8": n_entries + 4 * n_scales,
    }[wire]


def encoded(wire: Wire, lines: Tensor, groups: Groups | None, splits: Sequence[int]) -> Coded:
    """The bytes of these lines for every destination.

    Args:
        wire: how they travel.
        lines: (lines, length), ordered by destination.
        groups: for int8, which of their entries share a scale.
        splits: lines for each destination.
    """
    if wire == "float32":
        return Coded([raw(part) for part in torch.split(lines, list(splits))], lines)
    if wire == "bfloat16":
        short = lines.to(torch.bfloat16)
        return Coded(
            [raw(part) for part in torch.split(short, list(splits))], short.to(lines.dtype)
        )
    assert groups is not None
    scales = groups.largest(lines) / 127  # to whomever they are sent
    each = groups.spread(scales)
    codes = (lines / each).nan_to_num(0.0).round().to(torch.int8)
    parcels = [
        torch.cat([raw(scales[of.present()]), raw(part)])
        for of, part in zip(groups.split(splits), torch.split(codes, list(splits)), strict=True)
    ]
    return Coded(parcels, (codes.to(torch.float32) * each).to(lines.dtype))


def decoded(wire: Wire, parcel: Tensor, groups: Groups | None, like: Tensor) -> Tensor:
    """The lines of a parcel, as (lines, length) in the dtype of `like`.

    Args:
        wire: how they travelled.
        parcel: their bytes.
        groups: for int8, which of their entries share a scale.
        like: a tensor of the same length and dtype.
    """
    length = like.shape[1]
    if wire == "float32":
        return read(parcel, like.dtype).view(-1, length)
    if wire == "bfloat16":
        return read(parcel, torch.bfloat16).to(like.dtype).view(-1, length)
    assert groups is not None
    present, scales = groups.present(), torch.zeros(groups.n)
    scales[present] = read(parcel[: 4 * len(present)], torch.float32)
    codes = read(parcel[4 * len(present) :], torch.int8).view(-1, length)
    return (codes.to(torch.float32) * groups.spread(scales)).to(like.dtype)


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in memory of their own only where they must be."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def read(parcel: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as entries."""
    size = torch.empty(0, dtype=dtype).element_size()
    aligned = parcel if parcel.storage_offset() % size == 0 else parcel.clone()
    return aligned.view(dtype)
