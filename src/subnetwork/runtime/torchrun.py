"""The same command under torchrun: every rank is a worker, rank 0 holds the model as well."""

import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from subnetwork.algorithm import WorkerLostError
from subnetwork.environment import (
    rank_under_torchrun,
    required,
    restarts_under_torchrun,
    under_several_hosts,
)
from subnetwork.runtime.handshake import (
    LOOPBACK,
    SECRET,
    Listener,
    read_secret,
    reconnecting,
    secret_of_environment,
    tune,
    write_secret,
)
from subnetwork.runtime.in_process import InProcess
from subnetwork.runtime.rundir import private_folder
from subnetwork.runtime.seats import Remote, Seat
from subnetwork.runtime.serve import DONE, GONE, Build, serve
from subnetwork.runtime.wire import Link

JOIN = 60.0  # seconds that a rank tries to reach rank 0, also after it lost it
ADDRESS, FOLDER = "address", "folder"  # keys of the store


@dataclass(frozen=True)
class Place:
    """This process among those that torchrun started."""

    rank: int
    n_workers: int
    store: dist.Store
    host: str | None  # where rank 0 listens; None is the loopback interface: all on one host

    @contextmanager
    def seats(self) -> Iterator[tuple[Seat, ...]]:
        """On rank 0: one seat per rank, its own first. The others serve until the block is left.

        Raises:
            WorkerLostError: where a rank does not join within a minute.
        """
        with self.secret_shared() as secret:
            listener = Listener(self.n_workers, secret, host=self.host or LOOPBACK)
            self.store.set(ADDRESS, listener.address)
            remote = [Remote(rank, Rank(rank, listener)) for rank in range(1, self.n_workers)]
            try:
                _await_all(remote)
                yield (InProcess(0), *remote)
            finally:
                for seat in remote:
                    seat.leave()
                listener.close()

    @contextmanager
    def secret_shared(self) -> Iterator[bytes]:
        """On rank 0: the run's secret, which the others find until the block is left."""
        if self.host is not None:
            yield _shared_secret()
            return
        with private_folder() as folder:
            secret = write_secret(folder)
            self.store.set(FOLDER, str(folder))
            yield secret

    def secret(self) -> bytes:
        """On the other ranks; waits for rank 0.

        Raises:
            ValueError: on several hosts, where it is not set.
            PermissionError: what rank 0 is said to have written is not this user's alone.
            WorkerLostError: rank 0 is gone, or says nothing.
        """
        if self.host is not None:
            return _shared_secret()
        return read_secret(Path(self.heard(FOLDER, JOIN)))

    def serve(self, build: Build) -> int:
        """On the other ranks: work off rounds until rank 0 says stop or is gone; the exit status.

        A rank whose link closes, since it was silent for too long, comes back as a new incarnation.

        Raises:
            WorkerLostError: rank 0 is gone before this rank had a link to it.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler would wait for the library
        join = reconnecting(self._find, self.rank, JOIN)
        while (link := join()) is not None:
            if serve(link, self.rank, build):
                return DONE
        return GONE

    def heard(self, key: str, seconds: float | None = None) -> str:
        """What rank 0 said under a key; waits for it, so many seconds or as long as the store does.

        Raises:
            WorkerLostError: rank 0 is gone, or did not say it.
        """
        with asking(self.rank):
            if seconds is not None:
                self.store.wait([key], timedelta(seconds=seconds))
            return self.store.get(key).decode()

    def _find(self) -> tuple[str, bytes]:
        return self.heard(ADDRESS, JOIN), self.secret()


@dataclass(frozen=True)
class Rank:
    """The door to the seat of another rank: it comes by itself, and comes back by itself."""

    rank: int
    listener: Listener

    def arrived(self) -> Link | None:
        """The newest link of that rank."""
        return self.listener.arrived(self.rank)

    def dismissed(self, *, for_good: bool) -> None:
        """Its closed link tells it all."""

    def fate(self, wait: float = 0.0, /) -> str:
        """Torchrun knows."""
        del wait
        return "its rank does not answer; where it ended, torchrun says why"


def place_under_torchrun(host: str | None = None) -> Place:
    """Join the other processes that torchrun started.

    Args:
        host: the address of rank 0 on which it listens for the other hosts; None is the loopback
            interface, which does where all ranks are on one host.

    Raises:
        ValueError: on several hosts, without a host or without a secret; on rank 0, where the host
            is not its own; or the environment is not as torchrun makes it.
    """
    if under_several_hosts():
        if host is None:
            raise ValueError(
                "torchrun started ranks on several hosts, but rank 0 listens on its loopback "
                "interface. Give the address of rank 0's host with --host, on every rank."
            )
        _shared_secret()  # is refused before anyone waits for anyone
    for name in ("RANK", "MASTER_PORT"):
        required(name)
    if host is not None and rank_under_torchrun() == 0:
        _check_own(host)
    store, rank, n_workers = _met()
    attempt = restarts_under_torchrun()
    return Place(rank, n_workers, dist.PrefixStore(f"subnetwork/{attempt}", store), host)


@contextmanager
def asking(rank: int) -> Iterator[None]:
    """Ask torchrun's store within the block, which rank 0's host may have taken with it.

    Raises:
        WorkerLostError: it has, or what was waited for did not come.
    """
    try:
        yield
    except RuntimeError:  # all that torch raises there
        raise WorkerLostError(
            f"rank {rank} lost rank 0's store: see rank 0's own output for why."
        ) from None


def _met() -> tuple[dist.Store, int, int]:
    """The store of torchrun, this rank, and how many there are.

    On Linux the store's connection is tuned as links are: torch itself would wait for a host that
    is gone for a quarter of an hour, whatever it is told.
    """
    before = _sockets()
    store, rank, n_workers = next(iter(rendezvous("env://")))
    for number in _sockets() - before:
        with suppress(OSError), socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as end:
            tune(end)
    return store, rank, n_workers


def _sockets() -> frozenset[int]:
    """The descriptors of this process's sockets; none where the system does not list them."""
    found = set()
    with suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # it was open for the listing alone
                if str(entry.readlink()).startswith("socket:"):
                    found.add(int(entry.name))
    return frozenset(found)


def _check_own(host: str) -> None:
    """Raise ValueError where this process cannot listen at an address."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as end:
            end.bind((host, 0))
    except OSError as reason:
        raise ValueError(
            f"--host {host} is no address of rank 0's machine ({reason.strerror}). Give the one "
            "that other hosts reach, as in: ip -brief address."
        ) from None


def _await_all(seats: Sequence[Remote]) -> None:
    """Until every rank has joined: the first round is everyone's."""
    until = time.monotonic() + JOIN
    while missing := [rank for rank, seat in enumerate(seats, 1) if not seat.present()]:
        if time.monotonic() > until:
            raise WorkerLostError(
                f"ranks {missing} did not join rank 0 within {JOIN:g} s. Look above for why, or "
                "check that their hosts reach the address of rank 0."
            )
        time.sleep(0.01)


def _shared_secret() -> bytes:
    secret = secret_of_environment()
    if secret is None:
        raise ValueError(
            f"workers on several hosts prove to each other that they belong together by a secret, "
            f"but {SECRET} is not set. Set it to the same 64 hexadecimal digits on every host; "
            'python -c "import secrets; print(secrets.token_hex(32))" makes them.'
        )
    return secret
