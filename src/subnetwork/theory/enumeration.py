"""Every draw of a sketch, for small n and d: what closed forms are compared with."""

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

from subnetwork.deals import Deal, Full, Hands, Perm, RandQ
from subnetwork.theory.sketches import DiagonalPartition, DiagonalSketch


def every_draw(sketch: DiagonalSketch) -> Iterator[DiagonalPartition]:
    """All equally likely draws of a sketch.

    Raises:
        ValueError: a deal whose draws are not equally likely.

    >>> from subnetwork.theory.sketches import Dealt
    >>> [draw.scale.tolist() for draw in every_draw(Dealt(Perm(2), 2, "paper"))]
    [[[2.0, 0.0], [0.0, 2.0]], [[0.0, 2.0], [2.0, 0.0]]]
    """
    scales = sketch.scales
    for hands in _every_hands(sketch.deal, scales.shape[1]):
        held = np.zeros_like(scales)
        for i, hand in enumerate(hands):
            held[i, hand] = scales[i, hand]
        yield DiagonalPartition(held, hands)


def _every_hands(deal: Deal, dim: int) -> Iterator[Hands]:
    match deal:
        case Full():
            yield deal.hands(dim, seed=0, k=0)
        case RandQ():
            sets = [np.array(s, dtype=np.int64) for s in combinations(range(dim), deal.q)]
            yield from product(sets, repeat=deal.n_workers)
        case Perm(weights=None):
            yield from _every_balanced(deal.n_workers, dim)
        case _:
            raise ValueError(
                f"The draws of {deal} are not equally likely. Use Full, RandQ, or Perm without "
                "weights."
            )


def _every_balanced(n: int, d: int) -> Iterator[Hands]:
    """All ways to deal d units into n hands whose sizes differ by one at most."""
    q, more = divmod(d, n)
    for larger in combinations(range(n), more):
        sizes = [q + (i in larger) for i in range(n)]
        yield from _every_split(tuple(range(d)), sizes)


def _every_split(units: tuple[int, ...], sizes: list[int]) -> Iterator[Hands]:
    if not sizes:
        yield ()
        return
    for hand in combinations(units, sizes[0]):
        left = tuple(unit for unit in units if unit not in hand)
        for rest in _every_split(left, sizes[1:]):
            yield (np.array(hand, dtype=np.int64), *rest)
