"""What the methods of `race_worker.py` share on one rank: data, network, local work, the clock."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor

from subnetwork.deals import Deal, Lazy, Perm
from subnetwork.experiments.training import merged
from subnetwork.keys import INIT, PARTITION
from subnetwork.methods import Training
from subnetwork.methods.rows import Task, task
from subnetwork.nets import (
    SGD,
    AdamW,
    LocalSteps,
    ModelState,
    NetSketch,
    Submodel,
    Supervised,
    initial_state,
)
from subnetwork.nets.optimizers import Optimizer
from subnetwork.nets.scale import Scale
from subnetwork.runtime.direct.links import Links

NETWORKS: Mapping[str, Training] = {
    "mlp": Training(data="fashion_mnist", hidden=(1024, 1024), batch_size=64),
    "gpt": Training(
        data="tinyshakespeare", model="gpt", width=64, blocks=4, heads=4, batch_size=16,
        optimizer="adamw", axes=("*.heads", "*.hidden"),
    ),
}  # fmt: skip
"""What is trained, by the name of its network."""


@dataclass(frozen=True)
class Spec:
    """One run: what race.py asks every worker for."""

    method: str
    n_workers: int
    n_rounds: int
    network: str = "mlp"
    n_steps: int = 20  # local steps a round; DDP communicates in each of them
    step_size: float = 0.1
    hidden: tuple[int, ...] = ()  # of a smaller mlp
    seed: int = 0
    evaluate_every: int = 0  # rounds; 0: never
    stop_at: float = 1.0  # accuracy at which a run ends
    wire: str = "float32"
    period: int | None = 1  # of IST's deal
    state: Literal["slice", "reset"] = "slice"  # of IST's local optimizer
    scale: Literal["none", "inverted"] = "none"  # of the axes that are cut
    outer: bool = False  # an outer optimizer on top of IST's merge
    outer_step_size: float = 0.7
    outer_momentum: float = 0.9
    rank: int = 2  # of PowerSGD
    asleep: tuple[tuple[float, ...], ...] = ()
    """Of each worker, seconds that it sleeps in place of its local steps, round by round."""

    @property
    def training(self) -> Training:
        """The data and the network."""
        base = replace(NETWORKS[self.network], workers=self.n_workers, seed=self.seed)
        return replace(base, hidden=tuple(self.hidden)) if self.hidden else base


made = lru_cache(maxsize=1)(task)
"""A task, which the runs of a call share."""


@dataclass
class Clock:
    """Where the time of a round goes, on this rank: seconds of the wall and of the processor."""

    rows: list[dict[str, float]] = field(default_factory=list)
    now: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def round(self) -> Iterator[None]:
        """The block is a round."""
        names = [f"{what}_{kind}" for what in ("compute", "handling") for kind in ("wall", "cpu")]
        self.now = dict.fromkeys(names, 0.0)
        counted, started, busy = counters(), time.monotonic(), time.process_time()
        yield
        self.now["wall"] = time.monotonic() - started
        self.now["process_cpu"] = time.process_time() - busy  # of all threads
        for name, before, after in zip(("received", "sent"), counted, counters(), strict=True):
            self.now[name] = after - before
        self.rows.append(self.now)

    def timed(self, what: str, action: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Do it, and add its time to what it is."""
        wall, cpu = time.monotonic(), time.thread_time()
        result = action()
        self.now[f"{what}_wall"] += time.monotonic() - wall
        self.now[f"{what}_cpu"] += time.thread_time() - cpu
        return result


@dataclass(frozen=True)
class Asleep:
    """Local work that takes its time and no processor: as where every worker has a core."""

    seconds: Sequence[float]  # by round, again and again
    moments: tuple[str, ...] = ()

    def __call__(self, k: int, _i: int, w: Submodel, /) -> Submodel:
        """w, later."""
        time.sleep(self.seconds[k % len(self.seconds)])
        return w


class Run:
    """What all methods share on one rank: data, network, local work, and the test of a model."""

    def __init__(self, spec: Spec, links: Links) -> None:
        self.spec, self.rank, self.links = spec, dist.get_rank(), links
        self.task: Task = made(spec.training)
        self.seed = self.task.run.stream(PARTITION)
        self.clock = Clock()

    @property
    def sketch(self) -> NetSketch:
        """Who gets which units, of IST."""
        n, period = self.spec.n_workers, self.spec.period
        deal: Deal = Perm(n) if period == 1 else Lazy(n, period)
        return NetSketch(self.task.architecture.layout, deal)

    @property
    def optimizer(self) -> Optimizer:
        """Of the local steps, and of DDP."""
        adam = self.task.run.optimizer == "adamw"
        return AdamW(self.spec.step_size, weight_decay=0.0) if adam else SGD(self.spec.step_size)

    @property
    def scale(self) -> Scale | None:
        """Of a part's axes."""
        if self.spec.scale == "none":
            return None
        return Scale(dict.fromkeys(self.task.architecture.layout.sizes, "inverted"))

    def local(self, *, in_place: bool = False) -> LocalSteps | Asleep:
        """A worker's local work."""
        t, spec = self.task, self.spec
        steps = LocalSteps(
            t.architecture,
            t.batches,
            self.optimizer,
            spec.n_steps,
            loss=Supervised(t.loss),
            state=spec.state,
            scale=self.scale,
            in_place=in_place,
        )
        return Asleep(spec.asleep[self.rank], steps.moments) if spec.asleep else steps

    def start(self, moments: tuple[str, ...] = ()) -> ModelState:
        """x^0, the same for all methods of one seed."""
        architecture = self.task.architecture
        return initial_state(architecture, seed=self.task.run.stream(INIT), moments=moments)

    def test(self, params: Mapping[str, Tensor]) -> float:
        """Accuracy of a whole model, with batch statistics of a few thousand training rows."""
        return self.task.scores(merged(self.task, ModelState(params))).accuracy


def counters() -> tuple[int, int]:
    """Bytes that this host's interface received and sent; zeros outside of a host."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, fields = line.partition(":")
        if name.strip() == os.environ.get("GLOO_SOCKET_IFNAME", ""):
            return int(fields.split()[0]), int(fields.split()[8])
    return 0, 0
