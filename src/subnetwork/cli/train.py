"""`subnetwork train`: one run, on processes of its own, in this process, or under torchrun."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import Held, holding
from subnetwork.cli.keeping import (
    Keeping,
    begun,
    continued_as,
    earlier,
    ended_in_words,
    exchange_of_run,
    keeper_of,
    kept,
    loggers,
)
from subnetwork.cli.live import showing
from subnetwork.cli.parts import Part, Scaling, Way
from subnetwork.cli.requests import hearing
from subnetwork.environment import (
    large_pages,
    rank_under_torchrun,
    workers_under_torchrun,
)
from subnetwork.methods import Training
from subnetwork.nursery import FIRST_STEP, Nursery, nursery
from subnetwork.record import Row

if TYPE_CHECKING:
    from subnetwork.experiments.resume import Keeper
    from subnetwork.loggers import Logger
    from subnetwork.runtime import Place, Seat

WORKERS, RANKS = "subnetwork.methods.worker", "subnetwork.experiments.rank"
TRUSTED = (
    "ranks on several hosts exchange in the clear: the network between them has to be trusted, or "
    "tunnelled (SECURITY.md)"
)


def train(
    training: Annotated[Training | None, Parameter(name="*")] = None,
    *,
    keeping: Annotated[Keeping | None, Parameter(name="*")] = None,
    here: bool = False,
    given: Annotated[tuple[str, ...], Parameter(show=False)] = (),
    host: str | None = None,
) -> int:
    """Train a network; write its record and the merged model as `model.safetensors`.

    Under torchrun every rank is a worker, and rank 0 writes. A run that was interrupted or killed
    goes on from its last checkpoint with --resume.

    Parameters
    ----------
    training:
        What to run.
    keeping:
        How the run is kept and begun.
    here:
        Train the workers one after another in this process; the result is the same to the bit.
    given:
        The flags that were said, filled in by the command line.
    host:
        Under torchrun on several hosts: the address of rank 0, on which it listens. The network is
        then to be trusted, and SUBNETWORK_SECRET holds the same 64 hexadecimal digits everywhere.
    """
    keeping, asked = keeping or Keeping(), training or Training()
    if rank_under_torchrun() == 0:  # at once: torch takes seconds to import
        say(Output(), _beginning(keeping, asked, here=here))
    with _held(keeping.out) as held:
        direct = exchange_of_run(asked, keeping, given) == "direct"
        module = RANKS if direct else WORKERS
        # births import torch meanwhile; ranks keep no memory that they freed, and get large pages
        with large_pages(wanted=direct), _births(module, here=here) as births:
            return _run(held, keeping, asked, births, here=here, given=given, host=host)


@contextmanager
def _held(out: Path) -> Iterator[Held | None]:
    """Hold the run's folder, before anything of it is read; only the process that writes does."""
    if rank_under_torchrun() > 0:
        yield None
        return
    with holding(out) as held:
        yield held


@contextmanager
def _births(module: str, *, here: bool) -> Iterator[Nursery | None]:
    """Yield where the run's processes will come from, if it has any of its own."""
    if here or workers_under_torchrun() is not None:
        yield None
        return
    with nursery(module, FIRST_STEP) as births:
        yield births


def _run(
    held: Held | None,
    keeping: Keeping,
    asked: Training,
    births: Nursery | None,
    *,
    here: bool,
    given: tuple[str, ...],
    host: str | None,
) -> int:
    """What `train` does once it has said so: the exit status."""
    import torch

    from subnetwork.cli.handing import check_exchange
    from subnetwork.methods.rows import method, task
    from subnetwork.methods.uses import check_given
    from subnetwork.nets.merges import holders
    from subnetwork.runtime import place_under_torchrun
    from subnetwork.runtime.memory import keep_memory, spare_memory

    torch.set_num_threads(1)
    ranks, old, console = workers_under_torchrun(), None, Output()
    if held is not None:
        keeping, old = earlier(keeping, console)
        asked = asked if old is None else continued_as(old, asked, given)
    elif keeping.resume:  # what the run is, rank 0 knows
        return _another_rank(place_under_torchrun(host))
    _check_host(ranks, host)
    run = _for_torchrun(asked, ranks, here=here, said="workers" in given)
    check_given(run, given)
    t = task(run)
    row = method(t)  # on every rank: what is refused is refused before anyone waits for anyone
    check_exchange(run, row, keeping, here=here, torchrun=ranks is not None)
    place = None if ranks is None else place_under_torchrun(host)
    if held is None:
        assert place is not None
        return _another_rank(place)
    direct = run.exchange == "direct"
    if births is None or direct or row.merge is not holders:  # steps are taken in this process
        import_module(FIRST_STEP)  # not later, when others wait
    if direct:  # ranks hold as little as they can
        spare_memory()
    else:
        keep_memory()
    if place is not None and place.host is not None:
        say(console, TRUSTED)
    told = loggers(keeping)
    start = begun(keeping, t, row, old, console)
    part: Part | None = Part(t, row, start, None if old is None else old.path)
    keeper = keeper_of(keeping, t, start, console)
    with (
        kept(held, keeping, keeper, row.n_rounds) as folder,
        ended_in_words(folder / f"{run.method}.jsonl", keeper),
        hearing(folder) as requests,
        _way(run, place, births, here=here) as way,
    ):
        del t, row, start, old  # of a part that ended, nothing is kept here
        while part is not None:
            scaling = Scaling(part, way, keeping, requests, console)
            with _telling(console, told, folder, scaling) as tell:
                _carry_out(scaling, folder, keeper, tell)
            part = scaling.next
    say(console, f"wrote {keeping.out}/{run.method}.jsonl and {keeping.out}/model.safetensors")
    return 0


