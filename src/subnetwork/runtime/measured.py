"""What a round took, worker by worker: seconds, bytes on the wire, memory."""

import math
import os
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

STATUS = Path("/proc/self/status")
MEMORY = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of this container, where it has a limit


@dataclass(frozen=True)
class Measured:
    """One worker's part of one round.

    Of a worker that answered, `compute` + `exchange` + `wait` are the seconds of the round; of one
    that did not, they are zero: what it did is not known.
    """

    round: int
    worker: int
    compute: float = 0.0  # seconds of local steps, by the worker's clock
    exchange: float = 0.0  # seconds until its answer was there, less those: packing and the wire
    wait: float = 0.0  # seconds from its answer to the end of the round: the others'
    down: int = 0  # bytes that went over its socket, headers included
    up: int = 0
    peak: int = 0  # bytes: the most memory its process has held so far; 0: not known


Measure: TypeAlias = Callable[[Measured], None]


def unmeasured(measured: Measured) -> None:
    """Tell nobody."""
    del measured


def split(compute: float, started: float, answered: float, ended: float) -> dict[str, float]:
    """Seconds of compute, exchange and wait of a worker that answered in between.

    `compute` is what the worker says; it cannot have worked for longer than it was waited for.

    >>> split(2.0, started=10.0, answered=12.5, ended=14.0)
    {'compute': 2.0, 'exchange': 0.5, 'wait': 1.5}
    """
    if not math.isfinite(compute):
        return {}
    took = answered - started
    compute = min(max(compute, 0.0), took)
    return {"compute": compute, "exchange": took - compute, "wait": ended - answered}


def by_worker(measured: Sequence[Measured], n_workers: int) -> dict[str, list[Any]]:
    """The columns of a record's row: sums over the row's rounds, a number for each worker.

    `peak_bytes` is the largest of the row, not a sum.
    """
    own = [[m for m in measured if m.worker == worker] for worker in range(n_workers)]
    return {
        "wire_down": [sum(m.down for m in of_worker) for of_worker in own],
        "wire_up": [sum(m.up for m in of_worker) for of_worker in own],
        "compute_seconds": [sum(m.compute for m in of_worker) for of_worker in own],
        "exchange_seconds": [sum(m.exchange for m in of_worker) for of_worker in own],
        "wait_seconds": [sum(m.wait for m in of_worker) for of_worker in own],
        "peak_bytes": [max((m.peak for m in of_worker), default=0) for of_worker in own],
    }


def peak_memory() -> int:
    """The most memory, in bytes, that this process has held so far (VmHWM on Linux)."""
    if STATUS.exists():
        return 1024 * (_field(STATUS, "VmHWM:") or 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # not Linux: bytes on macOS, else KiB
    return peak if sys.platform == "darwin" else peak * 1024


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes that processes may still take here; infinity where that is not known.

    Of a container within the limit of its control group (of version 2, which it sees as the root).
    """
    free = _field(MEMORY, "MemAvailable:")
    if free is None:
        return math.inf
    try:
        most, now = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no container, or "max"
        return 1024 * free
    files = _field(CGROUP / "memory.stat", "inactive_file") or 0  # let go of when others want it
    return min(1024 * free, max(0, most - now + files))


def _field(path: Path, name: str) -> int | None:
    """A number of a table of the system's, in its unit; None where it is not there."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(line[1]) for line in lines if line[:1] == [name]), None)
