"""What the environment says to processes, torchrun's above all, and to torch; needs no torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's own name
STARTED = "TORCHELASTIC_RUN_ID"  # what tells torchrun's processes from those started otherwise


def said(name: str, least: int = 0) -> int | None:
    """A whole number of the environment; None where it is not set, or empty.

    Raises:
        ValueError: it is something else, or below `least`.
    """
    text = os.environ.get(name, "")
    if not text:
        return None
    if not (text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise ValueError(
            f"{name}={text!r} in the environment is no whole number from {least} on, as torchrun "
            "sets it. Start the command with torchrun, or unset it."
        )
    return int(text)


def required(name: str, least: int = 0) -> int:
    """The same in a process of torchrun, where it has to be set.

    Raises:
        ValueError: it is not, or is no such number.
    """
    number = said(name, least)
    if number is None:
        raise ValueError(
            f"{name} is not set in the environment, though {STARTED} says that torchrun started "
            f"this process. Start the command with torchrun, or unset {STARTED}."
        )
    return number


def workers_under_torchrun() -> int | None:
    """How many processes torchrun started, or None where this one was started otherwise.

    Raises:
        ValueError: what the environment says of it is no number.
    """
    if os.environ.get(STARTED):
        return required("WORLD_SIZE", 1)
    said("WORLD_SIZE", 1)  # nobody goes by it, but nonsense says that something went wrong
    return None


def rank_under_torchrun() -> int:
    """Which of torchrun's processes this one is; 0 where it was started otherwise.

    Raises:
        ValueError: as `workers_under_torchrun`, or there is no such rank.
    """
    n = workers_under_torchrun()
    if n is None:
        return 0
    rank = required("RANK")
    if rank >= n:
        raise ValueError(
            f"RANK={rank} in the environment, but WORLD_SIZE={n}: ranks are 0 to {n - 1}. Start "
            "the command with torchrun."
        )
    return rank


def under_several_hosts() -> bool:
    """Whether torchrun started processes on other hosts too.

    Raises:
        ValueError: what the environment says of it is no number.
    """
    return required("LOCAL_WORLD_SIZE", 1) != required("WORLD_SIZE", 1)


def restarts_under_torchrun() -> int:
    """How often torchrun started its processes again after a failure."""
    return said("TORCHELASTIC_RESTART_COUNT") or 0


@contextmanager
def large_pages(*, wanted: bool = True) -> Iterator[None]:
    """Within the block torch asks for large pages for its large tensors, if it is imported in it.

    So it does in processes that are started there. What the environment says already stays.
    """
    if not wanted or PAGES in os.environ:
        yield
        return
    os.environ[PAGES] = "1"
    try:
        yield
    finally:
        os.environ.pop(PAGES, None)
