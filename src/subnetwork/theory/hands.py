"""Every hand that one worker can hold, with its probability: the law of one C_i."""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np

from subnetwork.deals import Bernoulli, Deal, Full, Perm, RandQ
from subnetwork.shapes import Floats

MOST_HANDS = 100_000


def every_hand(deal: Deal, dim: int) -> tuple[Floats, Floats]:
    """What one worker can hold: 0/1 rows, shape (H, d), and their probabilities, shape (H,).

    Raises:
        ValueError: more than 100,000 hands, or a deal whose workers differ.

    >>> held, weights = every_hand(Perm(2), 3)
    >>> held.sum(axis=1).tolist(), weights.round(3).tolist()
    ([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], [0.167, 0.167, 0.167, 0.167, 0.167, 0.167])
    """
    rows: list[Floats] = []
    weights: list[float] = []
    for size, probability in _sizes(deal, dim):
        if len(rows) + comb(dim, size) > MOST_HANDS:
            raise ValueError(
                f"A worker of {deal} can hold more than {MOST_HANDS} different sets of {dim} "
                "coordinates. Give n_draws=1000 or so, and F is averaged over that many rounds."
            )
        for hand in combinations(range(dim), size):
            row = np.zeros(dim)
            row[list(hand)] = 1.0
            rows.append(row)
            weights.append(probability / comb(dim, size))
    return np.stack(rows), np.array(weights)


def _sizes(deal: Deal, dim: int) -> Iterator[tuple[int, float]]:
    """The sizes of a worker's hand and their probabilities; all hands of a size are as likely."""
    match deal:
        case Full():
            yield dim, 1.0
        case RandQ():
            yield deal.q, 1.0
        case Perm(weights=None):
            q, more = divmod(dim, deal.n_workers)
            yield q, 1 - more / deal.n_workers
            if more:
                yield q + 1, more / deal.n_workers
        case Bernoulli():
            for size in range(dim + 1):
                yield size, comb(dim, size) * deal.p**size * (1 - deal.p) ** (dim - size)
        case _:
            raise ValueError(
                f"The hands of {deal} are not enumerated, as its workers differ. Give n_draws=1000 "
                "or so, and F is averaged over that many rounds."
            )
