"""Deals: who gets which units this round. The vocabulary that the lab and the engine share.

A *deal* is the joint law of (S_1, ..., S_n), the sets of units that the n workers hold. A unit is
a coordinate in the lab and a hidden neuron, head, channel or block in the engine. A draw is made
whole, for all workers at once, and is keyed by (seed, round, axis): no rank ever sends a partition.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from math import ceil, isnan
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from subnetwork.keys import below, key, shuffled, words
from subnetwork.shapes import Units

Hands: TypeAlias = tuple[Units, ...]
"""The units of each worker, ascending; one array a worker."""


@runtime_checkable
class Deal(Protocol):
    """The joint law of (S_1, ..., S_n), for an axis of any size."""

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        ...

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """The units of each worker in round k, on the axis with this number."""
        ...


@dataclass(frozen=True)
class Full:
    """Everyone holds everything: synchronous SGD, Local SGD, DiLoCo. C_i = I.

    >>> Full(2).hands(3, seed=0, k=0)
    (array([0, 1, 2]), array([0, 1, 2]))
    """

    n_workers: int

    def __post_init__(self) -> None:
        _check_workers(self.n_workers)

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """All units, n times; the same in every round."""
        del seed, k, axis
        return tuple(np.arange(size) for _ in range(self.n_workers))


@dataclass(frozen=True)
class Perm:
    """A random permutation is dealt out: hands are disjoint and cover every unit in every round.

    C_i = n sum_{j in S_i} e_j e_j' on n = d/q workers (eq. 5; Szlendak et al. 2022), for any size:
    where n does not divide it, the remaining units go to randomly chosen workers, which keeps both
    E C_i = I and mean_i C_i = I. With `weights`, worker i holds w_i = weights[i] / sum(weights) of
    the units in expectation, to the unit in every round, and E C_i = n w_i I; mean_i C_i = I still
    holds. Multiply worker i's step by `correction[i]` = 1 / (n w_i) to descend f and not the
    weighted problem.

    >>> [hand.tolist() for hand in Perm(2).hands(5, seed=0, k=0)]
    [[0, 1, 4], [2, 3]]
    """

    n_workers: int
    weights: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_workers(self.n_workers)
        if self.weights is None:
            return
        if len(self.weights) != self.n_workers or min(self.weights) < 1:
            raise ValueError(
                f"Perm wants one positive whole weight for each of n_workers={self.n_workers} "
                f"workers, not weights={self.weights}. Shares of 1/4 and 3/4 are weights=(1, 3)."
            )

    @property
    def correction(self) -> tuple[float, ...]:
        """1 / (n w_i): the factor on worker i's step that restores f under unequal shares."""
        weights = self._weights
        return tuple(sum(weights) / (self.n_workers * w) for w in weights)

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """Sorted hands of one shuffled deck; raises ValueError where a worker would get none."""
        self._check_size(size)
        stream = words(key(seed, k, axis))
        ends = accumulate(self._sizes(size, stream), initial=0)
        deck = np.asarray(shuffled(size, stream), dtype=np.int64)
        return tuple(np.sort(deck[begin:end]) for begin, end in pairwise(ends))

    @property
    def _weights(self) -> tuple[int, ...]:
        return self.weights or (1,) * self.n_workers

    def _sizes(self, size: int, stream: Iterator[int]) -> list[int]:
        """|S_i|: w_i size rounded up or down so that E|S_i| = w_i size exactly.

        Systematic sampling over the workers in random order: every worker's fraction is a stretch
        of a line, and units are handed out wherever the line passes a whole number after a random
        start. Equal weights give a uniformly random set of workers with one unit more.
        """
        total = sum(self._weights)
        sizes = [size * w // total for w in self._weights]
        if sum(sizes) == size:
            return sizes
        order = shuffled(self.n_workers, stream)
        line = below(stream, total)
        for i in order:
            line += size * self._weights[i] % total
            sizes[i] += line // total
            line %= total
        return sizes

    def _check_size(self, size: int) -> None:
        if size < self.n_workers:
            raise ValueError(
                f"Perm deals at least one unit to every worker, but there are {size} units for "
                f"n_workers={self.n_workers}. Use at most {size} workers, or more units, or "
                "AtLeast, which lets workers share units."
            )
        least = min(range(self.n_workers), key=self._weights.__getitem__)
        weight, total = self._weights[least], sum(self._weights)
        if size * weight < total:
            raise ValueError(
                f"Perm deals at least one unit to every worker, but worker {least}, of weight "
                f"{weight} in {total}, gets less than one of {size} units. Raise its weight to "
                f"{-(-(total - weight) // (size - 1))} or more."
            )


@dataclass(frozen=True)
class AtLeast:
    """A Perm in which nobody holds fewer than `least` units: where they do not suffice, shared.

    ResIST's minimum depth (Dun et al. 2022), for units that are blocks. With n least <= size it is
    `Perm(n)`, draw for draw. Otherwise every worker holds exactly `least` units, windows on a
    circle of all of them in random order, so that each unit has n least / size holders, rounded up
    or down.

    >>> [hand.tolist() for hand in AtLeast(3, least=2).hands(4, seed=0, k=0)]
    [[0, 3], [1, 2], [1, 2]]
    """

    n_workers: int
    least: int = 1

    def __post_init__(self) -> None:
        _check_workers(self.n_workers)
        if self.least < 1:
            raise ValueError(f"AtLeast deals everyone least >= 1 units, not least={self.least}.")

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """Sorted hands that cover every unit; raises ValueError if least > size."""
        if self.least > size:
            raise ValueError(
                f"AtLeast cannot deal everyone least={self.least} of {size} units. "
                f"Use least <= {size}."
            )
        if self.n_workers * self.least <= size:
            return Perm(self.n_workers).hands(size, seed=seed, k=k, axis=axis)
        stream = words(key(seed, k, axis))
        circle = np.asarray(shuffled(size, stream), dtype=np.int64)
        starts = [place * self.least for place in shuffled(self.n_workers, stream)]
        window = np.arange(self.least)
        return tuple(np.sort(circle[(start + window) % size]) for start in starts)


@dataclass(frozen=True)
class WarmUp:
    """Everyone holds everything for `n_rounds` rounds, then another deal takes over.

    The warm-up by Local SGD of ResIST (Dun et al. 2022), as a matter of the deal alone.

    >>> deal = WarmUp(1, Perm(2))
    >>> [deal.hands(3, seed=0, k=k)[0].tolist() for k in (0, 1)]
    [[0, 1, 2], [0]]
    """

    n_rounds: int
    deal: Deal

    def __post_init__(self) -> None:
        if self.n_rounds < 0:
            raise ValueError(f"A warm-up takes n_rounds >= 0 rounds, not {self.n_rounds}.")

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return self.deal.n_workers

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """All units in the first rounds; the other deal's hands of round k after them."""
        dealt = self.deal.hands(size, seed=seed, k=k, axis=axis)  # refuses from round 0 on
        return Full(self.n_workers).hands(size, seed=seed, k=k) if k < self.n_rounds else dealt


@dataclass(frozen=True)
class RandQ:
    """Rand-q: every worker draws q units by itself; hands overlap and may miss units.

    C_i = (d/q) sum_{j in S_i} e_j e_j': E C_i = I, but mean_i C_i = I on average only.

    >>> [hand.tolist() for hand in RandQ(2, q=2).hands(5, seed=0, k=0)]
    [[1, 3], [0, 3]]
    """

    n_workers: int
    q: int

    def __post_init__(self) -> None:
        _check_workers(self.n_workers)
        if self.q < 1:
            raise ValueError(f"RandQ deals q >= 1 units, not q={self.q}.")

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """Draw q of the units for each worker, independently; raises ValueError if q > size."""
        if self.q > size:
            raise ValueError(f"RandQ cannot deal q={self.q} of {size} units. Use q <= {size}.")
        return tuple(self._draw(size, words(key(seed, k, axis, i))) for i in range(self.n_workers))

    def _draw(self, size: int, stream: Iterator[int]) -> Units:
        return np.sort(np.asarray(shuffled(size, stream)[: self.q], dtype=np.int64))


@dataclass(frozen=True)
class Bernoulli:
    """Every worker keeps each unit with probability p, independently; a hand can be empty.

    C_i = (1/p) sum_{j in S_i} e_j e_j': E C_i = I, but mean_i C_i = I on average only. p is applied
    as the nearest multiple of 2**-32.

    >>> [hand.tolist() for hand in Bernoulli(2, p=0.5).hands(5, seed=0, k=0)]
    [[0, 2, 3], [2, 4]]
    """

    n_workers: int
    p: float

    def __post_init__(self) -> None:
        _check_workers(self.n_workers)
        if not 0 < self.p <= 1:
            raise ValueError(f"Bernoulli keeps units with probability 0 < p <= 1, not p={self.p}.")

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """The kept units of each worker, from none to all."""
        threshold = round(self.p * 2**32)
        streams = [words(key(seed, k, axis, i)) for i in range(self.n_workers)]
        kept: Sequence[list[int]] = [
            [j for j in range(size) if next(stream) < threshold] for stream in streams
        ]
        return tuple(np.asarray(units, dtype=np.int64) for units in kept)


@dataclass(frozen=True)
class Lazy:
    """A Perm of which one part in `period` is dealt anew each round: few units change hands.

    Hands are disjoint and cover every unit. The units fall into `period` fixed random groups, and
    in round k group k mod period is shuffled among its places. So a unit is dealt anew once in
    `period` rounds, each time to a uniformly drawn worker, and any round can still be drawn alone.
    A share of about (1 - 1/n) / period of the units moves, and that much less is sent by whoever
    hands them over directly. `period=None` never deals again: n narrow networks, merged.

    >>> deal = Lazy(2, period=3)
    >>> [deal.hands(6, seed=0, k=k)[0].tolist() for k in range(3)]
    [[0, 2, 5], [0, 2, 5], [2, 4, 5]]
    """

    n_workers: int
    period: int | None

    def __post_init__(self) -> None:
        _check_workers(self.n_workers)
        if self.period is not None and self.period < 1:
            raise ValueError(
                f"Lazy deals every unit anew once in period={self.period} rounds; use 1 (all of "
                "them each round) or more, or None for never."
            )

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """Sorted hands; raises ValueError where a worker would get no unit."""
        first = Perm(self.n_workers).hands(size, seed=seed, k=0, axis=axis)  # refuses too few
        if self.period is None:
            return first
        parts = [
            self._part(group, seed, k - (k - number) % self.period, axis)
            for number, group in enumerate(self._groups(size, seed, axis))
        ]
        return tuple(np.sort(np.concatenate(hand)) for hand in zip(*parts, strict=True))

    def _groups(self, size: int, seed: int, axis: int) -> list[list[int]]:
        """Fixed groups; all but one a multiple of n units, so that hands keep their sizes."""
        assert self.period is not None
        deck = shuffled(size, words(key(seed, axis)))
        n = self.n_workers
        rows = [deck[start : start + n] for start in range(0, size - size % n, n)]
        periods = min(self.period, max(1, len(rows)))  # groups beyond these have no unit
        groups = [[j for row in rows[g :: self.period] for j in row] for g in range(periods)]
        groups[0] += deck[size - size % n :]
        return groups

    def _part(self, group: Sequence[int], seed: int, dealt: int, axis: int) -> list[Units]:
        """A group's hands as dealt in round `dealt`; below 0 it is the deal that round 0 finds."""
        stream = words(key(seed, dealt, axis, 1))
        order = shuffled(
            self.n_workers, stream
        )  # who gets one more where they do not come out even
        deck = [group[place] for place in shuffled(len(group), stream)]
        hands: list[Units] = [np.empty(0, np.int64)] * self.n_workers
        for place, worker in enumerate(order):
            hands[worker] = np.asarray(deck[place :: self.n_workers], dtype=np.int64)
        return hands


@dataclass(frozen=True)
class Ordered:
    """Nested prefixes by capacity: worker i always holds the first c_i of the units.

    HeteroFL (Diao et al. 2021); with capacities drawn per round, FjORD (Horvath et al. 2021). The
    first units have all workers as holders, the last ones only those of capacity 1.

    >>> [hand.tolist() for hand in Ordered((1.0, 0.5, 0.25)).hands(8, seed=0, k=0)]
    [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [0, 1]]
    """

    capacities: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_capacities(self.capacities)

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return len(self.capacities)

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """The first ceil(c_i size) units for worker i; the same in every round."""
        del seed, k, axis
        return tuple(np.arange(_share(c, size)) for c in self.capacities)


@dataclass(frozen=True)
class Rolling:
    """A window that moves by one unit a round, so that every unit is trained by small workers too.

    FedRolex (Alam et al. 2022): worker i holds ceil(c_i size) units from unit k mod size on, around
    the end.

    >>> [hand.tolist() for hand in Rolling((0.5, 0.25)).hands(8, seed=0, k=6)]
    [[0, 1, 6, 7], [6, 7]]
    """

    capacities: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_capacities(self.capacities)

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return len(self.capacities)

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """The window of round k; it depends on nothing but k."""
        del seed, axis
        return tuple(np.sort((k + np.arange(_share(c, size))) % size) for c in self.capacities)


@dataclass(frozen=True)
class Scored:
    """The units by their score, highest first, in windows: worker 0 holds those of high score.

    AsyncDrop (Dun et al. 2023; its released code): the score is how far a unit has come since the
    start (`subnetwork.nets.changes`), workers are numbered from the fastest, and worker i holds
    ceil(c_i size) units from place i floor(size / n) on, moved back from the end where they would
    reach over it. Windows overlap where c_i > 1/n and leave units out where c_i < 1/n.

    Scores are data of the deal, so a draw still depends on nothing but the deal and its key. To
    score anew, go on with another deal: `rounds(..., start=k)`. Equal scores are put in random
    order, anew each round; with no scores at all the windows are random.

    >>> deal = Scored((0.5, 0.5), ((0.1, 3.0, 0.2, 2.0),))
    >>> [hand.tolist() for hand in deal.hands(4, seed=0, k=0)]
    [[1, 3], [0, 2]]

    Attributes:
        capacities: share of the units of each worker, in (0, 1].
        scores: the scores of the units of each axis, in the order of the axes.
    """

    capacities: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        _check_capacities(self.capacities)
        if any(isnan(score) for axis in self.scores for score in axis):
            raise ValueError(
                "Units cannot be put in order by scores that are NaN. Score a model that has not "
                "diverged, or give the unit a number."
            )

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return len(self.capacities)

    def hands(self, size: int, *, seed: int, k: int, axis: int = 0) -> Hands:
        """Windows of the order by score; raises ValueError where the axis has other units."""
        scores = self.scores[axis] if self.scores and axis < len(self.scores) else ()
        if self.scores and len(scores) != size:
            raise ValueError(
                f"Scored has {len(scores)} scores for axis number {axis}, which has {size} units. "
                "Give one score for each unit of each axis, in the order of the axes."
            )
        order = shuffled(size, words(key(seed, k, axis)))
        if self.scores:
            order.sort(key=lambda unit: -scores[unit])  # stable: equal scores stay shuffled
        hands = []
        for i, capacity in enumerate(self.capacities):
            share = _share(capacity, size)
            start = min(i * (size // self.n_workers), size - share)
            hands.append(np.sort(np.asarray(order[start : start + share], dtype=np.int64)))
        return tuple(hands)


def _share(capacity: float, size: int) -> int:
    """ceil(c size), for c as it is written: 0.1 of 30 units are 3."""
    return ceil(Fraction(str(capacity)) * size)


def _check_capacities(capacities: tuple[float, ...]) -> None:
    _check_workers(len(capacities))
    if not all(0 < c <= 1 for c in capacities):
        raise ValueError(
            f"Capacities are shares of the units in (0, 1], one a worker, not {capacities}. A "
            "worker of half size has 0.5."
        )


def _check_workers(n_workers: int) -> None:
    if n_workers < 1:
        raise ValueError(f"A deal needs at least one worker, not n_workers={n_workers}.")
