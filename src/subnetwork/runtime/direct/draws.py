"""What every rank knows without being told: the cuts of all rounds, past and coming."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from subnetwork.nets.partition import NetPartition, NetSketch
from subnetwork.nets.state import Tensors
from subnetwork.runtime.direct.grid import WORKERS, Grid, Table, Words
from subnetwork.runtime.direct.kernels import Masks

T = TypeVar("T")
ROUNDS = 64  # rounds in a word of history
LOOKED_AT = 8  # words of history that are kept


@dataclass(frozen=True)
class Draws:
    """The cuts of a run from round `start` on, as masks of the lines of every parameter.

    `like` has the shapes and dtypes of the whole parameters, on the meta device.

    Draws are keyed by (seed, round), so that nothing here is state: what is remembered could be
    drawn again.
    """

    sketch: NetSketch
    like: Tensors
    seed: int
    start: int = 0
    _memo: "OrderedDict[tuple[str, int], object]" = field(
        default_factory=OrderedDict, repr=False, compare=False
    )
    _past: dict[int, Mapping[str, Words]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.n_workers > WORKERS:
            raise ValueError(
                f"Direct hand-over keeps a bit for each worker of a word of {WORKERS}, but there "
                f"are {self.n_workers} workers. Use up to {WORKERS}, or the coordinator."
            )

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return self.sketch.n_workers

    @property
    def grids(self) -> Mapping[str, Grid]:
        """The table of lines of every parameter."""
        layout = self.sketch.layout
        return self._remembered(
            ("grids", 0),
            lambda: {name: Grid.of(layout, name, p.shape) for name, p in self.like.items()},
        )

    def partition(self, k: int) -> NetPartition:
        """The cut of round k."""
        return self._remembered(("cut", k), lambda: self.sketch.sample(self.seed, k))

    def masks(self, name: str, k: int) -> Masks:
        """Bit i of row u and of column v: worker i holds line (u, v) in round k."""
        axes = self._remembered(("bits", k), lambda: self._bits(k))
        of_tables: dict[Table, Masks] = self._remembered(("masks", k), dict)
        grid = self.grids[name]
        if grid.table not in of_tables:
            of_tables[grid.table] = Masks(*grid.words(axes, (1 << self.n_workers) - 1))
        return of_tables[grid.table]

    def history(self, name: str, k: int, word: int) -> Masks:
        """Bit t of row (i, u) and of column (i, v): worker i held them in round 64 `word` + t.

        Rounds before `start` and after k are left out.
        """
        axes = self._units_of(k, word)
        first, last = self._span(k, word)
        whole = ((1 << (last + 1 - first)) - 1) << (first % ROUNDS)
        rows, cols = self.grids[name].words(axes, whole)
        return Masks(np.ascontiguousarray(rows.T), np.ascontiguousarray(cols.T))

    def history_words(self, k: int) -> range:
        """The words that the rounds from `start` to k lie in, newest first."""
        return range(k // ROUNDS, self.start // ROUNDS - 1, -1)

    def _bits(self, k: int) -> dict[str, Words]:
        """Axis -> a word a unit, bit i for worker i."""
        bits = {}
        for axis, hands in self.partition(k).hands.items():
            bits[axis] = np.zeros(self.sketch.layout.sizes[axis], dtype=np.uint64)
            for i, units in enumerate(hands):
                bits[axis][units] |= np.uint64(1 << i)
        return bits

    def _units_of(self, k: int, word: int) -> Mapping[str, Words]:
        """`_rounds`, drawn once for the latest full words, which every round looks at."""
        last, oldest = self._span(k, word)[1], k // ROUNDS - LOOKED_AT
        self._past.pop(oldest, None)
        if last % ROUNDS < ROUNDS - 1 or word <= oldest:
            return self._remembered((f"history of {word}", k), lambda: self._rounds(k, word))
        if word not in self._past:
            self._past[word] = self._rounds(last, word)
        return self._past[word]

    def _rounds(self, k: int, word: int) -> dict[str, Words]:
        """Axis -> (worker, unit) -> a word, bit t for round 64 `word` + t."""
        first, last = self._span(k, word)
        before = self._memo.get((f"history of {word}", last - 1)) if last > first else None
        if before is None:
            sizes = self.sketch.layout.sizes
            words = {axis: np.zeros((self.n_workers, n), np.uint64) for axis, n in sizes.items()}
            missing = range(first, last + 1)
        else:
            words = {axis: array.copy() for axis, array in before.items()}  # type: ignore[attr-defined]
            missing = range(last, last + 1)
        for t in missing:
            for axis, hands in self.partition(t).hands.items():
                for i, units in enumerate(hands):
                    words[axis][i, units] |= np.uint64(1 << (t % ROUNDS))
        return words

    def _span(self, k: int, word: int) -> tuple[int, int]:
        """The first and last round of a word."""
        return max(self.start, word * ROUNDS), min(k, word * ROUNDS + ROUNDS - 1)

    def _remembered(self, what: tuple[str, int], make: Callable[[], T]) -> T:
        if what not in self._memo:
            self._memo[what] = make()
            while len(self._memo) > 16 + self.n_workers:
                self._memo.popitem(last=False)
        self._memo.move_to_end(what)
        return self._memo[what]  # type: ignore[return-value]
