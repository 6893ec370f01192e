"""Hand-over without a coordinator: what a worker trained goes straight to those who hold it next.

Every rank is a worker and runs the same loop; merge and the next select are one exchange, in which
each entry that changes hands moves once. No rank ever stores the whole model.
"""

from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.generations import Company, Rebuilt, lasting_rounds
from subnetwork.runtime.direct.gloo import agree, meet, over, tell
from subnetwork.runtime.direct.handover import gathered, handed_over
from subnetwork.runtime.direct.held import Held, taken
from subnetwork.runtime.direct.links import carried, together
from subnetwork.runtime.direct.merging import merged
from subnetwork.runtime.direct.outer import carried_moments
from subnetwork.runtime.direct.place import Rank
from subnetwork.runtime.direct.ranks import LOST, launched_ranks, rank_here, stopping
from subnetwork.runtime.direct.routing import route
from subnetwork.runtime.direct.running import (
    DirectRound,
    digest,
    direct_rounds,
    passing_parameters,
    whole_parameters,
)
from subnetwork.runtime.direct.start import draws_of, initial_parameters, with_moments
from subnetwork.runtime.direct.wire import Wire, check_wire

__all__ = [
    "LOST",
    "Company",
    "DirectRound",
    "Draws",
    "Held",
    "Rank",
    "Rebuilt",
    "Wire",
    "agree",
    "carried",
    "carried_moments",
    "check_wire",
    "digest",
    "direct_rounds",
    "draws_of",
    "gathered",
    "handed_over",
    "initial_parameters",
    "lasting_rounds",
    "launched_ranks",
    "meet",
    "merged",
    "over",
    "passing_parameters",
    "rank_here",
    "route",
    "stopping",
    "taken",
    "tell",
    "together",
    "whole_parameters",
    "with_moments",
]
