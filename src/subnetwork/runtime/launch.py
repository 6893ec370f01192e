"""Worker processes that the command starts itself, on this host."""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path

import torch

from subnetwork.algorithm import WorkerLostError
from subnetwork.nursery import (
    FIRST_STEP,
    Child,
    Nursery,
    die_with_parent,
    leave_interrupts,
    nursery,
)
from subnetwork.runtime.handshake import Listener, connect, read_secret, write_secret
from subnetwork.runtime.memory import keep_memory
from subnetwork.runtime.rundir import private_folder
from subnetwork.runtime.seats import Remote
from subnetwork.runtime.serve import DONE, GONE, Build, serve
from subnetwork.runtime.wire import Link

START_UP = 120  # seconds for a worker process to import what it needs and join
AGAIN, LONGEST = 0.1, 30.0  # seconds until a process that ended before it joined is started again


@contextmanager
def launched(
    n_workers: int, module: str, births: Nursery | None = None
) -> Iterator[tuple[Remote, ...]]:
    """`crew`, of a number of workers that stays: yield their seats."""
    with crew(n_workers, module, births) as workers:
        yield workers.seats


@contextmanager
def crew(n_workers: int, module: str, births: Nursery | None = None) -> Iterator["Crew"]:
    """Have a process call `module.main([FOLDER, WORKER])` for every worker; yield all of them.

    One set of workers serves any number of jobs, and a worker that dies is started again. Workers
    find the coordinator, which listens on the loopback interface alone, and prove that they belong
    to the run, by an address and a secret in a folder that only this user can enter. However the
    block is left, no worker process is left behind.

    Args:
        n_workers: how many there are at first.
        module: what they run.
        births: where they come from; if left out, a nursery of their own.

    Raises:
        WorkerLostError: where a worker did not come up.
    """
    with (
        private_folder() as folder,
        closing(Listener(n_workers, write_secret(folder))) as listener,
        nursery(module, FIRST_STEP) if births is None else nullcontext(births) as source,
    ):
        (folder / "address").write_text(listener.address)
        workers = Crew(source, module, folder, listener)
        try:
            workers.at_least(n_workers)
            yield workers
            workers.at_most(0)
        finally:
            workers.end()


class Crew:
    """The workers that a command started; between two jobs there may come to be more, or fewer."""

    def __init__(self, births: Nursery, module: str, folder: Path, listener: Listener) -> None:
        self._births, self._module = births, module
        self._folder, self._listener = folder, listener
        self._there: list[tuple[Process, Remote]] = []

    @property
    def seats(self) -> tuple[Remote, ...]:
        """Where they sit."""
        return tuple(seat for _, seat in self._there)

    def at_least(self, n_workers: int) -> None:
        """Start as many as are missing, also in place of those that were dismissed for good.

        Raises:
            WorkerLostError: where one did not come up; those that were there are there.
        """
        self._listener.admit(n_workers)
        there = dict(enumerate(self._there))
        missing = [i for i in range(n_workers) if i not in there or there[i][1].closed()]
        new = {i: self._place(i) for i in missing}
        try:
            for door, _ in new.values():
                door.start()
            _await_all(new)
        except BaseException:  # Ctrl-C too; it goes on up
            _end(list(new.values()))
            raise
        self._there = [place for _, place in sorted({**there, **new}.items())]

    def at_most(self, n_workers: int) -> None:
        """Send the others away, from the last one on."""
        leaving = self._there[n_workers:]
        for door, _ in leaving:
            door.finished()
        for _, seat in leaving:
            seat.leave()
        _await_end([door for door, _ in leaving])
        _end(leaving)
        del self._there[n_workers:]

    def end(self) -> None:
        """End them all now."""
        _end(self._there)

    def _place(self, worker: int) -> "tuple[Process, Remote]":
        late = self._listener.arrived(worker)
        if late is not None:  # of one that was sent away before it had come
            late.close()
        door = Process(self._births, self._module, self._folder, worker, self._listener)
        return door, Remote(worker, door)


def _end(places: "Sequence[tuple[Process, Remote]]") -> None:
    for door, _ in places:
        door.finished()
        door.end()
    for _, seat in places:
        seat.close()


