"""`subnetwork evaluate`: what a run's model does on the data of the run."""

import json
from pathlib import Path

from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import run_folder


def evaluate(run: Path = Path("runs/train"), *, as_json: bool = False) -> int:
    """Print loss and accuracy of a run's merged, recalibrated model on its test set.

    Parameters
    ----------
    run:
        A folder that `subnetwork train` wrote, complete or not, or one of its checkpoints.
    as_json:
        Print one JSON object instead of a line.
    """
    import torch

    from subnetwork.experiments.stored import stored
    from subnetwork.experiments.training import tested

    torch.set_num_threads(1)
    found = stored(run_folder(run))
    loss, accuracy = tested(found.task, found.model)
    data, n_rows = found.task.run.data, len(found.task.data.test_targets)
    if as_json:
        content = {"data": data, "rows": n_rows, "loss": loss, "accuracy": accuracy}
        say(Output(), json.dumps(content | {"source": str(found.source)}))
    else:
        line = f"{data}, {n_rows} test rows: accuracy {accuracy:.2%}, loss {loss:.4f}"
        say(Output(), f"{line}  ({found.source})")
    return 0
