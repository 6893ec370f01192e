"""The same command under torchrun: every rank is a worker, rank 0 holds the model as well."""

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from subnetwork.algorithm import WorkerLostError
from subnetwork.environment import required, restarts_under_torchrun, under_several_hosts
from subnetwork.runtime.handshake import (
    LOOPBACK,
    SECRET,
    Listener,
    read_secret,
    reconnecting,
    secret_of_environment,
    write_secret,
)
from subnetwork.runtime.in_process import InProcess
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
        folder = Path(tempfile.mkdtemp(prefix="subnetwork-"))  # mode 0700
        try:
            secret = write_secret(folder)
            self.store.set(FOLDER, str(folder))
            yield secret
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def secret(self) -> bytes:
        """On the other ranks; waits for rank 0.

        Raises:
            ValueError: on several hosts, where it is not set.
            PermissionError: what rank 0 is said to have written is not this user's alone.
        """
        if self.host is not None:
            return _shared_secret()
        return read_secret(Path(self.store.get(FOLDER).decode()))

    def serve(self, build: Build) -> int:
        """On the other ranks: work off rounds until rank 0 says stop or is gone; the exit status.

        A rank whose link closes, since it was silent for too long, comes back as a new incarnation.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler would wait for the library
        join = reconnecting(self._find, self.rank, JOIN)
        while (link := join()) is not None:
            if serve(link, self.rank, build):
                return DONE
        return GONE

    def _find(self) -> tuple[str, bytes]:
        return self.store.get(ADDRESS).decode(), self.secret()


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
        ValueError: on several hosts, without a host or without a secret; or the environment is not
            as torchrun makes it.
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
    store, rank, n_workers = next(iter(rendezvous("env://")))
    attempt = restarts_under_torchrun()
    return Place(rank, n_workers, dist.PrefixStore(f"subnetwork/{attempt}", store), host)


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