class Process:
    """The door to a seat whose worker is a process from a nursery of this one."""

    def __init__(
        self, births: Nursery, module: str, folder: Path, worker: int, listener: Listener
    ) -> None:
        self._births, self._module = births, module
        self._arguments = [str(folder), str(worker)]
        self._log = folder / f"worker{worker}.log"
        self._worker = worker
        self._listener = listener
        self._process: Child | None = None
        self._starts = 0  # since one has joined
        self._earliest = 0.0  # when the next one may start; a failure costs milliseconds
        self._closed = False
        self._last = ""  # what became of the one that was dismissed last

    def start(self) -> None:
        """Start the worker's process; its link arrives later."""
        self._earliest = time.monotonic() + min(LONGEST, AGAIN * 2 ** min(self._starts, 9))
        self._starts += 1
        name = f"worker {self._worker}"
        self._process = self._births.start(name, self._module, self._arguments, self._log)

    def arrived(self) -> Link | None:
        """The link of a worker that has joined. A process that ended before is started again.

        After a tenth of a second, then twice as long each time: a system that is short of memory or
        processes is so for a while.
        """
        link = self._listener.arrived(self._worker)
        if link is not None:
            self._starts = 0
        elif self._may_start() and self.left():
            self.start()
        return link

    def _may_start(self) -> bool:
        return bool(self._starts) and not self._closed and time.monotonic() >= self._earliest

    def dismissed(self, *, for_good: bool) -> None:
        """End the process; start another one."""
        self._last = self.fate()
        self._closed = self._closed or for_good
        self.end()
        if not self._closed:
            self.start()

    def fate(self, wait: float = 0.0, /) -> str:
        """What became of the process, and its last words; of the last one, where it is closed."""
        process = self._process
        assert process is not None
        self.wait(wait)
        if self._closed and self._last:
            return self._last
        if process.poll() is None:
            return f"process {process.pid} runs but is silent"
        how, words = process.ended()
        return f"{how} ({words})" if words else how

    def left(self) -> bool:
        """Whether the process has ended."""
        return self._process is not None and self._process.poll() is not None

    def finished(self) -> None:
        """Start no process any more."""
        self._closed = True

    def end(self) -> None:
        """End the process now, frozen or not."""
        if self._process is not None:
            self._process.kill()

    def wait(self, seconds: float) -> None:
        """Until the process has ended by itself."""
        if self._process is not None:
            self._process.wait(seconds)


def work_here(folder: Path, worker: int, build: Build) -> int:
    """The life of a launched worker: join, serve, leave; the exit status. Dies with its parent."""
    bound_to_parent()
    keep_memory()
    torch.set_num_threads(1)
    import_module(FIRST_STEP)  # where no nursery has: not later, when others wait
    link = connect((folder / "address").read_text(), worker, read_secret(folder))
    return DONE if serve(link, worker, build) else GONE


def bound_to_parent() -> None:
    """This process ends when its parent does, and leaves interrupts of all to it."""
    leave_interrupts()
    parent = os.getppid()
    die_with_parent()
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _await_all(places: Mapping[int, tuple[Process, Remote]]) -> None:
    """Until every worker has joined; one that ends before that is seen at once."""
    deadline = time.monotonic() + START_UP
    waiting = dict(places)
    while waiting:
        for worker, (door, seat) in list(waiting.items()):
            if door.left():
                raise WorkerLostError(f"worker {worker} did not come up: {door.fate()}")
            if seat.present():
                del waiting[worker]
        if waiting and time.monotonic() > deadline:
            fates = "; ".join(f"worker {i}: {door.fate()}" for i, (door, _) in waiting.items())
            raise WorkerLostError(
                f"{len(waiting)} of {len(places)} workers did not come up in {START_UP} s: {fates}."
                " Run again, with fewer workers if the machine is busy."
            )
        time.sleep(0.005)


def _await_end(doors: Sequence[Process]) -> None:
    """Two seconds for workers that were told to stop."""
    deadline = time.monotonic() + 2
    for door in doors:
        door.wait(deadline - time.monotonic())


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(GONE)
