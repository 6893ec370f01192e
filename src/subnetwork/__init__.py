"""Independent subnetwork training: the theory as a lab, the practice as an engine, one loop.

`rounds` is Algorithm 1; deals say who gets which units; `decompose` cuts a torch module (torch is
imported when it is first asked for). Everything else is imported by submodule:
`subnetwork.theory` (vectors, no torch), `subnetwork.nets`, `subnetwork.runtime` and
`subnetwork.methods` (networks, the extra `train`).
"""

from typing import TYPE_CHECKING

from subnetwork.algorithm import Partition, Round, Sketch, rounds
from subnetwork.deals import Bernoulli, Full, Perm, RandQ

if TYPE_CHECKING:
    from subnetwork.nets.decompose import decompose

__version__ = "0.1.0"
__all__ = [
    "Bernoulli",
    "Full",
    "Partition",
    "Perm",
    "RandQ",
    "Round",
    "Sketch",
    "decompose",
    "rounds",
]


def __getattr__(name: str) -> object:
    if name != "decompose":
        raise AttributeError(f"module 'subnetwork' has no attribute {name!r}")
    from subnetwork.nets.decompose import decompose

    return decompose
