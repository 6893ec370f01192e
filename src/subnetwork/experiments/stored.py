"""A run as it lies in a folder: its task and its merged model, complete or from a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from subnetwork import record
from subnetwork.experiments.resume import Saved, read, saved, training_of
from subnetwork.experiments.training import merged
from subnetwork.methods.rows import Task, method, task
from subnetwork.nets import checkpoint
from subnetwork.nets.architecture import runnable, skeleton
from subnetwork.nets.tensorfile import copy_tensors, fill, write_tensors

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
    t = _complete(folder)
    if t is None:
        return _of_checkpoint(_saved(folder))
    model = fill(runnable(t.architecture, method(t).x), folder / MODEL, _instead(folder))
    return Stored(t, model.eval(), folder / MODEL)


def write_stored(folder: Path, to: Path) -> Path:
    """Write the model of a run's folder, or of one of its checkpoints, to a file.

    That of a complete run is there already: it is looked through and written tensor by tensor, and
    need not fit into memory.

    Returns:
        Where it came from.

    Raises:
        ValueError: as `stored`.
        OSError: the file cannot be written.
    """
    t = _complete(folder)
    if t is None:
        found = _of_checkpoint(_saved(folder))
        write_tensors(to, found.model.state_dict())
        return found.source
    like = skeleton(method(t).architecture).state_dict()
    copy_tensors(folder / MODEL, to, like, _instead(folder))
    return folder / MODEL


def _complete(folder: Path) -> Task | None:
    """The task of a run that has written its model; None: there are checkpoints, at most."""
    if (folder / checkpoint.HEADER).is_file():
        return None
    runs = [one for one in _records(folder) if one.header["kind"] == "train"]
    if len(runs) != 1:
        raise ValueError(
            f"{folder} holds {len(runs)} training runs. Name a folder that `subnetwork train` "
            "wrote, or one of its checkpoints."
        )
    if runs[0].end != "done" or not (folder / MODEL).is_file():
        return None
    with record.believing(folder):
        run = training_of(runs[0].header["config"])
    return task(run)


def _instead(folder: Path) -> str:
    return INSTEAD.format(folder / "checkpoints" / "round-...")


def _saved(folder: Path) -> Saved:
    """A checkpoint, or the newest intact one of a run."""
    if (folder / checkpoint.HEADER).is_file():
        return read(checkpoint.opened(folder))
    found, _ = saved(folder / "checkpoints")
    if found is None:
        raise ValueError(f"{folder} holds no model and no checkpoint yet. Wait for the first one.")
    return found


def _records(folder: Path) -> list[record.Record]:
    return [record.read(path) for path in sorted(folder.glob("*.jsonl"))]


def _of_checkpoint(found: Saved) -> Stored:
    t = task(found.run)
    return Stored(t, merged(t, found.start.x), found.path)
