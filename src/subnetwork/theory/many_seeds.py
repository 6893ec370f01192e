"""Many seeds of any method that is linear in x: a sketch, a work and a merge, by their own parts.

Slower than the compiled kernels, and wider: every sketch that follows from who holds what runs here
(block preconditioned, shifted, Jacobi, ..), with the draws that `rounds` makes for the same seed.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from subnetwork.algorithm import Merge, Partition, Work
from subnetwork.deals import Deal, Perm
from subnetwork.keys import key
from subnetwork.shapes import Floats, Matrix, Vector
from subnetwork.theory.copies import Copies, Fixed
from subnetwork.theory.draws import affine
from subnetwork.theory.enumeration import CutByHands
from subnetwork.theory.kernels import draws
from subnetwork.theory.kernels.streams import State
from subnetwork.theory.plans import deck, law
from subnetwork.theory.simulation import require_ascending

P = TypeVar("P", bound=Partition[Any, Any])
Held = NDArray[np.bool_]


def iterates_by_draws(
    sketch: CutByHands[P],
    work: Work[P, Vector],
    merge: Merge[Vector, P, Vector],
    x0: Vector,
    *,
    seeds: Sequence[int],
    at: Sequence[int],
) -> Iterator[tuple[int, Floats]]:
    """Run every seed and yield (k, the x^k of all seeds, a row each) for every k in `at`.

    Each round draws the partitions of all seeds independently, those of `rounds(..., seed=seed)`.
    Partitions that occur more than once are turned into (B, u), x+ = x - (B x - u), only once.

    Args:
        sketch: C_i that follow from who holds what.
        work: local work that is linear in x and the same in every round.
        merge: a merge that is linear in x.
        x0: where all seeds start.
        seeds: one run each.
        at: rounds to stop at, ascending from 0.

    Raises:
        ValueError: `at` is not ascending, or a deal without a compiled twin.
    """
    require_ascending(at, 0)
    keys = np.array([key(seed) for seed in seeds], dtype=np.uint64)
    X = np.tile(x0, (len(keys), 1))
    known: dict[bytes, tuple[Matrix, Vector]] = {}
    for first, stop in pairwise([0, *at]):
        for k in range(first, stop):
            held = held_by_seeds(sketch.deal, sketch.dim, keys, k)
            which, of_seed = _distinct(held)
            for draw in held[which]:
                if draw.tobytes() not in known:
                    hands = tuple(np.flatnonzero(row) for row in draw)
                    known[draw.tobytes()] = affine(sketch.cut(hands), work, merge, sketch.dim)
            B, u = zip(*(known[draw.tobytes()] for draw in held[which]), strict=True)
            X = X - (np.einsum("rjl,rl->rj", np.stack(B)[of_seed], X) - np.stack(u)[of_seed])
        yield stop, X.copy()


def held_by_seeds(deal: Deal, dim: int, keys: State, k: int) -> Held:
    """Who holds what in round k, for every seed: shape (seeds, n, d).

    Args:
        deal: Full, Perm, RandQ, Bernoulli, or the lab's Copies and Fixed.
        dim: number of coordinates d.
        keys: `key(seed)` of every seed.
        k: the round.

    Raises:
        ValueError: another deal.
    """
    held = np.zeros((len(keys), deal.n_workers, dim), dtype=np.bool_)
    if isinstance(deal, Fixed):
        for i, hand in enumerate(deal.hands(dim, seed=0, k=k)):
            held[:, i, hand] = True
        return held
    rows = np.arange(len(keys))[:, None]
    if isinstance(deal, Copies):  # a Perm that deals the workers to the coordinates
        deal.holders(dim)
        coordinate = _owners(Perm(dim), deal.n_workers, keys, k)
        held[rows, np.arange(deal.n_workers), coordinate] = True
    elif isinstance(deal, Perm):
        held[rows, _owners(deal, dim, keys, k), np.arange(dim)] = True
    else:
        _fill_alone(held, deal, keys, k)
    return held


def _owners(deal: Perm, size: int, keys: State, k: int) -> NDArray[np.uint16]:
    """The worker who holds each unit, for every seed."""
    numbers = law(deal, size)
    cards = deck(len(keys), size, numbers)
    draws.deal_owners(keys, k, numbers, cards)
    return cards.own.reshape(len(keys), size)


def _fill_alone(held: Held, deal: Deal, keys: State, k: int) -> None:
    """For deals whose workers draw by themselves."""
    m, n, d = held.shape
    numbers = law(deal, d)
    cards = deck(m, d, numbers)
    for i in range(n):
        draws.deal_alone(keys, k, i, numbers, cards)
        hands, sizes = cards.hands.reshape(m, d), cards.ends.reshape(m, -1)[:, 1]
        dealt = np.arange(d) < sizes[:, None]
        seed, _ = np.nonzero(dealt)
        held[seed, i, hands[dealt]] = True


def _distinct(held: Held) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One seed of every partition that occurs, and which of those each seed has drawn."""
    packed = np.ascontiguousarray(np.packbits(held.reshape(len(held), -1), axis=1))
    rows = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, which, of_seed = np.unique(rows, return_index=True, return_inverse=True)
    return which, of_seed
