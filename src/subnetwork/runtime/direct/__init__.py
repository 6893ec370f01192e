"""Hand-over without a coordinator: what a worker trained goes straight to those who hold it next.

Every rank is a worker and runs the same loop; merge and the next select are one exchange, in which
each entry that changes hands moves once. No rank ever stores the whole model.
"""

from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.handover import handed_over, route
from subnetwork.runtime.direct.held import Held, taken
from subnetwork.runtime.direct.links import carried, together
from subnetwork.runtime.direct.merging import merged

__all__ = ["Draws", "Held", "carried", "handed_over", "merged", "route", "taken", "together"]
