"""`subnetwork train`: one run, on processes of its own, in this process, or under torchrun."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from subnetwork.cli.console import Output, say
from subnetwork.cli.keeping import Keeping, begun, continued_as, earlier, kept
from subnetwork.cli.live import showing
from subnetwork.methods import Training

if TYPE_CHECKING:
    from subnetwork.runtime import Place, Seat


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
    import torch

    from subnetwork.cli.handing import check_exchange, exchange_of, followed, handing_over
    from subnetwork.experiments.direct import Job, lead
    from subnetwork.experiments.training import merged, record
    from subnetwork.methods.rows import method, task
    from subnetwork.methods.worker import build
    from subnetwork.nets.tensorfile import write_tensors
    from subnetwork.runtime import place_under_torchrun, workers_under_torchrun

    torch.set_num_threads(1)
    console, ranks = Output(), workers_under_torchrun()
    keeping, asked, old = keeping or Keeping(), training or Training(), None
    if ranks is None or os.environ["RANK"] == "0":
        keeping, old = earlier(keeping, console)
        asked = asked if old is None else continued_as(old, asked, given)
    run = _for_torchrun(asked, ranks, here=here, said="workers" in given)
    t = task(run)
    row = method(t)  # on every rank: what is refused is refused before anyone waits for anyone
    check_exchange(run, row, keeping, here=here)
    place = None if ranks is None else place_under_torchrun(host)
    if place is not None and place.rank > 0:
        return place.serve(build) if exchange_of(place) == "star" else followed(place)
    start = begun(keeping, t, row, old, console)
    with kept(keeping, t, start, console) as (folder, keeper):
        shown = showing(console, run.method, run.total_steps)
        if run.exchange == "direct":
            source = None if old is None else old.path
            job = Job(run, folder, source)
            with handing_over(run.workers, place) as rank, shown as show:
                lead(rank, t, row, job, start, keeper, show)
        else:
            with _seats(run.workers, place, here=here) as seats, shown as show:
                x = record(folder, t, row, seats, show, start, keeper)
            write_tensors(folder / "model.safetensors", merged(t, x).state_dict())
    say(console, f"wrote {keeping.out}/{run.method}.jsonl and {keeping.out}/model.safetensors")
    return 0


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
def _seats(
    n_workers: int, place: "Place | None", *, here: bool
) -> Iterator["Sequence[Seat] | None"]:
    from subnetwork.cli.handing import say_exchange
    from subnetwork.methods.worker import MODULE
    from subnetwork.runtime import launched

    if here:
        yield None
    elif place is not None:
        say_exchange(place, "star")
        with place.seats() as seats:
            yield seats
    else:
        with launched(n_workers, MODULE) as started:
            yield started
