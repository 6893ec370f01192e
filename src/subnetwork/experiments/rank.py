"""A process of a direct run: ``python -m subnetwork.experiments.rank FOLDER RANK N G``.

Started by `subnetwork train --exchange direct` for generation G, never by hand.
"""

import sys
from pathlib import Path

import torch

from subnetwork.algorithm import RunFailedError
from subnetwork.experiments.direct import follow
from subnetwork.runtime.direct import LOST, rank_here
from subnetwork.runtime.launch import bound_to_parent

MODULE = "subnetwork.experiments.rank"


def main(folder: Path, rank: int, n_workers: int, number: int) -> int:
    """Take part; the exit status. Rank 0 says why a run failed."""
    bound_to_parent()
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # a process's first optimizer imports for a second: not later
    try:
        follow(rank_here(folder, rank, n_workers, number))
    except (RunFailedError, KeyboardInterrupt):
        return LOST
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
