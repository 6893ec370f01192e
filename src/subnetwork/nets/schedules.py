"""Factors on the step size, by the global number of the step: they do not restart with a round."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]
"""Global number of a local step, from 0 -> factor on the step size."""


@dataclass(frozen=True)
class WarmupCosine:
    """Linear from near 0 over `warmup` steps, then half a cosine down to `least` at `total`.

    >>> schedule = WarmupCosine(total=100, warmup=10)
    >>> schedule(0), schedule(9), round(schedule(55), 3), schedule(100)
    (0.1, 1.0, 0.5, 0.0)
    """

    total: int
    warmup: int = 0
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.total:
            raise ValueError(
                f"A warm-up of warmup={self.warmup} steps does not fit into total={self.total}. "
                f"Give it from 0 to {max(self.total - 1, 0)} steps."
            )

    def __call__(self, step: int) -> float:
        """The factor of one step; `least` after the end."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / (self.total - self.warmup))
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * done)) / 2
