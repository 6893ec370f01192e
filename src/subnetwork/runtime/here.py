"""The reference: all workers in this process, one after another."""

from collections.abc import Sequence

from subnetwork.algorithm import Work
from subnetwork.nets import NetPartition, Submodel
from subnetwork.nets.local import Local


def here(local: Local) -> Work[NetPartition, Submodel]:
    """Lines 4-8 in one process. Work over processes gives the same models, bit for bit."""

    def work(k: int, partition: NetPartition, submodels: Sequence[Submodel], /) -> list[Submodel]:
        del partition  # a submodel says by its shapes all that the local work has to know
        return [local(k, i, submodel) for i, submodel in enumerate(submodels)]

    return work
