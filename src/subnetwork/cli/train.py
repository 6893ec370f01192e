"""`subnetwork train`: one run, on processes of its own, in this process, or under torchrun."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

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
    """
    import torch
    from safetensors.torch import save

    from subnetwork.experiments.training import merged, record
    from subnetwork.methods.rows import method, task
    from subnetwork.methods.worker import build
    from subnetwork.runtime import place_under_torchrun

    torch.set_num_threads(1)
    console = Console()
    place = place_under_torchrun()
    if place is not None and place.rank > 0:
        place.serve(build)
        return 0
    run = training or Training()
    if place is not None:
        run = replace(run, workers=place.n_workers)
        console.print(
            f"torchrun started {place.n_workers} workers", highlight=False, soft_wrap=True
        )
    t = task(run)
    row = method(t)
    with staged(out) as folder:
        seated_workers = _seats(run.workers, place, here=here)
        with seated_workers as seats, showing(console, run.method, run.total_steps) as show:
            x = record(folder, t, row, seats, show)
        (folder / "model.safetensors").write_bytes(save(merged(t, x).state_dict()))
    console.print(
        f"wrote {out}/{run.method}.jsonl and {out}/model.safetensors",
        highlight=False,
        soft_wrap=True,
    )
    return 0


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
