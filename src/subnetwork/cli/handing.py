"""The ranks of `subnetwork train --exchange direct`: this command is one of them."""

import ipaddress
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from subnetwork.algorithm import RunFailedError
from subnetwork.environment import required, restarts_under_torchrun, under_several_hosts
from subnetwork.methods import Training
from subnetwork.nursery import Nursery

if TYPE_CHECKING:
    from subnetwork.cli.keeping import Keeping
    from subnetwork.methods.rows import Method
    from subnetwork.runtime import Place
    from subnetwork.runtime.direct import Rank

EXCHANGE, BEGUN = "exchange", "begun"  # keys of torchrun's store


def check_exchange(
    run: Training, row: "Method", keeping: "Keeping", *, here: bool, torchrun: bool
) -> None:
    """Raise ValueError for what direct hand-over cannot do."""
    from subnetwork.experiments.direct import check_direct

    if run.exchange != "direct":
        return
    if here:
        raise ValueError(
            "--here trains in one process, where nothing is handed over. Drop it, or use "
            "--exchange star."
        )
    if keeping.start is not None:
        raise ValueError(
            "--from reads a whole model, which no rank holds with --exchange direct. Take round 0 "
            "with --exchange star --rounds 1, then go on: --resume --exchange direct --rounds N."
        )
    if run.replicas and (torchrun or run.workers == 1):
        why = "torchrun ends all ranks when one dies" if torchrun else "one worker has no other"
        raise ValueError(
            f"--replicas 1 lets ranks go on without one that died, but {why}. Use --replicas 0, "
            "and --resume after a death."
        )
    for does, flag in (
        (run.shares != "equal", "--shares equal"),
        (run.clip_updates is not None, "--clip-updates none"),
    ):
        if does:
            raise ValueError(
                f"{flag.split()[0]} is the coordinator's to do, and --exchange direct has none. "
                f"Use {flag}, or --exchange star."
            )
    check_direct(run.method, row)


def say_exchange(place: "Place", exchange: str) -> None:
    """Rank 0 of torchrun tells the others how the run exchanges: a resumed run knows it alone.

    Raises:
        RunFailedError: it is told a second time: ranks would find what those before them left.
    """
    if place.store.add(BEGUN, 1) > 1:
        raise RunFailedError(
            "torchrun started all ranks again and counts no restart, as it does where hosts come "
            "or go (--nnodes MIN:MAX), so that ranks cannot tell one start from the other. Start "
            "it with one number of hosts, --nnodes N, and --resume."
        )
    place.store.set(EXCHANGE, exchange)


def exchange_of(place: "Place") -> str:
    """What rank 0 said.

    Raises:
        WorkerLostError: it is gone, or says nothing.
    """
    return place.heard(EXCHANGE)


@contextmanager
def handing_over(run: Training, place: "Place | None", births: Nursery | None) -> Iterator["Rank"]:
    """Yield rank 0, beside processes of this command or of torchrun."""
    from subnetwork.experiments.rank import MODULE
    from subnetwork.runtime.direct import launched_ranks, stopping

    if place is not None:
        with place.secret_shared() as secret, stopping() as stop:
            say_exchange(place, "direct")
            yield replace(_rank_of(place, lambda: secret), stop=stop)
        return
    started = launched_ranks(run.workers, MODULE, births, replaces=run.replicas > 0)
    with started as rank, stopping() as stop:
        yield replace(rank, stop=stop)


def followed(place: "Place") -> int:
    """Another rank of torchrun: take part; the exit status.

    Raises:
        WorkerLostError: rank 0 is gone before it said what to do.
    """
    from subnetwork.algorithm import DivergedError, WorkerLostError
    from subnetwork.experiments.direct import follow
    from subnetwork.runtime.direct import LOST, stopping

    try:
        rank = _rank_of(place, place.secret)
        job = rank.job()  # until it is there, a signal ends the process
    except (ValueError, OSError) as reason:
        print(f"subnetwork: rank {place.rank}: {reason}", file=sys.stderr)  # noqa: T201
        return LOST
    with stopping() as stop:
        try:
            follow(replace(rank, stop=stop), job)
        except (WorkerLostError, DivergedError, KeyboardInterrupt):
            return LOST  # rank 0 says why
        except RunFailedError as reason:
            print(f"subnetwork: {reason}", file=sys.stderr)  # noqa: T201
            return LOST
    return 0


def _rank_of(place: "Place", secret: Callable[[], bytes]) -> "Rank":
    import torch.distributed as dist

    from subnetwork.runtime.direct import Rank
    from subnetwork.runtime.handshake import LOOPBACK, address_towards

    store = dist.PrefixStore("direct", place.store)
    try:
        host = LOOPBACK if place.host is None else address_towards(place.host)
    except OSError as reason:
        raise ValueError(
            f"--host {place.host} is nothing that rank {place.rank}'s host reaches "
            f"({reason.strerror}). Give rank 0's address in the network between hosts, on all."
        ) from None
    if under_several_hosts() and _is_loopback(host) and not _is_loopback(place.host or ""):
        raise ValueError(
            f"--host {place.host} is this host's loopback interface ({host}), where other hosts do "
            "not reach it. Give rank 0's address in the network between them, on every rank."
        )
    own = f"{required('MASTER_PORT')}/{restarts_under_torchrun()}/{place.n_workers}"
    return Rank(place.rank, place.n_workers, store, host, secret=secret, name=own)


def _is_loopback(host: str) -> bool:
    """Whether an address, or localhost, is said to be this host itself."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.split("%", maxsplit=1)[0]).is_loopback
    return host == "localhost"
