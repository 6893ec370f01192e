"""Unequal shares by measured speed: the weights of a permutation, from what rows say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PERIOD = 5  # rows between two looks at the speeds
TOLERATED = 1.2  # ratio of the largest to the smallest speed up to which shares stay
GRAIN = 8  # weights of equal shares; a share changes by an eighth at least
LEAST = 4  # no share is smaller than the n-th part over this


@dataclass
class Shares:
    """The weights in force, and the rows since they were set."""

    weights: tuple[int, ...]
    least_size: int  # units of the smallest axis that is dealt
    _steps: list[int] = field(default_factory=list)
    _seconds: list[float] = field(default_factory=list)
    _rows: int = 0

    def told(self, row: Mapping[str, Any]) -> None:
        """Take in a row; every fifth sets new weights, where speeds differ by more than a fifth."""
        if not self._rows:
            self._steps, self._seconds = [0] * len(self.weights), [0.0] * len(self.weights)
        self._rows += 1
        for i, (steps, seconds) in enumerate(
            zip(row["worker_steps"], row["compute_seconds"], strict=True)
        ):
            self._steps[i] += steps
            self._seconds[i] += seconds
        if self._rows == PERIOD:
            speeds = [
                s / t if s and t else None for s, t in zip(self._steps, self._seconds, strict=True)
            ]
            self.weights = reweighed(self.weights, speeds, self.least_size)
            self._rows = 0


def reweighed(
    weights: Sequence[int], speeds: Sequence[float | None], least_size: int
) -> tuple[int, ...]:
    """The next weights: a worker of half the speed loses, so that all take a round equally long.

    A share is multiplied by the square root of its worker's speed over the geometric mean: what a
    step costs grows faster than the share, and the measure is noisy. Speeds that differ by less
    than a fifth change nothing.

    Args:
        weights: of the rounds that were measured.
        speeds: local steps in a second; None of a worker that did none, which keeps its share.
        least_size: units of the smallest axis: everybody gets one.

    >>> reweighed((8, 8), (10.0, 9.0), 100)
    (8, 8)
    >>> reweighed((8, 8), (16.0, 4.0), 100)
    (11, 5)
    """
    known = [speed for speed in speeds if speed]
    if not known or max(known) <= TOLERATED * min(known):
        return tuple(weights)
    mean = math.exp(sum(map(math.log, known)) / len(known))
    wanted = [w * math.sqrt((s or mean) / mean) for w, s in zip(weights, speeds, strict=True)]
    grain, n = GRAIN * len(weights) / sum(wanted), len(weights)
    found = [max(GRAIN // LEAST, round(w * grain)) for w in wanted]
    while least_size * min(found) < sum(found) and n <= least_size:
        found[found.index(min(found))] += 1
    return tuple(found)
