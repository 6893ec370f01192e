"""Parameters that share memory without being one: parts would hold them apart."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from subnetwork.nets.copying import plain_tensors


def check_memory(model: nn.Module) -> None:
    """Parameters are either one object under several names, which is a tie, or lie apart.

    Raises:
        ValueError: where a parameter and another tensor of the model are views of one memory, or
            entries of one parameter are.
    """
    stretches = sorted(_stretches(model), key=lambda s: (s.memory, s.start))
    for name, x, *_ in stretches:
        if isinstance(x, nn.Parameter) and x.numel() > _span(x):
            raise ValueError(
                f"Entries of {name} share one memory (it was expanded), so that a part could not "
                "train its own. Make it a tensor of its own: nn.Parameter(x.contiguous())."
            )
    for _, one_memory in groupby(stretches, key=lambda s: s.memory):
        active: list[_Stretch] = []
        for stretch in one_memory:
            active = [other for other in active if other.end > stretch.start]
            for other in active:
                _check(other, stretch)
            active.append(stretch)


class _Stretch(NamedTuple):
    """Where a tensor lies, in bytes."""

    name: str
    tensor: Tensor
    memory: tuple[str, int]
    start: int
    end: int


def _stretches(model: nn.Module) -> Iterator[_Stretch]:
    kept = ((name, x) for name, x in plain_tensors(model) if x.requires_grad)
    seen: set[int] = set()
    for name, x in (*model.named_parameters(), *model.named_buffers(), *kept):
        if id(x) in seen or x.is_meta or x.layout != torch.strided or not _is_there(x):
            continue
        seen.add(id(x))
        start = int(x.storage_offset()) * x.element_size()
        memory = (str(x.device), x.untyped_storage().data_ptr())
        yield _Stretch(name, x, memory, start, start + _span(x) * x.element_size())


def _is_there(x: Tensor) -> bool:
    """Whether it has entries in a memory of its own; wrappers of other tensors have none."""
    try:
        return x.numel() > 0 and x.untyped_storage().data_ptr() != 0
    except RuntimeError:
        return False


def _span(x: Tensor) -> int:
    """Entries from its first to its last."""
    return 1 + sum((n - 1) * int(step) for n, step in zip(x.shape, x.stride(), strict=True))


def _check(a: _Stretch, b: _Stretch) -> None:
    trained = any(isinstance(x, nn.Parameter) for x in (a.tensor, b.tensor))
    if trained and _meet(a.tensor, b.tensor):
        first, second = sorted([a.name, b.name])
        raise ValueError(
            f"{first} and {second} are views of one memory, which parts would hold twice, losing "
            "updates. Make them one Parameter (a tie), such as x @ self.enc.weight in forward."
        )


def _meet(x: Tensor, y: Tensor) -> bool:
    """Whether tensors whose stretches of one memory overlap have an entry in common."""
    dense = all(z.numel() >= _span(z) for z in (x, y))
    if dense or x.dtype != y.dtype:
        return True
    low = min(int(z.storage_offset()) for z in (x, y))
    entries = torch.arange(max(int(z.storage_offset()) + _span(z) for z in (x, y)) - low)
    taken = torch.zeros(len(entries), dtype=torch.bool)
    own, others = (
        entries.as_strided(z.shape, z.stride(), z.storage_offset() - low).reshape(-1)
        for z in (x, y)
    )
    taken[own] = True
    return bool(taken[others].any())
