"""The same command under torchrun: every rank is a worker, rank 0 holds the model as well."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from subnetwork.runtime.pairs import COORDINATOR, WORKER, pair
from subnetwork.runtime.seats import InProcess, Remote, Seat
from subnetwork.runtime.serve import Build, serve
from subnetwork.runtime.wire import Header, Verb


@dataclass(frozen=True)
class Place:
    """This process among those that torchrun started."""

    rank: int
    n_workers: int
    store: dist.Store

    @contextmanager
    def seats(self) -> Iterator[tuple[Seat, ...]]:
        """On rank 0: one seat per rank, its own first. The others serve until the block is left."""
        ranks = range(1, self.n_workers)
        links = [pair(self.store, rank, COORDINATOR, host=None) for rank in ranks]
        remote = [Remote(rank, link, _fate) for rank, link in zip(ranks, links, strict=True)]
        yield (InProcess(0), *remote)
        for seat in remote:
            with suppress(RuntimeError):  # its work is done: whether it still listens is no matter
                seat.link.send(Header(Verb.STOP)).wait(timedelta(seconds=5))

    def serve(self, build: Build) -> None:
        """On the other ranks: work off rounds until rank 0 leaves its block or dies."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler would wait for the library
        serve(pair(self.store, self.rank, WORKER, host=None), self.rank, build)


def workers_under_torchrun() -> int | None:
    """How many processes torchrun started, or None where this one was started by hand."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def place_under_torchrun() -> Place:
    """Join the other processes that torchrun started."""
    store, rank, n_workers = next(iter(rendezvous("env://")))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Place(rank, n_workers, dist.PrefixStore(f"subnetwork/{attempt}", store))


def _fate() -> str:
    return "its rank left; torchrun prints why above"
