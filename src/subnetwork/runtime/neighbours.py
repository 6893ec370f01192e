"""Other workers of this machine, forked from the process that measures what one of them does."""

import mmap
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import torch

from subnetwork.algorithm import WorkerLostError
from subnetwork.nursery import FORKS, die_with_parent

REST = 255  # no work has this number
NAP = 1e-3  # seconds between two looks
PATIENCE = 300.0  # seconds until neighbours are at what they are told


@contextmanager
def forked(n: int, main: Callable[[int], object]) -> Iterator[list[int]]:
    """Yield the ids of n processes that call `main` with 0 .. n-1, each with a copy of all this.

    torch has one thread there, and `main` is to ask no device. A process ends with status 0, or 1
    where `main` raises, and says nothing. All end when the block is left, or this process does.

    Raises:
        WorkerLostError: the system has no such processes.
    """
    pids: list[int] = []
    try:
        for i in range(n):
            pids.append(_fork(main, i))
        yield pids
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):  # whoever started this one may ignore ends
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _fork(main: Callable[[int], object], i: int) -> int:
    """Its id. The process itself never comes back from here."""
    if not FORKS:
        raise WorkerLostError("processes cannot be forked safely on this system.")
    mother = os.getpid()
    try:
        with warnings.catch_warnings():  # threads of torch's are idle, and are not needed there
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    except OSError as reason:
        raise WorkerLostError(f"no process could be forked: {reason.strerror}.") from None
    if pid:
        return pid
    status = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who measures
        if os.getppid() == mother:
            torch.set_num_threads(1)  # those of the other process are not here
            main(i)
            status = 0
    finally:
        os._exit(status)


def ended_well(pids: list[int], seconds: float) -> bool:
    """Wait for processes until one of them fails; whether all ended in time, with status 0.

    Those that have ended are taken from the list: their numbers may be those of others soon.
    """
    until = time.monotonic() + seconds
    while True:
        if any(_ended(pids)):
            return False
        if not pids or time.monotonic() > until:
            return not pids
        time.sleep(NAP)


def _ended(pids: list[int]) -> list[int]:
    """The status of each process that has ended, which is taken from the list."""
    found = []
    for pid in list(pids):
        try:
            gone, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # nobody is told how it ended
            gone, status = pid, 0
        if gone:
            pids.remove(pid)
            found.append(status)
    return found


@contextmanager
def neighbours(
    n: int, work: Mapping[str, Callable[[], object]]
) -> Iterator[Callable[[str | None], None]]:
    """Have n processes that do what they are told to, over and over.

    Args:
        n: how many; 0 is none.
        work: what they can be told to do, by name; at most 255.

    Yields:
        What tells all of them, and returns when all are at it: a name, or None to rest, as at
        first. It raises WorkerLostError where one has ended, or is not at it in five minutes.

    Raises:
        WorkerLostError: as `forked`.
    """
    board, names = mmap.mmap(-1, 1 + n), list(work)
    board[:] = bytes([REST] * (1 + n))

    def labour(i: int) -> None:
        does = list(work.values())
        while True:
            told = board[1 + i] = board[0]
            if told == REST:
                time.sleep(NAP)
            else:
                does[told]()

    with forked(n, labour) as pids:

        def tell(name: str | None) -> None:
            board[0] = REST if name is None else names.index(name)
            until = time.monotonic() + PATIENCE
            while True:
                if _ended(pids) or len(pids) < n or time.monotonic() > until:
                    raise WorkerLostError(
                        f"not all of {n} processes that were to work beside this one do: memory "
                        "may be short. Measure with fewer beside it, or none."
                    )
                if all(board[1 + i] == board[0] for i in range(n)):
                    return
                time.sleep(NAP)

        yield tell
        tell(None)  # all of them have been there
