"""What a training run is: plain data, the same on every rank, without torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from subnetwork.keys import key

CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "adam", "adamw"),
    "split": ("iid", "dirichlet", "label", "client", "consecutive", "shared"),
    "norm": ("batch", "layer", "none"),
    "measure": ("test", "validation"),
    "autocast": ("none", "bfloat16"),
    "scale": ("none", "inverted"),
    "shares": ("equal", "measured"),
    "exchange": ("star", "direct"),
    "wire": ("float32", "bfloat16", "int8"),
    "outer": ("none", "nesterov"),
}
COUNTS = (
    *("workers", "rounds", "local_steps", "batch_size", "width", "blocks", "heads"),
    *("period", "share", "least_blocks", "clusters", "clusters_per_batch", "test_every"),
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run of one method on one data set with n workers.

    Every worker takes `rounds` x `local_steps` steps, whatever the method, so all methods see the
    same number of samples. One `seed` is split into the streams of partition, data and
    initialisation.
    """

    method: str = "ist"
    """ist, lazy_ist, never_dealt, narrow, local_sgd, diloco, synchronous_sgd, heterofl, fedrolex,
    federated_dropout, masked_relu, gist or resist."""
    data: str = "digits"
    """Data set: digits, fashion_mnist, cifar10, a9a, cora, tinyshakespeare, ..; most are read from
    the folder that SUBNETWORK_DATA names."""
    model: str = "mlp"
    """mlp, relu, resnet, gpt, gcn, sage or gat."""
    hidden: tuple[int, ...] = (256,)
    """Units of each hidden layer: of mlp, gcn, sage; of the one of relu and gat."""
    width: int = 16
    """Channels of the first stage of resnet; of a token of gpt."""
    blocks: int = 2
    """Blocks of each stage of resnet; of gpt."""
    heads: int = 4
    """Attention heads, of gpt and gat."""
    norm: str = "batch"
    """Between the layers of mlp, gcn, sage: batch, layer or none."""
    dropout: float = 0.0
    """Share of activations that are dropped, of mlp, gpt, gcn, sage, gat."""
    axes: tuple[str, ...] = ()
    """Patterns of the axes to cut, such as *.heads; none: all that can be cut exactly."""
    workers: int = 4
    """Workers n."""
    rounds: int = 30
    """Rounds of `local_steps` local steps."""
    local_steps: int = 10
    """Local steps between two merges, tau."""
    batch_size: int = 32
    """Rows in a batch of one worker, two or more under batch normalisation; of a graph, all its
    nodes."""
    split: str = "iid"
    """Who has which rows: iid, dirichlet, label, client, consecutive, or shared (all have all)."""
    alpha: float = 0.3
    """Concentration of the dirichlet split; small: few workers have a label."""
    clusters: int = 1
    """Clusters that a graph is sampled in; 1: every batch is the whole graph."""
    clusters_per_batch: int = 1
    """Clusters of a graph in a batch."""
    optimizer: str = "sgd"
    """Of the local steps: sgd, adam or adamw."""
    step_size: float = 0.2
    """Step size gamma of the local steps."""
    momentum: float = 0.0
    """Momentum of the local SGD; it is cut, sent and merged with its parameters."""
    weight_decay: float = 0.0
    """Weight decay of the local optimizer; it acts on what a worker holds."""
    scale: str = "none"
    """What a layer of a part makes of its inputs: none, or inverted, as by dropout: times all units
    over those that are held, so that a part answers as the whole does."""
    autocast: str = "none"
    """Type in which the local work multiplies: none (that of the parameters) or bfloat16."""
    compile: bool = False
    """Compile subnetworks by torch.compile: a graph for each shape of a part."""
    period: int = 10
    """lazy_ist: rounds in which every unit is dealt anew once."""
    capacities: tuple[float, ...] = ()
    """heterofl, fedrolex: each worker's share of the units; none: 1, 1/2, 1/4, 1, .."""
    least_blocks: int = 1
    """resist: blocks that every worker holds at least."""
    keep: float = 0.5
    """federated_dropout, masked_relu: the probability that a worker holds a unit."""
    share: int = 4
    """narrow: its network has one unit in so many."""
    outer: str = "none"
    """An optimizer on top of the merge: none, or nesterov, which takes the change of a round for a
    gradient, as diloco does on top of local_sgd."""
    outer_step_size: float = 0.7
    """Step size of the outer optimizer, of diloco or of outer=nesterov."""
    outer_momentum: float = 0.9
    """Its Nesterov momentum."""
    measure: str = "test"
    """What accuracy is measured on: test, or validation, to choose hyperparameters."""
    test_every: int = 1
    """Rows of the record from one test of the merged model to the next; the last round has one."""
    shares: str = "equal"
    """ist, gist: equal, or measured: a worker's share of the units follows its speed."""
    clip_updates: float | None = None
    """Longest update of a worker in a round, in running medians of all; 10 is a good one. None: no
    update is shortened."""
    patience: float = 300.0
    """Seconds for the first round, its bytes on the wire too; then four times a usual one, 3 at
    least. Direct exchange under torchrun: seconds for the slowest rank, 600 at least."""
    exchange: str = "star"
    """How the parts get from worker to worker: star, over a coordinator that holds the model; or
    direct, from each to the next without anyone who holds it."""
    wire: str = "float32"
    """Direct exchange: entries on their way as they are (float32), or rounded: bfloat16, int8."""
    replicas: int = 0
    """Direct exchange: 1 has every rank's part twice, so that a rank that dies is replaced and the
    round repeated; 0: a death ends the run, and --resume goes on. Costs bytes and memory."""
    seed: int = 0
    """The one seed; partition, data and initialisation have streams of their own."""
    steps: int | None = None
    """A budget of local steps instead of `rounds`: the last round takes those that are left."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            _at_least_one(name, getattr(self, name))
        _at_least_one("steps", self.rounds if self.steps is None else self.steps)
        for name in ("step_size", "outer_step_size", "alpha", "keep"):
            _positive(name, getattr(self, name))
        _positive("patience", self.patience, instead=300)
        for name in ("momentum", "outer_momentum", "dropout"):
            _below_one(name, getattr(self, name))
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is 0 or more, not {self.weight_decay}. Try 0.0005.")
        for name, known in CHOICES.items():
            _one_of(name, getattr(self, name), known)
        self._check_optional()
        self._check_wire()
        self._check_replicas()
        if self.batch_size < self.least_rows:
            where = "norm=batch" if self.model == "mlp" else f"model={self.model}"
            raise ValueError(
                f"batch_size is 2 or more with {where}, not {self.batch_size}: batch normalisation "
                "wants two rows."
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is a whole number from 0 to 2**64 - 1, not {self.seed}.")

    def _check_optional(self) -> None:
        if self.clip_updates is not None and not 1 < self.clip_updates < math.inf:
            raise ValueError(
                f"clip_updates is a multiple above 1 of what is usual, not {self.clip_updates}. "
                "Try 10."
            )
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} is SGD's, but the optimizer is {self.optimizer}, which "
                "has moments of its own. Leave the momentum out."
            )

    def _check_wire(self) -> None:
        if self.wire != "float32" and self.exchange != "direct":
            raise ValueError(
                f"wire={self.wire} rounds what workers hand over directly, but the exchange is "
                f"{self.exchange}. Add --exchange direct, or leave --wire out."
            )

    def _check_replicas(self) -> None:
        if self.replicas not in (0, 1):
            raise ValueError(f"replicas is 0 or 1, not {self.replicas}: one death is survived.")
        if self.replicas and self.exchange != "direct":
            raise ValueError(
                f"replicas={self.replicas} is of ranks that hand over directly, but the exchange "
                f"is {self.exchange}, which survives without. Add --exchange direct, or leave "
                "--replicas out."
            )

    @property
    def total_steps(self) -> int:
        """Local steps of every worker in the whole run."""
        return self.steps or self.rounds * self.local_steps

    def tested_after(self, steps: int) -> bool:
        """Whether the merged model is tested in the row that ends after so many local steps."""
        rows = -(-steps // self.local_steps)
        return steps >= self.total_steps or rows % self.test_every == 0

    @property
    def least_rows(self) -> int:
        """Rows that a batch has at least: two where the network normalises over them."""
        over_rows = self.model == "resnet" or (self.model == "mlp" and self.norm == "batch")
        return 2 if over_rows else 1

    def stream(self, purpose: int) -> int:
        """The seed of one stream: of keys.PARTITION, keys.DATA or keys.INIT."""
        return key(self.seed, purpose)

    def to_json(self) -> str:
        """The run as text, for a worker process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Training":
        """The run that `to_json` wrote down."""
        read: Mapping[str, Any] = json.loads(text)
        lists = {name: tuple(value) for name, value in read.items() if isinstance(value, list)}
        return cls(**{**read, **lists})


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is a whole number from 1 on, not {value}.")


def _positive(name: str, value: float, instead: float = 0.1) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is a positive number, not {value}. Try {instead}.")


def _below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is in [0, 1), not {value}. Try 0.9.")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"There is no {name} {value!r}. Known are: {', '.join(known)}.")
