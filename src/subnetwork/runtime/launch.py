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
from contextlib import contextmanager
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
            seat.link.send(Header(Verb.STOP)).wait(timedelta(seconds=5))
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
    command = [sys.executable, "-m", module, str(folder), str(worker)]
    with (folder / f"worker{worker}.log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _store(folder: Path, worker: int) -> dist.FileStore:
    return dist.FileStore(str(folder / f"pair{worker}"), 2)


def _seat(folder: Path, worker: int, process: subprocess.Popen[bytes]) -> Remote:
    def fate() -> str:
        return _fate(process, folder / f"worker{worker}.log")

    _await_ready(folder, worker, process)
    return Remote(worker, pair(_store(folder, worker), worker, COORDINATOR, host=LOOPBACK), fate)


def _await_ready(folder: Path, worker: int, process: subprocess.Popen[bytes]) -> None:
    """Until the worker opened its store: a worker that dies before that is seen at once."""
    while not (folder / f"pair{worker}").exists():
        if process.poll() is not None:
            fate = _fate(process, folder / f"worker{worker}.log")
            raise WorkerLostError(f"worker {worker} did not come up: {fate}")
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


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait briefly for workers that were told to stop, then make them."""
    for process, patience in zip(processes, [2.0] + [0.5] * len(processes), strict=False):
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
    for process in processes:
        process.kill()
        process.wait()


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(3)
