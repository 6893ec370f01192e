"""Whose seconds a round's seconds were, where every rank has a clock of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from subnetwork.runtime.measured import Measured


@dataclass(frozen=True)
class Took:
    """Seconds of a round by the clock of one rank."""

    compute: float = 0.0  # local steps
    packing: float = 0.0  # dealing out, putting in, merging
    hand_over: float = 0.0  # in the exchange of the hand-over into the round
    merge: float = 0.0  # in that of the merge
    since: float = 0.0  # from the end of the hand-over to that of the merge


def parted(k: int, took: Sequence[Took], testing: float = 0.0) -> list[Measured]:
    """Compute, exchange and wait of every rank in round k.

    Ranks come into an exchange one after another and leave it together: it took as long as the rank
    was in it that came last, and the others waited for that one before. So no clocks are compared.

    Args:
        k: the round.
        took: every rank's seconds.
        testing: seconds for which the others waited while rank 0 tested; they are none of `wait`.

    >>> quick, slow = Took(1.0, 0.0, 0.75, 0.0, 1.0), Took(3.0, 0.5, 0.25, 0.0, 3.0)
    >>> [(of.compute, of.exchange, of.wait) for of in parted(0, [quick, slow])]
    [(1.0, 0.25, 2.5), (3.0, 0.75, 0.0)]
    """
    hand_over, merge = min(of.hand_over for of in took), min(of.merge for of in took)
    last = max(of.since for of in took)
    return [
        Measured(
            k,
            rank,
            compute=of.compute,
            exchange=of.packing + hand_over + merge,
            wait=max(0.0, of.hand_over - hand_over - (testing if rank else 0.0))
            + of.merge
            - merge
            + last
            - of.since,
        )
        for rank, of in enumerate(took)
    ]
