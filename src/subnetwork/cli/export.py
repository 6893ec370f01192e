"""`subnetwork export`: a run's model as a file for the plain module."""

from pathlib import Path

from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import run_folder


def export(
    run: Path = Path("runs/train"),
    *,
    to: Path = Path("model.safetensors"),
    overwrite: bool = False,
) -> int:
    """Write a run's merged model as safetensors that load into the plain module.

    Parameters
    ----------
    run:
        A folder that `subnetwork train` wrote, complete or not, or one of its checkpoints.
    to:
        The file; if left out, model.safetensors in the folder where you are.
    overwrite:
        Replace the file if it is there.
    """
    import torch

    from subnetwork.experiments.stored import write_stored

    if to.is_dir():
        raise ValueError(f"--to {to} is a folder. Name a file, such as {to / 'model.safetensors'}.")
    if to.exists() and not overwrite:
        raise ValueError(f"--to {to} is there already. Name another file, or add --overwrite.")
    torch.set_num_threads(1)
    beside = to.with_name(f".{to.name}.new")
    try:
        source = write_stored(run_folder(run), beside)
        beside.replace(to)
    finally:
        beside.unlink(missing_ok=True)
    say(Output(), f"wrote {to} from {source}")
    return 0
