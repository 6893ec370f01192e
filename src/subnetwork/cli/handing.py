"""The ranks of `subnetwork train --exchange direct`: this command is one of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from subnetwork.methods import Training

if TYPE_CHECKING:
    from subnetwork.cli.keeping import Keeping
    from subnetwork.methods.rows import Method
    from subnetwork.runtime import Place
    from subnetwork.runtime.direct import Rank

EXCHANGE = "exchange"  # a key of torchrun's store


def check_exchange(run: Training, row: "Method", keeping: "Keeping", *, here: bool) -> None:
    """Raise ValueError for what direct hand-over cannot do."""
    from subnetwork.experiments.direct import check_direct

    if run.exchange != "direct":
        return
    if here:
        raise ValueError(
            "--here trains in one process, where nothing is handed over. Drop it, or --exchange "
            "direct."
        )
    if keeping.start is not None:
        raise ValueError(
            "--from reads a whole model, which no rank holds with --exchange direct. Take round 0 "
            "with --exchange star --rounds 1, then go on: --resume --exchange direct."
        )
    check_direct(run.method, row)


def say_exchange(place: "Place", exchange: str) -> None:
    """Rank 0 of torchrun tells the others how the run exchanges: a resumed run knows it alone."""
    place.store.set(EXCHANGE, exchange)


def exchange_of(place: "Place") -> str:
    """What rank 0 said."""
    return place.store.get(EXCHANGE).decode()


@contextmanager
def handing_over(n_workers: int, place: "Place | None") -> Iterator["Rank"]:
    """Yield rank 0, beside processes of this command or of torchrun."""
    from subnetwork.experiments.rank import MODULE
    from subnetwork.runtime.direct import launched_ranks, stopping

    with stopping() as stop:
        if place is not None:
            say_exchange(place, "direct")
            yield _rank_of(place, stop)
            return
        with launched_ranks(n_workers, MODULE) as rank:
            yield replace(rank, stop=stop)


def followed(place: "Place") -> int:
    """Another rank of torchrun: take part; the exit status."""
    from subnetwork.algorithm import RunFailedError
    from subnetwork.experiments.direct import follow
    from subnetwork.runtime.direct import LOST, stopping

    with stopping() as stop:
        try:
            follow(_rank_of(place, stop))
        except (RunFailedError, KeyboardInterrupt):
            return LOST  # rank 0 says why
    return 0


def _rank_of(place: "Place", stop: Callable[[], bool]) -> "Rank":
    import torch.distributed as dist

    from subnetwork.runtime.direct import Rank
    from subnetwork.runtime.handshake import LOOPBACK

    store = dist.PrefixStore("direct", place.store)
    host = None if place.host is not None else LOOPBACK
    return Rank(place.rank, place.n_workers, store, host, stop=stop)
