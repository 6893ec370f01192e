"""How a process of ours gets memory from the system: once."""

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
NEVER = 2**31 - 1  # bytes


def keep_memory() -> bool:
    """From now on this process keeps what it frees, and uses it again.

    Left alone, glibc gives large pieces back at once and gets them again, page by page and zeroed,
    at every step: a sixth of the time of a local step of a wide layer goes there. The price is
    memory, since freed pieces do not always fit again (docs/local-work.md has an example). For
    processes that do nothing but train; no number is changed by it.

    Returns:
        Whether it is so; elsewhere than in glibc it is not, and nothing has changed.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(MMAP_THRESHOLD, NEVER) and libc.mallopt(TRIM_THRESHOLD, NEVER))
    return False
