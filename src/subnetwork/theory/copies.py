"""Deals of the lab alone: more workers than coordinates, and hands that never change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subnetwork.deals import Hands
from subnetwork.keys import key, shuffled, words
from subnetwork.shapes import Units


@dataclass(frozen=True)
class Copies:
    """n = r d workers hold one coordinate each, every coordinate is held by r of them.

    C_i = d e_j e_j' with j the coordinate of worker i: both E C_i = I and mean_i C_i = I.

    >>> [hand.tolist() for hand in Copies(4).hands(2, seed=0, k=0)]
    [[1], [0], [0], [1]]
    """

    n_workers: int

    def holders(self, size: int) -> int:
        """Workers of one coordinate, r = n / size; ValueError where that is not whole."""
        r, over = divmod(self.n_workers, size)
        if over or not r:
            raise ValueError(
                f"n_workers={self.n_workers} workers with one of {size} coordinates each leave "
                f"{over} over: mean_i C_i = I is then impossible for C_i = c e e'. Use "
                f"n_workers={max(r, 1) * size} or {(r + 1) * size}, or a merge over the holders."
            )
        return r

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """Shuffle the workers, then deal them to the coordinates, r each."""
        r = self.holders(size)
        order = shuffled(self.n_workers, words(key(seed, k, axis)))
        return self.dealt([np.array(order[j * r : (j + 1) * r]) for j in range(size)])

    def dealt(self, workers: Sequence[Units]) -> Hands:
        """The hands, given the workers of every coordinate."""
        coordinate = np.empty(self.n_workers, dtype=np.int64)
        for j, those in enumerate(workers):
            coordinate[those] = j
        return tuple(coordinate[i : i + 1] for i in range(self.n_workers))


@dataclass(frozen=True)
class Fixed:
    """The same hands in every round: worker i holds the i-th stretch of coordinates.

    With d = n and scale 1 this is C_i = e_i e_i', the example below eq. (3).

    >>> [hand.tolist() for hand in Fixed(2).hands(5, seed=0, k=0)]
    [[0, 1, 2], [3, 4]]
    """

    n_workers: int

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """Consecutive units, as equal as can be."""
        del seed, k, axis
        return tuple(np.array_split(np.arange(size), self.n_workers))
