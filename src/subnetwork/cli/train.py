"""`subnetwork train`: one run, on processes of its own, in this process, or under torchrun."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import staged
from subnetwork.cli.live import showing
from subnetwork.methods import Training

if TYPE_CHECKING:
    from subnetwork.runtime import Place, Seat


def train(
    training: Annotated[Training | None, Parameter(name="*")] = None,
    *,
    out: Path = Path("runs/train"),
    here: bool = False,
    host: str | None = None,
) -> int:
    """Train a network; write its record and the merged model as `model.safetensors`.

    Under torchrun every rank is a worker, and rank 0 writes.

    Parameters
    ----------
    training:
        What to run.
    out:
        The run's folder. An earlier run in it is replaced when this one is complete.
    here:
        Train the workers one after another in this process; the result is the same to the bit.
    host:
        Under torchrun on several hosts: the address of rank 0, on which it listens. The network is
        then to be trusted, and SUBNETWORK_SECRET holds the same 64 hexadecimal digits everywhere.
    """
    import torch
    from safetensors.torch import save

    from subnetwork.experiments.training import merged, record
    from subnetwork.methods.rows import method, task
    from subnetwork.methods.worker import build
    from subnetwork.runtime import place_under_torchrun, workers_under_torchrun

    torch.set_num_threads(1)
    ranks = workers_under_torchrun()
    run = _for_torchrun(training or Training(), ranks, here=here)
    t = task(run)
    row = method(t)  # on every rank: what is refused is refused before anyone waits for anyone
    place = None if ranks is None else place_under_torchrun(host)
    if place is not None and place.rank > 0:
        return place.serve(build)
    console = Output()
    with staged(out) as folder:
        seated_workers = _seats(run.workers, place, here=here)
        with seated_workers as seats, showing(console, run.method, run.total_steps) as show:
            x = record(folder, t, row, seats, show)
        (folder / "model.safetensors").write_bytes(save(merged(t, x).state_dict()))
    say(console, f"wrote {out}/{run.method}.jsonl and {out}/model.safetensors")
    return 0


def _for_torchrun(run: Training, ranks: int | None, *, here: bool) -> Training:
    """The run with as many workers as torchrun started processes."""
    if ranks is None:
        return run
    if here:
        raise ValueError("--here trains in one process, but torchrun started several. Drop either.")
    if run.workers not in (ranks, Training().workers):
        raise ValueError(
            f"--workers {run.workers}, but torchrun started {ranks} processes. Leave --workers "
            f"out, or use --nproc-per-node {run.workers}."
        )
    return replace(run, workers=ranks)


@contextmanager
def _seats(
    n_workers: int, place: "Place | None", *, here: bool
) -> Iterator["Sequence[Seat] | None"]:
    from subnetwork.methods.worker import MODULE
    from subnetwork.runtime import launched

    if here:
        yield None
    elif place is not None:
        with place.seats() as seats:
            yield seats
    else:
        with launched(n_workers, MODULE) as started:
            yield started
