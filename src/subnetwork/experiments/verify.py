"""Every equation that stands so far: printed, corrected, measured, verdict."""

import numpy as np

from subnetwork.experiments.guarantees import guarantees
from subnetwork.experiments.identities import identities
from subnetwork.experiments.outcome import Outcome
from subnetwork.keys import INIT, key
from subnetwork.theory.problems import trig


def verify(seed: int = 0) -> list[Outcome]:
    """Check equations (2)-(34) on the problem `trig` with n = d = 5, all draws enumerated.

    Args:
        seed: draws the point at which identities are checked and from which runs start.

    Returns:
        One row a claim. `Outcome.stands` says whether it holds, as corrected where it had to be.
    """
    x = np.random.default_rng(key(seed, INIT)).standard_normal(5)
    return [*identities(trig(5, 5), x), *guarantees(trig(5, 5), x)]
