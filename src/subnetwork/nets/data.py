"""Data sets as pairs of tensors, dealt out to the workers, and their endless batches."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from subnetwork.deals import Hands, Perm
from subnetwork.keys import key, shuffled, words


@dataclass(frozen=True)
class DataSet:
    """A classification task, split into what is trained on and what is tested on."""

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    n_classes: int


@dataclass(frozen=True, eq=False)
class Batches:
    """Every worker's endless stream of batches over its own shard of the rows.

    Shards are disjoint and cover the rows, so two workers never see the same batch. A worker reads
    its shard epoch after epoch, each in a new order; a batch may reach over the end of an epoch, so
    no row is ever dropped. Batch t of worker i depends on (seed, i, t) alone.
    """

    inputs: Tensor
    targets: Tensor
    n_workers: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(
                f"There are {len(self.inputs)} inputs for {len(self.targets)} targets; give one "
                "target for each row."
            )
        if self.n_workers < 1:
            raise ValueError(f"Rows are dealt to at least one worker, not {self.n_workers}.")
        smallest = len(self.inputs) // self.n_workers
        if not 1 <= self.batch_size <= smallest:
            raise ValueError(
                f"batch_size={self.batch_size} does not fit a shard of {smallest} rows "
                f"({len(self.inputs)} rows on {self.n_workers} workers). Use a batch size from 1 "
                f"to {smallest}, or fewer workers."
            )

    def shard(self, worker: int) -> Tensor:
        """Indices of the worker's rows, ascending; raises ValueError for an unknown worker."""
        if not 0 <= worker < self.n_workers:
            raise ValueError(
                f"There is no shard for worker {worker}: the rows are dealt to {self.n_workers} "
                "workers. Give the batches as many workers as the deal has."
            )
        return torch.as_tensor(_shards(len(self.inputs), self.n_workers, self.seed)[worker])

    def rows(self, worker: int, step: int) -> Tensor:
        """Indices of the rows of batch `step` of the worker."""
        shard = self.shard(worker)
        size = len(shard)
        first = step * self.batch_size
        places = [
            _epoch(self.seed, worker, place // size, size)[place % size]
            for place in range(first, first + self.batch_size)
        ]
        return shard[torch.as_tensor(places)]

    def batch(self, worker: int, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of batch `step` of the worker, each of length `batch_size`."""
        rows = self.rows(worker, step)
        return self.inputs[rows], self.targets[rows]

    def stream(self, batch_size: int = 1024) -> Iterator[Tensor]:
        """All training inputs once, in order: what `recalibrate` reads."""
        for first in range(0, len(self.inputs), batch_size):
            yield self.inputs[first : first + batch_size]


@lru_cache(maxsize=8)
def _shards(n_rows: int, n_workers: int, seed: int) -> Hands:
    return Perm(n_workers).hands(n_rows, seed=seed, k=0)


@lru_cache(maxsize=64)
def _epoch(seed: int, worker: int, epoch: int, size: int) -> list[int]:
    return shuffled(size, words(key(seed, 1, worker, epoch)))


def digits(seed: int = 0) -> DataSet:
    """scikit-learn's handwritten digits: 1,797 pictures of 8 x 8; a fifth is the test set.

    Pixels are scaled to [0, 1]. The split is keyed by `seed`.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.as_tensor(bunch.data / 16.0, dtype=torch.float32)
    targets = torch.as_tensor(bunch.target, dtype=torch.int64)
    order = torch.as_tensor(shuffled(len(inputs), words(key(seed, 0))))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return DataSet("digits", inputs[train], targets[train], inputs[test], targets[test], 10)


DATA: Mapping[str, Callable[[int], DataSet]] = {"digits": digits}


def load(name: str, seed: int = 0) -> DataSet:
    """The data set of that name; raises ValueError with the known names for another one."""
    if name not in DATA:
        raise ValueError(f"There is no data set {name!r}. Known are: {', '.join(DATA)}.")
    return DATA[name](seed)
