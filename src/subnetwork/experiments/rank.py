"""A process of a direct run: `main`, called in a process from the nursery of `subnetwork train`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from subnetwork.algorithm import RunFailedError
from subnetwork.experiments.direct import follow
from subnetwork.runtime.direct import LOST, rank_here
from subnetwork.runtime.launch import bound_to_parent

MODULE = "subnetwork.experiments.rank"


def main(arguments: Sequence[str]) -> int:
    """Take part as a rank of n from a generation on; the exit status. Rank 0 says why a run failed.

    Args:
        arguments: the run's folder, the rank, n, and the generation.
    """
    folder, rank, n_workers, number = arguments
    bound_to_parent()
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # a process's first optimizer imports for a second: not later
    try:
        follow(rank_here(Path(folder), int(rank), int(n_workers), int(number)))
    except (RunFailedError, KeyboardInterrupt):
        return LOST
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
