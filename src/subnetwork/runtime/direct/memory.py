"""Memory for large tensors that live for a round."""

import mmap
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor

from subnetwork.runtime.memory import give_back

LARGE = 4 << 20  # bytes that are worth large pages
PAGE = 2 << 20
ALIGNED = 64
CLOSE = 9 / 8  # of what is needed: so much memory at most is what lasts put into


def room(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Memory to be filled; a large piece in large pages, which the system hands out faster.

    Its end, which fills no large page, is in small ones.

    Raises:
        MemoryError: the system has none; no OSError, which who writes a file takes for a disk's.
    """
    n_bytes = _n_bytes(shape, dtype)
    if n_bytes < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory has no large pages
    try:
        memory = mmap.mmap(-1, -(-n_bytes // PAGE) * PAGE, flags=private)
    except OSError:
        raise MemoryError(f"the system has no {n_bytes / 1e6:.1f} MB to give") from None
    with suppress(OSError):  # the system has no large pages: small ones do
        memory.madvise(mmap.MADV_HUGEPAGE, 0, n_bytes // PAGE * PAGE)
    return torch.frombuffer(memory, dtype=torch.uint8, count=n_bytes).view(dtype).view(shape)


def made(
    shape: tuple[int, int], dtype: torch.dtype, spare: "Spare | None", *, lasts: bool = False
) -> Tensor:
    """Memory to be filled, out of `spare` where there is some; see `Spare.room`."""
    return room(shape, dtype) if spare is None else spare.room(shape, dtype, lasts=lasts)


class Spare:
    """Memory of large tensors that nobody needs any more, for an exchange to use again.

    The system zeroes what it hands out, which takes as long as a copy: a quarter of a hand-over of
    wide layers. Gradients of the last local step are as large as what is handed over.
    """

    def __init__(self) -> None:
        """None yet."""
        self._free: list[Tensor] = []  # bytes
        self._seen: set[int] = set()  # where memory starts that was taken

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Take the memory of tensors that the caller lets go of; they must not be used any more.

        Small ones are left alone, and those that are not all that their memory holds.
        """
        for tensor in tensors:
            memory = tensor.detach()
            if _owns_memory(memory) and memory.data_ptr() not in self._seen:
                self._seen.add(memory.data_ptr())
                self._free.append(memory.view(-1).view(torch.uint8))

    def room(self, shape: tuple[int, int], dtype: torch.dtype, *, lasts: bool = False) -> Tensor:
        """Memory to be filled: some of this; or new, and as much of this goes back to the system.

        Args:
            shape: (lines, length).
            dtype: of the entries.
            lasts: it outlives the exchange, and with it all of the memory that it is cut from.
        """
        n_bytes = _n_bytes(shape, dtype)
        if n_bytes < LARGE:
            return room(shape, dtype)
        fits = [i for i, m in enumerate(self._free) if len(m) >= n_bytes]
        if lasts:
            fits = [i for i in fits if _in_memory_of(self._free[i]) <= CLOSE * n_bytes]
        if not fits:
            self.give_back(n_bytes)
            return room(shape, dtype)
        # whole pieces are for what lasts: parts of some are used first
        memory = self._free.pop(max(fits, key=lambda i: (self._is_part(i), len(self._free[i]))))
        rest = memory[-(-n_bytes // ALIGNED) * ALIGNED :]
        if len(rest) >= LARGE:
            self._free.append(rest)
        return memory[:n_bytes].view(dtype).view(shape)

    def give_back(self, n_bytes: int) -> None:
        """So many bytes to the system, as far as there are any, for what is about to be made.

        Less than a large piece is not worth it.
        """
        while n_bytes >= LARGE and self._free:
            i = min(range(len(self._free)), key=self._is_part)
            part, memory = self._is_part(i), self._free.pop(i)
            kept = max(0, len(memory) - n_bytes) // ALIGNED * ALIGNED
            kept = kept if kept >= LARGE else 0
            n_bytes -= len(memory) - kept
            if kept or part:  # others hold the memory; else it goes with its last tensor
                give_back(memory.data_ptr() + kept, len(memory) - kept)
            if kept:
                self._free.append(memory[:kept])

    def clear(self) -> None:
        """Give it all back to the system."""
        self.give_back(sum(map(len, self._free)))
        self._free.clear()

    def _is_part(self, i: int) -> bool:
        """Whether others have some of the memory of a piece."""
        return _in_memory_of(self._free[i]) > len(self._free[i])


def _n_bytes(shape: tuple[int, int], dtype: torch.dtype) -> int:
    return shape[0] * shape[1] * torch.empty(0, dtype=dtype).element_size()


def _in_memory_of(tensor: Tensor) -> int:
    """Bytes that are held for as long as the tensor is."""
    return tensor.untyped_storage().nbytes()


def _owns_memory(tensor: Tensor) -> bool:
    """Whether it is large, here, and the whole of its memory: no view of what others hold."""
    n_bytes = tensor.numel() * tensor.element_size()
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and n_bytes >= LARGE
        and tensor.is_contiguous()
        and not (tensor.is_conj() or tensor.is_neg())
        and _in_memory_of(tensor) == n_bytes
    )
