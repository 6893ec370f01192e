"""Every equation (1)-(34) and the deck's takeaways: printed, corrected, measured, verdict."""

import re
from collections.abc import Sequence

import numpy as np

from subnetwork.experiments.agreement import agreement
from subnetwork.experiments.deck import deck
from subnetwork.experiments.first_version import first_version
from subnetwork.experiments.guarantees import guarantees
from subnetwork.experiments.identities import identities
from subnetwork.experiments.outcome import Outcome
from subnetwork.keys import INIT, key
from subnetwork.theory.problems import trig


def verify(seed: int = 0, *, n_seeds: int = 20_000) -> list[Outcome]:
    """Check equations (1)-(34) on the problem `trig` with n = d = 5, all draws enumerated.

    Args:
        seed: draws the point at which identities are checked, and the Monte Carlo runs.
        n_seeds: runs behind each Monte Carlo row.

    Returns:
        One row a claim. `Outcome.stands` says whether it holds, as corrected where it had to be.
    """
    x, problem = np.random.default_rng(key(seed, INIT)).standard_normal(5), trig(5, 5)
    return [
        *identities(problem, x),
        *guarantees(problem, x),
        *first_version(problem, x),
        *deck(problem, x),
        *agreement(n_seeds=n_seeds, seed=seed),
    ]


def numbers(outcomes: Sequence[Outcome]) -> set[int]:
    """The equation numbers of the slides that rows speak of: "(22)-(24)" is three of them.

    >>> from subnetwork.experiments.outcome import equal
    >>> sorted(numbers([equal("", "(2), (22)-(24)", 0, 0), equal("", "v1 (30)", 0, 0)]))
    [2, 22, 23, 24]
    """
    found: set[int] = set()
    for outcome in outcomes:
        if outcome.equation.startswith("v1"):
            continue
        for first, last in re.findall(r"\((\d+)\)(?:-\((\d+)\))?", outcome.equation):
            found |= set(range(int(first), int(last or first) + 1))
    return found
