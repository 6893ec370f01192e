"""Independent subnetwork training: the theory as a lab, the practice as an engine, one loop.

`rounds` is Algorithm 1; deals say who gets which units; `decompose` cuts a torch module and `join`
trains its parts in the user's own loop (torch is imported when they are first asked for).
Everything else is imported by submodule: `subnetwork.theory` (vectors, no torch),
`subnetwork.nets`, `subnetwork.runtime` and `subnetwork.methods` (networks, the extra `train`).
"""

from typing import TYPE_CHECKING

from subnetwork.algorithm import Partition, Round, Sketch, rounds
from subnetwork.deals import Bernoulli, Full, Perm, RandQ

if TYPE_CHECKING:
    from subnetwork.nets.decompose import decompose
    from subnetwork.runtime.join import join

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
    "join",
    "rounds",
]


def __getattr__(name: str) -> object:
    if name == "decompose":
        from subnetwork.nets.decompose import decompose

        return decompose
    if name == "join":
        from subnetwork.runtime.join import join

        return join
    raise AttributeError(f"module 'subnetwork' has no attribute {name!r}")
