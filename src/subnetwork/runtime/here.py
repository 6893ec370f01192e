"""The reference: all workers in this process, one after another."""

import time
from collections.abc import Sequence
from itertools import pairwise

from subnetwork.algorithm import Work
from subnetwork.nets import ABSENT, NetPartition, Submodel
from subnetwork.nets.local import Local
from subnetwork.runtime.measured import Measure, Measured, peak_memory, unmeasured


def here(local: Local, *, measure: Measure = unmeasured) -> Work[NetPartition, Submodel]:
    """Lines 4-8 in one process. Work over processes gives the same models, bit for bit.

    `measure` is told what each worker's part took; nothing goes over a wire, and a worker waits
    while the others have their turn, or for all of them where it has no network this round.
    """

    def work(k: int, partition: NetPartition, submodels: Sequence[Submodel], /) -> list[Submodel]:
        del partition  # a submodel says by its shapes all that the local work has to know
        trained, ends = [], [time.monotonic()]
        for i, submodel in enumerate(submodels):
            trained.append(ABSENT if submodel is ABSENT else local(k, i, submodel))
            ends.append(time.monotonic())
        total, peak = ends[-1] - ends[0], peak_memory()
        for i, (began, ended) in enumerate(pairwise(ends)):
            compute = ended - began
            measure(Measured(k, i, compute, wait=total - compute, peak=peak))
        return trained

    return work
