"""Parts of named tensors by coordinate: what one rank of several writes, and what it reads back.

A tensor is a row of entries (row-major). A rank holds some of them: a flat range, or an index of
flat positions. Nothing here depends on how many ranks there are, so what n ranks wrote is read by
one, or by any other number.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

At: TypeAlias = range | Tensor
"""Flat positions: a range of step 1, or ascending int64 positions."""

Kind: TypeAlias = tuple[torch.dtype, Sequence[int]]
"""Dtype and shape of a whole tensor."""


@dataclass(frozen=True)
class Piece:
    """Some entries of one tensor: `values[j]` is its entry `at[j]`; `values` is flat."""

    name: str
    at: At
    values: Tensor

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.at),):
            raise ValueError(
                f"A piece of {self.name} has {len(self.at)} positions for values of shape "
                f"{tuple(self.values.shape)}. Give it one flat value for each position."
            )
        ascends = isinstance(self.at, range) or bool((self.at.diff() > 0).all())
        if not ascends or (isinstance(self.at, range) and self.at.step != 1):
            raise ValueError(f"The positions of a piece of {self.name} have to ascend. Sort them.")


def even_ranges(sizes: Mapping[str, int], n: int) -> list[dict[str, range]]:
    """Flat ranges that share the entries of some tensors out among n ranks, as evenly as can be.

    Args:
        sizes: entries of every tensor; their order is that of the cut.
        n: number of ranks.

    Returns:
        For each rank, its range of every tensor that it holds entries of. Every entry is held once.

    >>> even_ranges({"w": 6, "v": 2}, 2)
    [{'w': range(0, 4)}, {'w': range(4, 6), 'v': range(0, 2)}]
    """
    total = sum(sizes.values())
    shares: list[dict[str, range]] = []
    for rank in range(n):
        low, high = total * rank // n, total * (rank + 1) // n
        share, before = {}, 0
        for name, size in sizes.items():
            held = range(max(low - before, 0), min(high - before, size))
            if held:
                share[name] = held
            before += size
        shares.append(share)
    return shares


def cut(tensors: Mapping[str, Tensor], share: Mapping[str, At]) -> list[Piece]:
    """The pieces of whole tensors at some positions; ranges are views, indices are copies."""
    flat = {name: tensors[name].detach().reshape(-1) for name in share}
    return [Piece(name, at, taken(flat[name], at)) for name, at in share.items()]


def taken(flat: Tensor, at: At) -> Tensor:
    """The entries of a flat tensor at some positions."""
    return flat[index(at)]


def kinds_of(tensors: Mapping[str, Tensor]) -> dict[str, Kind]:
    """Dtype and shape of every tensor."""
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def assembled(kinds: Mapping[str, Kind], pieces: Iterable[Piece]) -> dict[str, Tensor]:
    """Whole tensors of these dtypes and shapes from pieces that hold every entry once.

    Raises:
        ValueError: an entry is held by no piece or by two, or a piece is of no known tensor.
    """
    whole = {name: torch.empty(prod(shape), dtype=dtype) for name, (dtype, shape) in kinds.items()}
    seen = {name: torch.zeros(len(flat), dtype=torch.bool) for name, flat in whole.items()}
    for piece in pieces:
        if piece.name not in whole:
            raise ValueError(f"There is a piece of {piece.name}, which is none of the tensors.")
        size = len(whole[piece.name])
        if len(piece.at) and not 0 <= int(piece.at[0]) <= int(piece.at[-1]) < size:
            raise ValueError(f"A piece of {piece.name} reaches beyond its {size} entries.")
        if taken(seen[piece.name], piece.at).any():
            raise ValueError(f"Entries of {piece.name} are held by two pieces.")
        whole[piece.name][index(piece.at)] = piece.values
        seen[piece.name][index(piece.at)] = True
    for name, mask in seen.items():
        if not mask.all():
            held = f"{int(mask.sum())} of its {mask.numel()} entries"
            raise ValueError(f"The pieces of {name} hold {held}. Read all shards of one round.")
    return {name: whole[name].reshape(tuple(shape)) for name, (_, shape) in kinds.items()}


def index(at: At) -> slice | Tensor:
    """Positions as an index into a flat tensor."""
    return slice(at.start, at.stop) if isinstance(at, range) else at


def overlap(wanted: At, held: At) -> tuple[At, At]:
    """Where two sets of positions meet: places within `wanted`, and places within `held`."""
    if isinstance(wanted, range) and isinstance(held, range):
        low, high = max(wanted.start, held.start), min(wanted.stop, held.stop)
        high = max(low, high)
        return (
            range(low - wanted.start, high - wanted.start),
            range(low - held.start, high - held.start),
        )
    if isinstance(held, range):
        assert not isinstance(wanted, range)
        low, high = torch.searchsorted(wanted, torch.tensor([held.start, held.stop])).tolist()
        return range(low, high), wanted[low:high] - held.start
    if isinstance(wanted, range):
        places_held, places_wanted = overlap(held, wanted)
        return places_wanted, places_held
    places = torch.searchsorted(held, wanted).clamp(max=max(len(held) - 1, 0))
    met = held[places] == wanted if len(held) else torch.zeros(len(wanted), dtype=torch.bool)
    return met.nonzero().reshape(-1), places[met]
