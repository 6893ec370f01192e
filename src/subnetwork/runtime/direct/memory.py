"""Memory for large tensors that live for a round."""

import mmap
from contextlib import suppress

import torch
from torch import Tensor

LARGE = 4 << 20  # bytes that are worth large pages
PAGE = 2 << 20


def room(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Memory to be filled; a large piece in large pages, which the system hands out faster."""
    n_bytes = shape[0] * shape[1] * torch.empty(0, dtype=dtype).element_size()
    if n_bytes < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory has no large pages
    memory = mmap.mmap(-1, -(-n_bytes // PAGE) * PAGE, flags=private)
    with suppress(OSError):  # the system has no large pages: small ones do
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8, count=n_bytes).view(dtype).view(shape)
