"""Where the workers live: in this process, in processes of their own, under torchrun."""

from subnetwork.environment import workers_under_torchrun
from subnetwork.runtime.clipping import clipping
from subnetwork.runtime.faults import Fault, Patience, dropped, dropping
from subnetwork.runtime.here import here
from subnetwork.runtime.launch import Crew, crew, launched
from subnetwork.runtime.seats import Seat
from subnetwork.runtime.serve import serve
from subnetwork.runtime.star import seated
from subnetwork.runtime.torchrun import Place, place_under_torchrun

__all__ = [
    "Crew",
    "Fault",
    "Patience",
    "Place",
    "Seat",
    "clipping",
    "crew",
    "dropped",
    "dropping",
    "here",
    "launched",
    "place_under_torchrun",
    "seated",
    "serve",
    "workers_under_torchrun",
]
