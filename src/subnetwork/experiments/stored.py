"""A run as it lies in a folder: its task and its merged model, complete or from a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from subnetwork import record
from subnetwork.experiments.resume import Saved, read, saved, training_of
from subnetwork.experiments.training import merged
from subnetwork.methods.rows import Task, method, task
from subnetwork.nets import checkpoint
from subnetwork.nets.architecture import runnable
from subnetwork.nets.tensorfile import fill

MODEL = "model.safetensors"
INSTEAD = (
    "It is damaged, or another run's. Name a checkpoint of the run, such as {}, or train again."
)


@dataclass(frozen=True)
class Stored:
    """A run's task, its merged and recalibrated model, and where that came from."""

    task: Task
    model: nn.Module
    source: Path


def stored(folder: Path) -> Stored:
    """The model of a run's folder, or of one of its checkpoints.

    A complete run gives its `model.safetensors`; an unfinished one its newest intact checkpoint.

    Raises:
        ValueError: the folder holds no run, several, no model yet, or a damaged one.
    """
    if (folder / checkpoint.HEADER).is_file():
        return _of_checkpoint(read(checkpoint.opened(folder)))
    runs = [one for one in _records(folder) if one.header["kind"] == "train"]
    if len(runs) != 1:
        raise ValueError(
            f"{folder} holds {len(runs)} training runs. Name a folder that `subnetwork train` "
            "wrote, or one of its checkpoints."
        )
    if runs[0].end == "done" and (folder / MODEL).is_file():
        with record.believing(folder):
            run = training_of(runs[0].header["config"])
        t = task(run)
        instead = INSTEAD.format(folder / "checkpoints" / "round-...")
        model = fill(runnable(t.architecture, method(t).x), folder / MODEL, instead)
        return Stored(t, model.eval(), folder / MODEL)
    found, _ = saved(folder / "checkpoints")
    if found is None:
        raise ValueError(f"{folder} holds no model and no checkpoint yet. Wait for the first one.")
    return _of_checkpoint(found)


def _records(folder: Path) -> list[record.Record]:
    return [record.read(path) for path in sorted(folder.glob("*.jsonl"))]


def _of_checkpoint(found: Saved) -> Stored:
    t = task(found.run)
    return Stored(t, merged(t, found.start.x), found.path)
