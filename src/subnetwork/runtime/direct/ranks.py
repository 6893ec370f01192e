"""Processes that hand over directly: those that the command starts itself, or torchrun's."""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch.distributed as dist

from subnetwork.algorithm import WorkerLostError
from subnetwork.nursery import FIRST_STEP, Child, Nursery, nursery
from subnetwork.runtime.direct.gloo import LONGEST
from subnetwork.runtime.direct.place import Rank
from subnetwork.runtime.handshake import LOOPBACK
from subnetwork.runtime.rundir import private_folder

LOST = 3  # exit status of a rank whose run cannot go on
START_UP = 300.0  # seconds for a process to import what it needs; one that ends is seen at once
LEAVE = 10.0  # for ranks to end by themselves after the last round
GRACE = 8.0  # for the round under way after Ctrl-C
POLL = 0.05
BEAT = 0.5  # seconds between two signs of life of a rank
FROZEN = 30.0  # without one, it is ended; those in which nothing here ran do not count
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what ends a run


@contextmanager
def launched_ranks(
    n_workers: int, module: str, births: Nursery | None = None, *, replaces: bool = False
) -> Iterator[Rank]:
    """Have a process call `module.main([FOLDER, RANK, N, "0"])` for the ranks from 1 on.

    Yields this one as rank 0. `births` is where they come from; if left out, a nursery of their
    own.

    They find each other by a file in a folder that only this user can enter, and listen on the
    loopback interface alone. When one of them dies, all end within a second, and the error that
    rank 0 raises says which one died and how; with `replaces`, only where a second one dies before
    `Rank.refill` has filled its seat. However the block is left, no process is left behind.

    Raises:
        WorkerLostError: where a rank did not come up.
    """
    with (
        private_folder() as folder,
        nursery(module, FIRST_STEP) if births is None else nullcontext(births) as source,
    ):
        store = dist.FileStore(str(folder / "store"), -1)
        children = _Children(source, folder, module, n_workers)
        try:
            children.start()
            _await(children, store)
            with _grace(children):
                refill = partial(_refill, children, store) if replaces else None
                ready = partial(_await_meeting, children, store)
                met = partial(children.replacing, replaces)
                own = Rank(0, n_workers, store, LOOPBACK, children.fate, owns=True)
                own = replace(own, refill=refill, ready=ready, met=met)
                yield replace(own, patience=LONGEST)  # who dies or freezes is seen to by a thread
                children.leave()
        finally:
            children.end()


def rank_here(folder: Path, rank: int, n_workers: int, number: int = 0) -> Rank:
    """The place of a process that `launched_ranks` started, for a generation.

    From now on it shows that it lives: a thread of it touches a file.
    """
    beat = _beat(folder, rank)
    beat.touch()
    threading.Thread(target=_beating, args=(beat,), daemon=True).start()
    store = dist.FileStore(str(folder / "store"), -1)
    store.set(f"here/{rank}", "")
    return Rank(rank, n_workers, store, LOOPBACK, number=number, patience=LONGEST)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Yield the question whether an interrupt came: the round under way is ended then, and kept.

    A second interrupt is one at once.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in ENDS}

    def note(number: int, _frame: object) -> None:
        asked.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in ENDS:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class _Children:
    """The processes of the other ranks, watched by a thread: when one dies, the others end too."""

    def __init__(self, births: Nursery, folder: Path, module: str, n_workers: int) -> None:
        self._births, self._folder, self._module = births, folder, module
        self._n_workers = n_workers
        self._processes: dict[int, Child] = {}
        self._replaces = False
        self._replaced: set[Child] = set()  # those that died, which was no end
        self._beats: dict[Child, tuple[int, float]] = {}  # the last one, and seconds without one
        self._frozen: set[Child] = set()  # those that were ended for that
        self._vacant: tuple[int, str] | None = None  # a rank, and how it died
        self._noticed = threading.Event()  # that a seat is vacant, or that all is over
        self._dead: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        for rank in range(1, self._n_workers):
            self._start(rank, 0)
        self._thread.start()

    def replace(self, number: int) -> str:
        """Start a process in the seat that is vacant, for a generation; says who died and how."""
        self._noticed.wait(timeout=2.0)
        if self._dead is not None or self._vacant is None:
            raise WorkerLostError(
                self._dead or "A connection between ranks broke, though no rank was seen to die."
            )
        rank, words = self._vacant
        self._start(rank, number)
        return words

    def replacing(self, replaces: bool) -> None:
        """Whether from now on a death is no end."""
        self._replaces = replaces

    def filled(self) -> None:
        """The seat is vacant no more."""
        self._vacant = None
        self._noticed.clear()

    def _start(self, rank: int, number: int) -> None:
        arguments = [str(self._folder), str(rank), str(self._n_workers), str(number)]
        log = self._folder / f"rank{rank}.log"
        _beat(self._folder, rank).unlink(missing_ok=True)
        self._processes[rank] = self._births.start(f"rank {rank}", self._module, arguments, log)

    def fate(self) -> str | None:
        """Who died and how, as soon as that is known; None where nobody did."""
        self._noticed.wait(timeout=2.0)
        return self._dead or (f"{self._vacant[1]}." if self._vacant is not None else None)

    def leave(self) -> None:
        """Wait for the ranks to end by themselves."""
        until = time.monotonic() + LEAVE
        while time.monotonic() < until and self._running():
            time.sleep(POLL)

    def end(self) -> None:
        """End them all now."""
        self._over.set()
        for process in self._processes.values():
            process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _running(self) -> list[int]:
        return [rank for rank, p in self._processes.items() if p.poll() is None]

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over.wait(POLL):
            now = time.monotonic()
            self._end_frozen(min(now - last, 4 * POLL))
            last = now
            ended = self._ended()
            if not any(ended.values()):
                continue
            causes = [r for r, code in ended.items() if code and code != LOST]
            if not causes:  # those that were left alone may be seen before the one that left
                self._over.wait(4 * POLL)
                ended = self._ended()
                causes = [r for r, code in ended.items() if code and code != LOST]
            if self._may_be_replaced(causes, ended):
                continue
            causes = causes or [r for r, code in ended.items() if code]
            self._dead = "; ".join(map(self._last_words, causes)) + "."
            self._noticed.set()
            for process in self._processes.values():
                process.kill()  # whoever waits for it sees a closed connection, and not nothing
            return

    def _end_frozen(self, seconds: float) -> None:
        """End the ranks that have shown no sign of life; so many seconds went by since last."""
        for rank, process in list(self._processes.items()):
            beat = _touched(_beat(self._folder, rank))
            before, silent = self._beats.get(process, (0, 0.0))
            if not beat or beat != before:
                self._beats[process] = beat, 0.0
            elif silent < FROZEN:
                self._beats[process] = beat, silent + seconds
            elif process not in self._frozen and process.poll() is None:
                self._frozen.add(process)
                process.kill()

    def _ended(self) -> dict[int, int | None]:
        """Exit statuses by rank, without those that died and are replaced."""
        return {r: p.poll() for r, p in self._processes.items() if p not in self._replaced}

    def _may_be_replaced(self, causes: list[int], ended: dict[int, int | None]) -> bool:
        """Whether one rank died that can be replaced; its seat is vacant then."""
        if not self._replaces or self._vacant is not None or len(causes) != 1:
            return False
        (rank,) = causes
        if [r for r, code in ended.items() if code] != causes:
            return False
        self._replaced.add(self._processes[rank])
        self._vacant = rank, self._last_words(rank)
        self._noticed.set()
        return True

    def _last_words(self, rank: int) -> str:
        process = self._processes[rank]
        how, words = process.ended()
        if process in self._frozen:
            how = f"process {process.pid} was silent for {FROZEN:g} s, and was ended"
        return f"rank {rank} died ({how}{f': {words}' if words else ''})"


