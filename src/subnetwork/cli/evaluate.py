"""`subnetwork evaluate`: what a run's model does on the data of the run."""

import json
from pathlib import Path

from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import run_folder


def evaluate(run: Path = Path("runs/train"), *, as_json: bool = False) -> int:
    """Print loss and accuracy of a run's merged, recalibrated model.

    On the test rows of its data, or on those that it validates with (`--measure`).

    Parameters
    ----------
    run:
        A folder that `subnetwork train` wrote, complete or not, or one of its checkpoints.
    as_json:
        Print one JSON object instead of a line.
    """
    import torch

    from subnetwork.experiments.stored import stored

    torch.set_num_threads(1)
    found = stored(run_folder(run))
    scores, data = found.task.scores(found.model), found.task.run.data
    measure = found.task.run.measure
    if as_json:
        content = {
            "data": data,
            "measure": measure,
            "targets": scores.n_targets,
            "loss": scores.loss,
            "accuracy": scores.accuracy,
        }
        say(Output(), json.dumps(content | {"source": str(found.source)}))
    else:
        line = (
            f"{data}, {scores.n_targets} {measure} targets: accuracy {scores.accuracy:.2%}, "
            f"{measure} loss {scores.loss:.4f}"
        )
        say(Output(), f"{line}  ({found.source})")
    return 0