def _another_rank(place: "Place") -> int:
    """What a rank of torchrun does that is not the first: the exit status."""
    from subnetwork.cli.handing import exchange_of, followed
    from subnetwork.methods.worker import build
    from subnetwork.runtime.memory import keep_memory, spare_memory

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler would wait for the store
    import_module(FIRST_STEP)
    if exchange_of(place) == "direct":
        spare_memory()
        return followed(place)
    keep_memory()
    return place.serve(build)


def _carry_out(
    scaling: Scaling, folder: Path, keeper: "Keeper", tell: Callable[[Row], None]
) -> None:
    """Train a part of a run; record, checkpoints and the last one's model go to a folder."""
    from subnetwork.experiments.direct import Job, lead
    from subnetwork.experiments.resume import Edges
    from subnetwork.experiments.training import merged, record
    from subnetwork.nets.tensorfile import write_tensors
    from subnetwork.runtime.direct import Rank

    part = scaling.part
    t, row, start = part.t, part.row, part.start
    if part.asked is not None:
        keeper.go_on(t, start)
    edges = Edges(tell, scaling.begun, scaling.wanted, scaling.leaves, part.notes)
    with scaling.way.workers(t.run) as workers:
        if isinstance(workers, Rank):
            lead(workers, t, row, Job(t.run, folder, part.source), start, keeper, edges)
        else:
            x = record(folder, t, row, workers, edges, start, keeper)
            if scaling.next is None:
                write_tensors(folder / "model.safetensors", merged(t, x).state_dict())
    if isinstance(workers, Rank) and scaling.next is not None and workers.stop():
        raise KeyboardInterrupt  # which came after all had said that they go on


@contextmanager
def _telling(
    console: Output, told: "list[Logger]", folder: Path, scaling: Scaling
) -> Iterator[Callable[[Row], None]]:
    """Yield what tells every row of a part to the terminal and to the loggers."""
    from subnetwork.loggers import logged

    run, k = scaling.part.t.run, scaling.part.start.k
    with (
        showing(console, run.method, run.total_steps) as show,
        logged(told, folder, asdict(run), k, ended=scaling.ended) as log,
    ):

        def tell(row: Row) -> None:
            show(row)
            log(row)

        yield tell


def _check_host(ranks: int | None, host: str | None) -> None:
    if ranks is None and host is not None:
        raise ValueError(
            "--host does nothing without torchrun: the workers that the command starts are "
            "processes of this host. Leave it out, or start the command with torchrun."
        )


def _beginning(keeping: Keeping, asked: Training, *, here: bool) -> str:
    """The first line, which needs no torch."""
    if keeping.resume:
        return f"going on with the run in {keeping.out}"
    n = workers_under_torchrun() or asked.workers
    workers = f"{n} worker{'s' * (n > 1)}"
    where = f"{workers} in this process" if here else f"starting {workers}"
    return f"{asked.method} of {asked.model} on {asked.data}: {where}"


def _for_torchrun(run: Training, ranks: int | None, *, here: bool, said: bool) -> Training:
    """The run with as many workers as torchrun started processes."""
    if ranks is None:
        return run
    if here:
        raise ValueError("--here trains in one process, but torchrun started several. Drop either.")
    if said and run.workers != ranks:
        raise ValueError(
            f"--workers {run.workers}, but torchrun started {ranks} processes. Leave --workers "
            f"out, or use --nproc-per-node {run.workers}."
        )
    return replace(run, workers=ranks)


@contextmanager
def _way(
    run: Training, place: "Place | None", births: Nursery | None, *, here: bool
) -> Iterator[Way]:
    """How the run comes by its workers, however many; when it is left, none is left."""
    from subnetwork.cli.handing import handing_over, say_exchange
    from subnetwork.methods.worker import MODULE
    from subnetwork.runtime import crew

    fixed = place is not None
    if run.exchange == "direct":
        yield Way(lambda run: handing_over(run, place, births), torchrun=fixed)
    elif here:
        yield Way(lambda _: nullcontext(None), here=True)
    elif place is not None:
        say_exchange(place, "star")
        with place.seats() as seats:
            yield Way(lambda _: nullcontext(seats), torchrun=fixed)
    else:
        with crew(run.workers, MODULE, births) as workers:

            @contextmanager
            def those_of(run: Training) -> Iterator["Sequence[Seat]"]:
                workers.at_most(run.workers)
                yield workers.seats

            yield Way(those_of, workers.at_least)
