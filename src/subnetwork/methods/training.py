"""What a training run is: plain data, the same on every rank, without torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from subnetwork.keys import key


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run of one method on one data set with n workers.

    Every worker takes `rounds` x `local_steps` steps, whatever the method, so all methods see the
    same number of samples. One `seed` is split into the streams of partition, data and
    initialisation.
    """

    method: str = "ist"
    """ist, local_sgd, diloco or synchronous_sgd."""
    data: str = "digits"
    """Data set: digits."""
    hidden: tuple[int, ...] = (256,)
    """Neurons of each hidden layer."""
    workers: int = 4
    """Workers n."""
    rounds: int = 30
    """Rounds of `local_steps` local steps."""
    local_steps: int = 10
    """Local steps between two merges, tau."""
    batch_size: int = 32
    """Rows in a batch of one worker."""
    step_size: float = 0.2
    """Step size gamma of the local SGD."""
    momentum: float = 0.0
    """Momentum of the local SGD; it is cut, sent and merged with its parameters."""
    outer_step_size: float = 0.7
    """DiLoCo's outer step size."""
    outer_momentum: float = 0.9
    """DiLoCo's outer Nesterov momentum."""
    seed: int = 0
    """The one seed; partition, data and initialisation have streams of their own."""
    steps: int | None = None
    """A budget of local steps instead of `rounds`: the last round takes those that are left."""

    def __post_init__(self) -> None:
        for name in ("workers", "rounds", "local_steps", "batch_size"):
            _at_least_one(name, getattr(self, name))
        _at_least_one("steps", self.rounds if self.steps is None else self.steps)
        for name in ("step_size", "outer_step_size"):
            _positive(name, getattr(self, name))
        for name in ("momentum", "outer_momentum"):
            _below_one(name, getattr(self, name))
        if self.batch_size < 2:
            raise ValueError("batch_size is 2 or more: batch normalisation wants two rows.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is a whole number from 0 to 2**64 - 1, not {self.seed}.")

    @property
    def total_steps(self) -> int:
        """Local steps of every worker in the whole run."""
        return self.steps or self.rounds * self.local_steps

    def stream(self, purpose: int) -> int:
        """The seed of one stream: of keys.PARTITION, keys.DATA or keys.INIT."""
        return key(self.seed, purpose)

    def to_json(self) -> str:
        """The run as text, for a worker process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Training":
        """The run that `to_json` wrote down."""
        fields: Mapping[str, Any] = json.loads(text)
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is a whole number from 1 on, not {value}.")


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is a positive number, not {value}. Try 0.1.")


def _below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is in [0, 1), not {value}. Try 0.9.")
