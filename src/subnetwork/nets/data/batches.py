"""Rows dealt out to the workers, and every worker's endless batches of its own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from subnetwork.deals import Hands, Perm
from subnetwork.keys import key, shuffled, words
from subnetwork.splits import Parts

Inputs: TypeAlias = Tensor | tuple[Tensor, ...]
"""What a model is called with; a tuple is positional arguments."""

Prepare: TypeAlias = Callable[[Tensor], Tensor]
"""What is done to the inputs of a batch as it is read, such as scaling bytes to numbers."""


class Feed(Protocol):
    """Batches of every worker, each named by (worker, step) and by nothing that came before."""

    @property
    def seed(self) -> int:
        """Of the order of the rows; noise in the network is keyed by it as well."""
        ...

    def batch(self, worker: int, step: int, /) -> tuple[Inputs, Tensor]:
        """Inputs and targets of batch `step` of the worker."""
        ...

    def stream(self) -> Iterator[Inputs]:
        """All training inputs once: what `recalibrate` reads."""
        ...


@dataclass(frozen=True, eq=False)
class Batches:
    """Every worker's endless stream of batches over its own shard of the rows.

    Shards are disjoint and cover the rows, so two workers never see the same batch. A worker reads
    its shard epoch after epoch, each in a new order; a batch may reach over the end of an epoch, so
    no row is ever dropped. Batch t of worker i depends on (seed, i, t) alone.

    Attributes:
        inputs: one row a sample, or a map-style dataset of pairs.
        targets: one target for each row; None where `inputs` is a dataset.
        n_workers: n.
        batch_size: rows in a batch; a worker with fewer rows reads all of them in each step.
        seed: of the shards and of the order of rows.
        parts: the rows of each worker (`subnetwork.splits`); None deals them out evenly at random.
        prepare: what is done to the inputs as they are read.
        least: rows that a worker has to have: 1 where nothing normalises over the batch.
    """

    inputs: Tensor | Dataset[Any]
    targets: Tensor | None
    n_workers: int
    batch_size: int
    seed: int
    parts: Parts | None = None
    prepare: Prepare | None = None
    least: int = 2

    def __post_init__(self) -> None:
        if self.targets is not None and self.n_rows != len(self.targets):
            raise ValueError(
                f"There are {self.n_rows} inputs for {len(self.targets)} targets; give one "
                "target for each row."
            )
        if self.n_workers < 1:
            raise ValueError(f"Rows are dealt to at least one worker, not {self.n_workers}.")
        if self.parts is not None:
            self._check_parts(self.parts)
            return
        smallest = self.n_rows // self.n_workers
        if not 1 <= self.batch_size <= smallest:
            raise ValueError(
                f"batch_size={self.batch_size} does not fit a shard of {smallest} rows "
                f"({self.n_rows} rows on {self.n_workers} workers). Use a batch size from 1 "
                f"to {smallest}, or fewer workers."
            )

    @property
    def n_rows(self) -> int:
        """Number of training rows."""
        return len(self.inputs)  # type: ignore[arg-type]  # a map-style dataset has a length

    def shard(self, worker: int) -> Tensor:
        """Indices of the worker's rows, ascending; raises ValueError for an unknown worker."""
        if not 0 <= worker < self.n_workers:
            raise ValueError(
                f"There is no shard for worker {worker}: the rows are dealt to {self.n_workers} "
                "workers. Give the batches as many workers as the deal has."
            )
        shards = self.parts or _shards(self.n_rows, self.n_workers, self.seed)
        return torch.as_tensor(shards[worker])

    def rows(self, worker: int, step: int) -> Tensor:
        """Indices of the rows of batch `step` of the worker."""
        return in_epochs(self.shard(worker), self.batch_size, self.seed, worker, step)

    def samples(self, worker: int, step: int) -> int:
        """Number of rows of batch `step` of the worker; all its batches are as large."""
        del step
        return min(self.batch_size, len(self.shard(worker)))

    def batch(self, worker: int, step: int, /) -> tuple[Tensor, Tensor]:
        """Inputs and targets of batch `step` of the worker."""
        return self._read(self.rows(worker, step))

    def stream(self, batch_size: int = 1024, every: int = 1) -> Iterator[Tensor]:
        """All training inputs once, in order, or one row in `every`: what `recalibrate` reads."""
        chosen = torch.arange(0, self.n_rows, every)
        for first in range(0, len(chosen), batch_size):
            yield self._read(chosen[first : first + batch_size])[0]

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.inputs, Tensor):
            assert self.targets is not None
            inputs, targets = self.inputs[rows], self.targets[rows]
        else:
            inputs, targets = default_collate([self.inputs[i] for i in rows.tolist()])
        return (self.prepare(inputs) if self.prepare else inputs), targets

    def _check_parts(self, parts: Parts) -> None:
        if len(parts) != self.n_workers:
            raise ValueError(
                f"The rows are split into {len(parts)} parts for n_workers={self.n_workers}. Give "
                "one part for each worker."
            )
        short = [i for i, rows in enumerate(parts) if len(rows) < self.least]
        if short:
            wants = "batch normalisation wants two" if self.least == 2 else "it trains on one"
            raise ValueError(
                f"Worker {short[0]} has {len(parts[short[0]])} rows of {self.n_rows}, but {wants} "
                "at least. Use a larger alpha, fewer workers or another seed."
            )


def batches_of(
    data: Dataset[Any] | tuple[ArrayLike, ArrayLike],
    *,
    n_workers: int,
    batch_size: int,
    seed: int,
    parts: Parts | None = None,
) -> Batches:
    """Batches of a map-style dataset of pairs, or of a pair of arrays (inputs, targets).

    >>> import numpy as np
    >>> rows = np.eye(6, dtype=np.float32), np.arange(6)
    >>> feed = batches_of(rows, n_workers=2, batch_size=3, seed=0)
    >>> sorted(torch.cat([feed.batch(i, 0)[1] for i in range(2)]).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    if isinstance(data, Dataset):
        return Batches(data, None, n_workers, batch_size, seed, parts)
    inputs, targets = (torch.as_tensor(array) for array in data)
    return Batches(inputs, targets, n_workers, batch_size, seed, parts)


def in_epochs(shard: Tensor, batch_size: int, seed: int, worker: int, step: int) -> Tensor:
    """Batch `step` of the rows of a shard, read epoch after epoch, each in an order of its own."""
    size = len(shard)
    first = step * min(batch_size, size)
    places = [
        _epoch(seed, worker, place // size, size)[place % size]
        for place in range(first, first + min(batch_size, size))
    ]
    return shard[torch.as_tensor(places)]


@lru_cache(maxsize=8)
def _shards(n_rows: int, n_workers: int, seed: int) -> Hands:
    return Perm(n_workers).hands(n_rows, seed=seed, k=0)


@lru_cache(maxsize=64)
def _epoch(seed: int, worker: int, epoch: int, size: int) -> Sequence[int]:
    return shuffled(size, words(key(seed, 1, worker, epoch)))
