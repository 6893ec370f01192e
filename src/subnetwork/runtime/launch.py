"""Worker processes that the command starts itself, on this host."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from subnetwork.algorithm import WorkerLostError
from subnetwork.runtime.pairs import COORDINATOR, WORKER, pair
from subnetwork.runtime.seats import Remote
from subnetwork.runtime.serve import Build, serve
from subnetwork.runtime.wire import Header, Verb

LOOPBACK = "127.0.0.1"
START_UP = 120  # seconds for a worker process to import what it needs


@contextmanager
def launched(n_workers: int, module: str) -> Iterator[tuple[Remote, ...]]:
    """Start `python -m module FOLDER WORKER` for every worker; yield their seats.

    One set of workers serves any number of jobs. The ends of every link meet in a folder that only
    this user can enter, and listen on the loopback interface alone. However the block is left, no
    worker process is left behind.

    Raises:
        WorkerLostError: where a worker did not come up.
    """
    folder = Path(tempfile.mkdtemp(prefix="subnetwork-"))  # mode 0700
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes += [_start(module, folder, worker) for worker in range(n_workers)]
        seats = tuple(_seat(folder, worker, process) for worker, process in enumerate(processes))
        yield seats
        for seat in seats:
            with suppress(RuntimeError):  # its work is done: whether it still listens is no matter
                seat.link.send(Header(Verb.STOP)).wait(timedelta(seconds=5))
        _await_end(processes)
    finally:
        _end(processes)
        shutil.rmtree(folder, ignore_errors=True)


def work_here(folder: Path, worker: int, build: Build) -> None:
    """The life of a launched worker: join, serve, leave. Leaves too when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator, which ends us
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # a process's first optimizer imports for a second: not later
    serve(pair(_store(folder, worker), worker, WORKER, host=LOOPBACK), worker, build)


def _start(module: str, folder: Path, worker: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # -P: a random.py in the current folder is none of ours
    command = [sys.executable, "-P", "-m", module, str(folder), str(worker)]
    with (folder / f"worker{worker}.log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _store(folder: Path, worker: int) -> dist.FileStore:
    return dist.FileStore(str(folder / f"pair{worker}"), 2)


def _seat(folder: Path, worker: int, process: subprocess.Popen[bytes]) -> Remote:
    def fate() -> str:
        return _fate(process, folder / f"worker{worker}.log")

    _await_store(folder, worker, process)
    try:
        link = pair(_store(folder, worker), worker, COORDINATOR, host=LOOPBACK)
    except RuntimeError:
        raise WorkerLostError(f"worker {worker} did not join: {fate()}. Run again.") from None
    return Remote(worker, link, fate)


def _await_store(folder: Path, worker: int, process: subprocess.Popen[bytes]) -> None:
    """Until the worker opened its store: a worker that dies before that is seen at once."""
    deadline = time.monotonic() + START_UP
    while not (folder / f"pair{worker}").exists():
        if process.poll() is not None:
            fate = _fate(process, folder / f"worker{worker}.log")
            raise WorkerLostError(f"worker {worker} did not come up: {fate}")
        if time.monotonic() > deadline:
            raise WorkerLostError(
                f"worker {worker} did not come up in {START_UP} s: process {process.pid} runs but "
                "is silent. Run again, with fewer workers if the machine is busy."
            )
        time.sleep(0.01)


def _fate(process: subprocess.Popen[bytes], log: Path) -> str:
    """What became of a worker process, in words."""
    try:
        code = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return f"process {process.pid} runs but its connection is closed or silent"
    if code < 0:
        return f"process {process.pid} was ended by {signal.Signals(-code).name}"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"process {process.pid} left with status {code}" + (f" ({lines[-1]})" if lines else "")


def _await_end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Two seconds for workers that were told to stop."""
    deadline = time.monotonic() + 2
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(3)
