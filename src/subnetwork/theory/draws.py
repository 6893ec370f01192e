"""Rounds as a list with probabilities: the dense reference for any linear method.

A round of Algorithm 1 on quadratics is x+ = x - (B x - u), whatever the sketch, the number of local
steps and the merge. Running it at zero and at the d unit vectors finds B and u of one draw.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from subnetwork.algorithm import Merge, Partition, Sketch, Work
from subnetwork.shapes import Floats, Matrix, Vector
from subnetwork.theory.enumeration import CutByHands, weighted_draws

P = TypeVar("P", bound=Partition[Any, Any])


@dataclass(frozen=True, eq=False)
class Draws:
    """B and u of x+ = x - (B x - u) for every draw, with the step size inside.

    Attributes:
        B: shape (draws, d, d).
        u: shape (draws, d).
        weight: probabilities of the draws, or 1/m each for a sample of m.
        sampled: whether the draws are a sample, so that moments carry a standard error.
    """

    B: Floats
    u: Floats
    weight: Floats
    sampled: bool = False

    def standard_error(self, values: Floats) -> Floats:
        """Of the weighted mean of one value a draw; zero where the list is complete."""
        spread = np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)))
        return spread if self.sampled else np.zeros_like(spread)


def enumerated(
    sketch: CutByHands[P], work: Work[P, Vector], merge: Merge[Vector, P, Vector]
) -> Draws:
    """All rounds of a sketch, work and merge: for small n and d."""
    chances, partitions = zip(*weighted_draws(sketch), strict=True)
    return _listed(partitions, chances, work, merge, sketch.dim)


def sampled(
    sketch: Sketch[P],
    work: Work[P, Vector],
    merge: Merge[Vector, P, Vector],
    *,
    dim: int,
    n_draws: int,
    seed: int = 0,
) -> Draws:
    """A sample of rounds, where they are too many to list or only a sampler is known."""
    if n_draws < 2:
        raise ValueError(
            f"n_draws={n_draws} has no standard error. Use n_draws=2 or more; 1000 gives 3 %."
        )
    partitions = [sketch.sample(seed, k) for k in range(n_draws)]
    found = _listed(partitions, [1 / n_draws] * n_draws, work, merge, dim)
    return Draws(found.B, found.u, found.weight, sampled=True)


def _listed(
    partitions: Iterable[P],
    chances: Sequence[float],
    work: Work[P, Vector],
    merge: Merge[Vector, P, Vector],
    dim: int,
) -> Draws:
    maps = [affine(partition, work, merge, dim) for partition in partitions]
    B, u = (np.stack(part) for part in zip(*maps, strict=True))
    return Draws(B, u, np.array(chances))


def affine(
    partition: P, work: Work[P, Vector], merge: Merge[Vector, P, Vector], dim: int
) -> tuple[Matrix, Vector]:
    """(B, u) of one draw, x+ = x - (B x - u): the round at zero and at the unit vectors."""

    def after(x: Vector) -> Vector:
        submodels = [partition.select(x, i) for i in range(partition.n_workers)]
        return merge(x, partition, work(0, partition, submodels))

    u = after(np.zeros(dim))
    columns = [unit - (after(unit) - u) for unit in np.eye(dim)]
    return np.stack(columns, axis=1), u
