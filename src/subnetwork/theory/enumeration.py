"""Every draw of a sketch, for small n and d: what closed forms are compared with."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, permutations, product
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from subnetwork.deals import Bernoulli, Deal, Full, Hands, Perm, RandQ
from subnetwork.shapes import Units
from subnetwork.theory.copies import Copies, Fixed

P_co = TypeVar("P_co", covariant=True)
P = TypeVar("P")


@runtime_checkable
class CutByHands(Protocol[P_co]):
    """A sketch whose C_i follow from who holds what."""

    @property
    def deal(self) -> Deal:
        """The law of (S_1, ..., S_n)."""
        ...

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        ...

    def cut(self, hands: Hands, /) -> P_co:
        """The C_i for given S_i."""
        ...


def every_draw(sketch: CutByHands[P]) -> Iterator[P]:
    """All equally likely draws of a sketch.

    Raises:
        ValueError: a deal whose draws are not equally likely.

    >>> from subnetwork.theory.sketches import Dealt
    >>> [draw.scale.tolist() for draw in every_draw(Dealt(Perm(2), 2, "paper"))]
    [[[2.0, 0.0], [0.0, 2.0]], [[0.0, 2.0], [2.0, 0.0]]]
    """
    for hands in _every_hands(sketch.deal, sketch.dim):
        yield sketch.cut(hands)


def weighted_draws(sketch: CutByHands[P]) -> Iterator[tuple[float, P]]:
    """All draws with their probabilities: also of Perm with unequal weights and of Bernoulli."""
    match sketch.deal:
        case Perm(weights=tuple()):
            for share, sizes in sizes_law(sketch.deal, sketch.dim):
                splits = list(_every_split(tuple(range(sketch.dim)), list(sizes)))
                yield from ((share / len(splits), sketch.cut(hands)) for hands in splits)
        case Bernoulli():
            for kept in product(*[_every_subset(sketch.dim)] * sketch.deal.n_workers):
                held, cells = sum(map(len, kept)), sketch.dim * sketch.deal.n_workers
                chance = sketch.deal.p**held * (1 - sketch.deal.p) ** (cells - held)
                yield chance, sketch.cut(kept)
        case _:
            draws = list(every_draw(sketch))
            yield from ((1 / len(draws), draw) for draw in draws)


def sizes_law(deal: Perm, dim: int) -> list[tuple[float, tuple[int, ...]]]:
    """Probabilities of the sizes |S_1|, ..., |S_n| that Perm deals: all orders, all starts.

    Raises:
        ValueError: sizes left to chance for more than 7 workers, whose orders are too many.
    """
    weights = deal.weights or (1,) * deal.n_workers
    total = sum(weights)
    fixed = tuple(dim * w // total for w in weights)
    if sum(fixed) == dim:
        return [(1.0, fixed)]
    if deal.n_workers > 7:
        raise ValueError(
            f"The sizes of {deal.n_workers} unequal hands of {dim} units are left to chance in too "
            f"many ways. Use a dim that the sum of weights {total} divides, such as "
            f"{-(-dim // total) * total}, or simulate."
        )
    found: Counter[tuple[int, ...]] = Counter()
    for order, start in product(permutations(range(deal.n_workers)), range(total)):
        sizes, line = list(fixed), start
        for i in order:
            line += dim * weights[i] % total
            sizes[i] += line // total
            line %= total
        found[tuple(sizes)] += 1
    return [(count / found.total(), sizes) for sizes, count in sorted(found.items())]


def _every_hands(deal: Deal, dim: int) -> Iterator[Hands]:
    match deal:
        case Full():
            yield deal.hands(dim, seed=0, k=0)
        case RandQ():
            sets = [np.array(s, dtype=np.int64) for s in combinations(range(dim), deal.q)]
            yield from product(sets, repeat=deal.n_workers)
        case Perm(weights=None):
            yield from _every_balanced(deal.n_workers, dim)
        case Copies():
            for hands in _every_split(tuple(range(deal.n_workers)), [deal.holders(dim)] * dim):
                yield deal.dealt(hands)
        case Fixed():
            yield deal.hands(dim, seed=0, k=0)
        case _:
            raise ValueError(
                f"The draws of {deal} are not equally likely. Use `weighted_draws`, or Full, RandQ "
                "or Perm without weights."
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


def _every_subset(dim: int) -> list[Units]:
    sizes = range(dim + 1)
    return [np.array(s, dtype=np.int64) for size in sizes for s in combinations(range(dim), size)]
