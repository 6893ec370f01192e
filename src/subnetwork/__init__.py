"""Independent subnetwork training: the theory as a lab, the practice as an engine, one loop.

`rounds` is Algorithm 1; deals say who gets which units. Everything else is imported by submodule:
`subnetwork.theory` (vectors, no torch), `subnetwork.nets`, `subnetwork.runtime` and
`subnetwork.methods` (networks, the extra `train`).
"""

from subnetwork.algorithm import Partition, Round, Sketch, rounds
from subnetwork.deals import Bernoulli, Full, Perm, RandQ

__version__ = "0.1.0"
__all__ = ["Bernoulli", "Full", "Partition", "Perm", "RandQ", "Round", "Sketch", "rounds"]
