"""How a process of ours gets memory from the system, and gives it back."""

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
NEVER = 2**31 - 1  # bytes
LARGE = 4 << 20
LEAN = 256 << 10


def keep_memory() -> bool:
    """From now on this process keeps what it frees, and uses it again.

    Left alone, glibc gives large pieces back at once and gets them again, page by page and zeroed,
    at every step: a sixth of the time of a local step of a wide layer goes there. The price is
    memory, since freed pieces do not always fit again (docs/local-work.md has an example). For
    processes that do nothing but train; no number is changed by it.

    Returns:
        Whether it is so; elsewhere than in glibc it is not, and nothing has changed.
    """
    return _set_malloc({MMAP_THRESHOLD: NEVER, TRIM_THRESHOLD: NEVER})


def spare_memory() -> bool:
    """From now on this process gives back pieces of 4 MiB and more as soon as it frees them.

    Left alone, glibc keeps pieces of up to 32 MiB, cuts small pieces out of them, and gets new ones
    for the next large gradients: of a 3-layer MLP a rank had 180 MB for 148 (overhead.py). The
    price is that such gradients come from the system at every step, zeroed, as those above 32 MiB
    always do; in large pages (`environment.large_pages`) that takes less time than glibc's own way
    in small ones. All threads share one heap, as those need that take turns. No number is changed.

    Returns:
        Whether it is so; where the environment has a threshold (`MALLOC_MMAP_THRESHOLD_`), and
        elsewhere than in glibc, it is not, and nothing has changed.
    """
    return _give_back_from(LARGE)


@contextmanager
def lean_memory() -> Iterator[None]:
    """While the block lasts pieces of 256 KiB and more are given back; then as in `spare_memory`.

    For what is done once a round and leaves pieces of many sizes behind, in which those of the next
    layer find no room (benchmarks/memory.py: 0.77 of the model for 1.06 to 1.23).
    """
    _give_back_from(LEAN)
    try:
        yield
    finally:
        _give_back_from(LARGE)


def _give_back_from(n_bytes: int) -> bool:
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    return _set_malloc({MMAP_THRESHOLD: n_bytes, TRIM_THRESHOLD: n_bytes, ARENA_MAX: 1})


def give_back(address: int, n_bytes: int) -> bool:
    """Give the pages that lie within this memory back to the system; it is zeros when used again.

    Returns:
        Whether it was done; elsewhere than on Linux it is not, and nothing has changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (address + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if size <= 0:
        return False
    libc = ctypes.CDLL(None)
    at, length = ctypes.c_void_p(first), ctypes.c_size_t(size)
    return bool(libc.madvise(at, length, mmap.MADV_DONTNEED) == 0)


def _set_malloc(values: Mapping[int, int]) -> bool:
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        return all(libc.mallopt(what, value) for what, value in values.items())
    return False
