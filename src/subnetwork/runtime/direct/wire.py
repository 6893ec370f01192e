"""What a line looks like on its way: as it is, or rounded to fewer bits.

Rounding is part of the algorithm, not an accident of transport: after a hand-over all holders of a
line agree on its value. A line that is sent to anyone is rounded everywhere, also where the rank
that sends it goes on holding it; a line that stays with its only holder, or that nobody needs, is
not rounded. Contributions to a mean over holders are sent as the rounded change z_i - x. Momentum
of the merge's own step is rounded where it goes to another keeper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


def n_bytes(wire: Wire, n_lines: int, groups: Tensor, like: Tensor) -> int:
    """Bytes of so many lines.

    Args:
        wire: how they travel.
        n_lines: how many.
        groups: for int8, which of them share a scale; ascending.
        like: (lines, length), of their length and dtype.
    """
    n_scales = len(torch.unique_consecutive(groups)) if wire == "int8" and n_lines else 0
    n_entries, itemsize = n_lines * like.shape[1], like.element_size()
    return {
        "float32": n_entries * itemsize,
        "bfloat16": n_entries * 2,
        "int8": n_entries + 4 * n_scales,
    }[wire]


def scale_groups(rows: Tensor, grid: Grid) -> Tensor:
    """Which lines share a scale: those of one row, or of as many rows as make up a block."""
    return rows // max(1, BLOCK // (grid.n_cols * grid.length))


def encoded(wire: Wire, lines: Tensor, groups: Tensor, splits: Sequence[int]) -> Coded:
    """The bytes of these lines for every destination.

    Args:
        wire: how they travel.
        lines: (lines, length), ordered by destination.
        groups: for int8, which lines share a scale; ascending for each destination.
        splits: lines for each destination.
    """
    if wire == "float32":
        return Coded([raw(part) for part in torch.split(lines, list(splits))], lines)
    if wire == "bfloat16":
        short = lines.to(torch.bfloat16)
        return Coded(
            [raw(part) for part in torch.split(short, list(splits))], short.to(lines.dtype)
        )
    scales = _scales(lines, groups)
    each = scales[groups][:, None]
    codes = (lines / each).nan_to_num(0.0).round().to(torch.int8)
    parcels = [
        torch.cat([raw(scales[torch.unique_consecutive(of)].to(torch.float32)), raw(part)])
        for of, part in zip(
            torch.split(groups, list(splits)), torch.split(codes, list(splits)), strict=True
        )
    ]
    return Coded(parcels, (codes.to(torch.float32) * each).to(lines.dtype))


def decoded(wire: Wire, parcel: Tensor, groups: Tensor, like: Tensor) -> Tensor:
    """The lines of a parcel, as (lines, length) in the dtype of `like`.

    Args:
        wire: how they travelled.
        parcel: their bytes.
        groups: for int8, which of them share a scale; ascending.
        like: a tensor of the same length and dtype.
    """
    length = like.shape[1]
    if wire == "float32":
        return read(parcel, like.dtype).view(-1, length)
    if wire == "bfloat16":
        return read(parcel, torch.bfloat16).to(like.dtype).view(-1, length)
    unique, which = torch.unique_consecutive(groups, return_inverse=True)
    scales = read(parcel[: 4 * len(unique)], torch.float32)
    codes = read(parcel[4 * len(unique) :], torch.int8).view(-1, length)
    return (codes.to(torch.float32) * scales[which][:, None]).to(like.dtype)


def _scales(lines: Tensor, groups: Tensor) -> Tensor:
    """The largest entry of each group, to whomever it is sent, over 127."""
    largest = torch.zeros(int(groups.max()) + 1 if len(groups) else 0)
    if len(groups):
        largest.scatter_reduce_(0, groups, lines.abs().amax(dim=1).to(torch.float32), "amax")
    return largest / 127


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in memory of their own only where they must be."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def read(parcel: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as entries."""
    size = torch.empty(0, dtype=dtype).element_size()
    aligned = parcel if parcel.storage_offset() % size == 0 else parcel.clone()
    return aligned.view(dtype)