def _beat(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.beat"


def _beating(path: Path) -> None:
    while path.parent.exists():
        with suppress(OSError):
            os.utime(path)
        time.sleep(BEAT)


def _touched(path: Path) -> int:
    """When a file was touched last; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _await(children: _Children, store: dist.Store) -> None:
    """Until every rank is there: one that ends before that is seen at once."""
    until = time.monotonic() + START_UP
    waiting = set(range(1, children._n_workers))
    while waiting:
        waiting = {rank for rank in waiting if not store.check([f"here/{rank}"])}
        if children._dead is not None:
            raise WorkerLostError(f"{children._dead} It did not come up.")
        if time.monotonic() > until:
            raise WorkerLostError(
                f"ranks {sorted(waiting)} did not come up in {START_UP:g} s. Run again, with fewer "
                "workers if the machine is busy."
            )
        time.sleep(0.01)


def _await_meeting(children: _Children, store: dist.Store) -> None:
    """Until every rank has cut its model and is about to meet: gloo would not see one that died."""
    others = [f"here/0/{rank}" for rank in range(1, children._n_workers)]
    while not store.check(others):
        if children._dead is not None:
            raise WorkerLostError(f"{children._dead} It had not met the others yet.")
        time.sleep(0.01)


def _refill(children: _Children, store: dist.Store, number: int, stop: Callable[[], bool]) -> str:
    """Have all ranks there for a generation, a dead one's seat filled; says who died and how."""
    words = children.replace(number)
    until = time.monotonic() + START_UP
    while not store.check([f"here/{number}/{r}" for r in range(1, children._n_workers)]):
        if children._dead is not None or stop() or time.monotonic() > until:
            raise WorkerLostError(children._dead or f"{words}, and was not replaced.")
        time.sleep(0.01)
    children.filled()
    return words


@contextmanager
def _grace(children: _Children) -> Iterator[None]:
    """After an interrupt the ranks get some seconds; then they are ended, whatever they wait for.

    A process that waits inside a library cannot be interrupted by Python's handlers: a thread
    is told of the signal by the wakeup descriptor, and what this process waits for fails.
    Signals that a library has handlers for end nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    before = signal.set_wakeup_fd(near.fileno(), warn_on_full_buffer=False)
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if select.select([far], [], [], POLL)[0] and set(far.recv(1 << 12)) & set(ENDS):
                if not over.wait(GRACE):
                    for process in children._processes.values():
                        process.kill()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.set_wakeup_fd(before)
        near.close()
        far.close()
