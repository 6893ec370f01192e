"""Methods beside Algorithm 1, for the one loop: a state, a sketch, a work and a merge.

A method that remembers something (an anchor, a table of gradients, an average) carries it in the
state that `rounds` hands on, so that a run can be continued from its last state alone. `select`
reads the state, the workers compute, the merge makes the next state. What a worker keeps between
rounds stands in the state too, but is not counted as sent.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from subnetwork.algorithm import Merge, Sketch, Work, rounds
from subnetwork.deals import Full
from subnetwork.shapes import Floats, Vector
from subnetwork.theory.problem import Problem
from subnetwork.theory.sketches import Dealt, DiagonalPartition, DiagonalSketch
from subnetwork.theory.stochastic import EXACT, Sampling

S = TypeVar("S")


@dataclass(frozen=True)
class Cost:
    """What a round costs, over all workers; costs add up.

    Numbers sent are counted without indices: every worker draws the partition by itself.

    Attributes:
        down: numbers that the server sends.
        up: numbers that the workers send.
        work: entries of the L_i that are read, the multiply-adds of a dense quadratic: n d^2 for
            gradient descent, d q for one local step of Perm-q.
    """

    down: int = 0
    up: int = 0
    work: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.down + other.down, self.up + other.up, self.work + other.work)

    @property
    def bits_down(self) -> int:
        """Bits that the server sends, 64 a number."""
        return 64 * self.down

    @property
    def bits_up(self) -> int:
        """Bits that the workers send, 64 a number."""
        return 64 * self.up


@dataclass(frozen=True, eq=False)
class Method(Generic[S]):
    """What `rounds` is handed, which model a state stands for, and what a round costs."""

    name: str
    state: S  # x^0 and what the method carries
    sketch: Sketch[Any]
    work: Work[Any, Any]
    merge: Merge[S, Any, Any]
    model: Callable[[S], Vector]
    cost: Callable[[Any], Cost]  # of a round with this partition


@dataclass(frozen=True, eq=False)
class Cut(Generic[S]):
    """One round's draw, for methods whose submodels are read off a state.

    Attributes:
        k: the round.
        draw: the C_i; of `Full` where everyone synchronises.
        full: whether this is a round in which everyone synchronises.
        send: (state, cut, worker) -> what the worker computes at.
    """

    k: int
    draw: DiagonalPartition
    full: bool
    send: Callable[..., Floats]

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return self.draw.n_workers

    def select(self, state: S, worker: int, /) -> Floats:
        """What worker i computes at."""
        return self.send(state, self, worker)


Send: TypeAlias = Callable[[S, Cut[S], int], Floats]
"""(state, cut, worker) -> what the worker computes at: one point, shape (d,), or several."""


@dataclass(frozen=True, eq=False)
class Sending(Generic[S]):
    """A diagonal sketch whose submodels are read off a state, with full rounds in between."""

    often: DiagonalSketch
    send: Send[S]
    is_full: Callable[[int, int], bool] = lambda seed, k: False  # noqa: ARG005 - by name

    def sample(self, seed: int, k: int, /) -> Cut[S]:
        """The cut of round k; in a full round C_i = I."""
        if not self.is_full(seed, k):
            return Cut(k, self.often.sample(seed, k), False, self.send)
        n, d = self.often.scales.shape
        return Cut(k, Dealt(Full(n), d, "as trained").sample(seed, k), True, self.send)


@dataclass(frozen=True, eq=False)
class Gradients:
    """The work of most methods: worker i returns C_i grad f_i(w_i)."""

    problem: Problem
    xi: Sampling = EXACT

    def __call__(self, k: int, cut: Cut[Any], points: Sequence[Vector]) -> list[Vector]:
        """The gradients, in the order of the workers."""
        gradient = partial(self.xi.gradient, self.problem)
        return [cut.draw.scale[i] * gradient(i, w, k) for i, w in enumerate(points)]


def gathered(draw: DiagonalPartition, returned: Sequence[Vector]) -> Vector:
    """The mean over those who hold a coordinate: sum_i P_i r_i for Perm, mean_i r_i for Full."""
    holders = (draw.scale != 0).sum(axis=0)
    return np.asarray(np.sum(returned, axis=0) / np.maximum(holders, 1))


def block_cost(draw: DiagonalPartition, *, n_steps: int = 1) -> Cost:
    """The worker receives, computes on and returns its coordinates alone: q, q and q^2."""
    sizes = [len(hand) for hand in draw.hands]
    return Cost(sum(sizes), sum(sizes), n_steps * sum(size**2 for size in sizes))


def wide_cost(draw: DiagonalPartition) -> Cost:
    """As `block_cost`, but the worker computes at a full-width point that it keeps: q d each."""
    sent = sum(len(hand) for hand in draw.hands)
    return Cost(sent, sent, sent * draw.scale.shape[1])


@dataclass(frozen=True, eq=False)
class Point(Generic[S]):
    """Where a run stands after k rounds, and what it has cost so far."""

    k: int
    state: S
    spent: Cost


def course(
    method: Method[S],
    *,
    seed: int,
    n_rounds: int,
    start: int = 0,
    spent: Cost = Cost(),
) -> Iterator[Point[S]]:
    """Run a method and yield every point from x^start on; x^start itself comes first.

    A run of 200 rounds is one of 100, continued with `start=100`, `spent` and its last state as
    `method.state`: bit for bit.
    """
    yield Point(start, method.state, spent)
    ran = rounds(
        method.state,
        method.sketch,
        method.work,
        method.merge,
        seed=seed,
        n_rounds=n_rounds,
        start=start,
    )
    for r in ran:
        spent = spent + method.cost(r.partition)
        yield Point(r.k + 1, r.x, spent)
