"""Weights from outside: round 0 from a pretrained state_dict."""

import hashlib
from dataclasses import replace
from pathlib import Path

from subnetwork.experiments.resume import Start
from subnetwork.experiments.training import merged, tested
from subnetwork.methods.rows import Method, Task
from subnetwork.nets.architecture import runnable
from subnetwork.nets.tensorfile import fitted, read_state_dict


def from_weights(t: Task, method: Method, path: Path) -> Start:
    """Round 0 from a state_dict in a file, with what the network does on the test set then.

    Batch statistics of the file are not used: as always they are those of the training rows.

    Raises:
        ValueError: the file is no state_dict, or it does not fit the network.
    """
    params = fitted(read_state_dict(path), runnable(t.architecture, method.x), path)
    x = replace(method.x, params=params)
    loss, accuracy = tested(t, merged(t, x))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    found = {"file": path.name, "sha256": sha256, "loss": loss, "accuracy": accuracy}
    return Start(lambda: x, notes={"from": found})
