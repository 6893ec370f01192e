"""x + mean_i (z_i - x) over the holders of an entry, for every kind of number.

Whole numbers and booleans have no mean. Each keeps its value unless a holder changed it, and takes
then the value of the last of those, in the order of the workers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from subnetwork.nets.entries import Entries


def has_mean(tensor: Tensor) -> bool:
    """Whether entries are real or complex numbers; whole numbers and booleans have no mean."""
    return tensor.is_floating_point() or tensor.is_complex()


def change(value: Tensor, entry: Tensor) -> Tensor:
    """What a holder did: the difference, or the bits that differ. Zero where it did nothing."""
    if not has_mean(entry):
        return value ^ entry
    if entry.isfinite().all():
        return value - entry
    return torch.where(value == entry, 0, value - entry)  # where inf - inf would be no number


def added(total: Tensor, more: Tensor) -> Tensor:
    """The changes of some workers and that of the next: the sum, or the last that is one."""
    return total + more if has_mean(total) else torch.where(more != 0, more, total)


def changed(entry: Tensor, total: Tensor, n_holders: Tensor) -> Tensor:
    """The entries after all their holders' changes."""
    if not has_mean(entry):
        return entry ^ total
    if entry.is_complex():  # complex division rounds in other ways than that of two reals
        share = torch.view_as_complex(torch.view_as_real(total) / n_holders[..., None])
        return entry + share
    return entry + total / n_holders


def mean_over_all(entry: Tensor, values: Sequence[Tensor]) -> None:
    """What `mean_over_holders` does where several workers hold every entry, in fewer passes."""
    if not has_mean(entry):
        total = torch.zeros_like(entry)
        for value in values:
            total = added(total, change(value, entry))
        entry ^= total
        return
    total = change(values[0], entry)
    for value in values[1:]:
        total += change(value, entry)
    share = torch.view_as_real(total) if total.is_complex() else total
    share /= len(values)
    entry += total


def mean_over_holders(entry: Tensor, blocks: Sequence[Entries], values: Sequence[Tensor]) -> None:
    """The mean over the holders of every entry, in place; of one holder its value, to the bit.

    Args:
        entry: the whole tensor.
        blocks: which entries each holder has.
        values: and what they are there.
    """
    sole, total = entry.clone(), torch.zeros_like(entry)
    holders = torch.zeros(entry.shape, dtype=torch.int32, device=entry.device)
    for block, value in zip(blocks, values, strict=True):
        sole[block.key] = value
        total[block.key] = added(total[block.key], change(value, entry[block.key]))
        holders[block.key] += 1
    merged = changed(entry, total, holders.clamp(min=1))
    entry.copy_(torch.where(holders > 1, merged, sole))
