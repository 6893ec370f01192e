"""A data set in memory: rows to train on and to test on, and some to choose hyperparameters on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from subnetwork.keys import key, shuffled, words
from subnetwork.nets.data.batches import Inputs, Prepare

Pairs: TypeAlias = Iterator[tuple[Inputs, Tensor]]

HELD_OUT = 10  # one training row in ten validates where a set has no validation rows of its own


@dataclass(frozen=True, eq=False)
class DataSet:
    """A supervised task: rows of inputs with their targets, split into training and test rows.

    Targets are classes (a whole number a row), classes at every position of a row (text), or a row
    of zeros and ones (several labels a row). -100 is a target that counts nowhere.
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    n_classes: int
    clients: Tensor | None = None  # whose row each training row is
    prepare: Prepare | None = None  # what is done to inputs as they are read

    def __post_init__(self) -> None:
        for what, inputs, targets in (
            ("training", self.train_inputs, self.train_targets),
            ("test", self.test_inputs, self.test_targets),
        ):
            if len(inputs) != len(targets) or not len(inputs):
                raise ValueError(
                    f"{self.name} has {len(inputs)} {what} inputs and {len(targets)} targets. Give "
                    "one target for each row, and at least one row."
                )

    @property
    def labels(self) -> Tensor | None:
        """The class of each training row; None where a row has more than one target."""
        return self.train_targets if self.train_targets.ndim == 1 else None

    @property
    def rows(self) -> Tensor:
        """Indices of what is dealt out to the workers."""
        return torch.arange(len(self.train_inputs))

    def test(self, batch_size: int = 1024) -> Pairs:
        """Batches of the test rows, prepared."""
        for first in range(0, len(self.test_inputs), batch_size):
            inputs = self.test_inputs[first : first + batch_size]
            targets = self.test_targets[first : first + batch_size]
            yield (self.prepare(inputs) if self.prepare else inputs), targets

    def validating(self, seed: int) -> "DataSet":
        """The same set with a tenth of the training rows in the place of the test rows.

        The test rows are not in it: what is chosen on it was not chosen on them.
        """
        order = torch.as_tensor(shuffled(len(self.train_inputs), words(key(seed, 2))))
        held, kept = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :].sort().values
        return replace(
            self,
            train_inputs=self.train_inputs[kept],
            train_targets=self.train_targets[kept],
            test_inputs=self.train_inputs[held],
            test_targets=self.train_targets[held],
            clients=None if self.clients is None else self.clients[kept],
        )

    def flat(self) -> "DataSet":
        """Every row as one vector: for networks that begin with a linear layer."""
        if self.train_inputs.ndim == 2:
            return self
        return replace(
            self,
            train_inputs=self.train_inputs.flatten(1),
            test_inputs=self.test_inputs.flatten(1),
        )


@dataclass(frozen=True)
class Scaled:
    """Bytes to numbers: (x / 255 - mean) / std, a mean and a std for each channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, x: Tensor) -> Tensor:
        """Channels are the second dim of four; else there is one."""
        shape = (1, -1, 1, 1) if x.ndim == 4 else (-1,)
        mean, std = (torch.tensor(v, device=x.device).reshape(shape) for v in (self.mean, self.std))
        return (x.float() / 255 - mean) / std


def parted(
    name: str, inputs: Tensor, targets: Tensor, n_classes: int, seed: int, share: int = 5
) -> DataSet:
    """A set without test rows of its own: one row in `share`, drawn by the seed, becomes one."""
    order = torch.as_tensor(shuffled(len(inputs), words(key(seed, 0))))
    test, train = order[: len(order) // share], order[len(order) // share :]
    return DataSet(name, inputs[train], targets[train], inputs[test], targets[test], n_classes)
