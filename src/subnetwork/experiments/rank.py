"""A process of a direct run: `main`, called in a process from the nursery of `subnetwork train`."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from subnetwork.algorithm import DivergedError, RunFailedError, WorkerLostError
from subnetwork.experiments.direct import follow
from subnetwork.nursery import FIRST_STEP
from subnetwork.runtime.direct import LOST, rank_here
from subnetwork.runtime.launch import bound_to_parent
from subnetwork.runtime.memory import spare_memory

MODULE = "subnetwork.experiments.rank"


def main(arguments: Sequence[str]) -> int | str:
    """Take part as a rank of n from a generation on; the exit status, or what rank 0 does not know.

    Args:
        arguments: the run's folder, the rank, n, and the generation.
    """
    folder, rank, n_workers, number = arguments
    bound_to_parent()
    spare_memory()
    torch.set_num_threads(1)
    import_module(FIRST_STEP)  # where no nursery has: not later, when others wait
    try:
        place = rank_here(Path(folder), int(rank), int(n_workers), int(number))
        follow(place, place.job())
    except (WorkerLostError, DivergedError, KeyboardInterrupt):
        return LOST  # rank 0 says why
    except RunFailedError as reason:
        return str(reason)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
