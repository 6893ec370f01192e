"""One worker of `race.py`: trains by one method after another over gloo, and says where time went.

Started by race.py in every host: ``python race_worker.py SPECS.json``, with RANK, WORLD_SIZE and
MASTER_ADDR in the environment. Rank r writes SPECS.r.json: for every run of the list a row a round,
with the bytes that the kernel counted, and accuracies.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from subnetwork.deals import Deal, Lazy, Perm
from subnetwork.keys import DATA, INIT, PARTITION, key
from subnetwork.nets import (
    MLP,
    SGD,
    Batches,
    LocalSteps,
    NetSketch,
    Submodel,
    holders,
    initial_state,
    recalibrate,
)
from subnetwork.nets.architecture import runnable
from subnetwork.nets.calibrate import accuracy
from subnetwork.nets.merges import sgd_step
from subnetwork.runtime.wire import Header, Verb, pack, unpack

RECEIVED = Header(Verb.DONE)

PORT = 29511
RECALIBRATION_ROWS = 4096


@dataclass(frozen=True)
class Spec:
    """One run: what race.py asks every worker for."""

    method: str
    n_workers: int
    n_rounds: int
    n_steps: int = 20  # local steps a round; DDP communicates in each of them
    step_size: float = 0.1
    momentum: float = 0.0
    batch_size: int = 64
    hidden: tuple[int, ...] = (1024, 1024)
    seed: int = 0
    evaluate_every: int = 0  # rounds; 0: never
    stop_at: float = 1.0  # accuracy at which a run ends
    wire: str = "float32"
    period: int | None = 1  # of IST's deal
    outer_step_size: float = 0.7
    outer_momentum: float = 0.9
    rank: int = 2  # of PowerSGD


@dataclass(frozen=True)
class Data:
    """Fashion-MNIST, pixels in [0, 1]."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


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
        counted, started = counters(), time.monotonic()
        yield
        self.now["wall"] = time.monotonic() - started
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


def fashion_mnist() -> Data:
    """Read from the folder that SUBNETWORK_DATA names."""
    found = np.load(Path(os.environ["SUBNETWORK_DATA"]) / "fashion_mnist" / "fashion_mnist.npz")

    def pair(name: str) -> tuple[Tensor, Tensor]:
        inputs = torch.as_tensor(found[f"x_{name}"]).flatten(1).float() / 255
        return inputs, torch.as_tensor(found[f"y_{name}"].astype(np.int64))

    return Data(pair("train"), pair("test"))


class Run:
    """What all methods share on one rank: network, batches, whole model, and its test."""

    def __init__(self, spec: Spec, data: Data) -> None:
        self.spec, self.data, self.rank = spec, data, dist.get_rank()
        self.network = MLP(data.train[0].shape[1], spec.hidden, 10)
        self.batches = Batches(*data.train, spec.n_workers, spec.batch_size, key(spec.seed, DATA))
        self.x = initial_state(self.network, seed=key(spec.seed, INIT))
        self.clock = Clock()

    def test(self, params: dict[str, Tensor]) -> float:
        """Accuracy of a whole model, with batch statistics of a few thousand training rows."""
        model = runnable(self.network, Submodel(params))
        rows = self.data.train[0][:RECALIBRATION_ROWS]
        return accuracy(recalibrate(model, lambda: rows.split(1024)), *self.data.test)


class Ist:
    """IST through a coordinator on rank 0, which trains as worker 0 too.

    The package's own cut, local steps and merge; packed buffers by gloo's point-to-point. Rows over
    direct hand-over belong beside this class as soon as the package has it.
    """

    def __init__(self, run: Run) -> None:
        spec = run.spec
        deal: Deal = Perm(spec.n_workers) if spec.period == 1 else Lazy(spec.n_workers, spec.period)
        self.run, self.sketch = run, NetSketch(run.network.layout, deal)
        self.local = LocalSteps(run.network, run.batches, SGD(spec.step_size), spec.n_steps)
        self.seed = key(spec.seed, PARTITION)
        self.wire = {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.wire]

    def round(self, k: int) -> None:
        """Cut, send, train, receive, merge."""
        run, clock, rank = self.run, self.run.clock, self.run.rank
        partition = self.sketch.sample(self.seed, k)
        if rank == 0:
            parts = clock.timed(
                "handling",
                lambda: [partition.select(run.x, i) for i in range(run.spec.n_workers)],
            )
            flats = clock.timed("handling", lambda: [pack(p).to(self.wire) for p in parts[1:]])
            sends = [dist.isend(flat, i) for i, flat in enumerate(flats, 1)]
            trained = [clock.timed("compute", lambda: self.local(k, 0, parts[0]))]
            for send in sends:
                send.wait()
            back = [torch.empty_like(flat) for flat in flats]
            for receive in [dist.irecv(flat, i) for i, flat in enumerate(back, 1)]:
                receive.wait()
            run.x = clock.timed(
                "handling", lambda: holders(run.x, partition, trained + self._read(back, parts))
            )
            return
        like = partition.select(run.x, rank)  # of its shapes; this x is never looked at again
        flat = torch.empty(sum(t.numel() for t in like.tensors()), dtype=self.wire)
        dist.recv(flat, 0)
        part = unpack(flat.float(), like, RECEIVED)
        trained_part = clock.timed("compute", lambda: self.local(k, rank, part))
        dist.send(pack(trained_part).to(self.wire), 0)

    def _read(self, flats: list[Tensor], parts: list[Submodel]) -> list[Submodel]:
        return [unpack(f.float(), p, RECEIVED) for f, p in zip(flats, parts[1:], strict=True)]

    def model(self) -> dict[str, Tensor]:
        """The merged model, on rank 0."""
        return dict(self.run.x.params)


class LocalSgd:
    """Whole models, averaged by an all-reduce; with an outer optimizer it is DiLoCo."""

    def __init__(self, run: Run) -> None:
        spec = run.spec
        self.run, self.outer = run, {}
        self.local = LocalSteps(run.network, run.batches, SGD(spec.step_size), spec.n_steps)
        self.params = dict(run.x.params)

    def round(self, k: int) -> None:
        """Train, average, and step the outer optimizer where there is one."""
        run, clock = self.run, self.run.clock
        trained = clock.timed("compute", lambda: self.local(k, run.rank, Submodel(self.params)))
        flat = clock.timed("handling", lambda: pack(trained))
        dist.all_reduce(flat)
        clock.timed("handling", lambda: self._step(flat.div_(run.spec.n_workers)))

    def _step(self, flat: Tensor) -> None:
        mean = unpack(flat, Submodel(self.params), RECEIVED).params
        if self.run.spec.method == "local_sgd":
            self.params = dict(mean)
            return
        spec = self.run.spec
        gradients = {name: p - mean[name] for name, p in self.params.items()}
        self.params, self.outer = sgd_step(
            self.params,
            gradients,
            self.outer,
            spec.outer_step_size,
            spec.outer_momentum,
            nesterov=True,
        )

    def model(self) -> dict[str, Tensor]:
        """The same on every rank."""
        return self.params


class Ddp:
    """torch's DistributedDataParallel; with the hook of PowerSGD, compressed."""

    def __init__(self, run: Run) -> None:
        spec = run.spec
        self.run = run
        self.module = runnable(run.network, run.x).train()
        compressed = spec.method == "ddp_powersgd"
        # over gloo the hook's collectives of two buckets would be told apart by luck alone
        self.parallel = DistributedDataParallel(
            self.module, forward_sync_buffers=False, bucket_cap_mb=1000 if compressed else None
        )
        if compressed:
            state = powerSGD_hook.PowerSGDState(
                None, matrix_approximation_rank=spec.rank, start_powerSGD_iter=2
            )
            self.parallel.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        self.optimizer = torch.optim.SGD(
            self.module.parameters(), spec.step_size, momentum=spec.momentum
        )

    def round(self, k: int) -> None:
        """As many steps as a round of the others has; main-thread processor time is computing."""
        self.run.clock.timed("compute", lambda: self._steps(k))

    def _steps(self, k: int) -> None:
        run, n_steps = self.run, self.run.spec.n_steps
        for step in range(k * n_steps, (k + 1) * n_steps):
            inputs, targets = run.batches.batch(run.rank, step)
            self.optimizer.zero_grad(set_to_none=True)
            cross_entropy(self.parallel(inputs), targets).backward()
            self.optimizer.step()

    def model(self) -> dict[str, Tensor]:
        """The same on every rank."""
        return {name: p.detach() for name, p in self.module.named_parameters()}


METHODS: dict[str, Callable[[Run], Any]] = {
    "ist": Ist,
    "local_sgd": LocalSgd,
    "diloco": LocalSgd,
    "ddp": Ddp,
    "ddp_powersgd": Ddp,
}


def train(run: Run) -> list[tuple[int, float]]:
    """The rounds, and the accuracies that rank 0 measured between them."""
    spec, method = run.spec, METHODS[run.spec.method](run)
    accuracies: list[tuple[int, float]] = []
    for k in range(spec.n_rounds):
        with run.clock.round():
            method.round(k)
        if spec.evaluate_every and (k + 1) % spec.evaluate_every == 0:
            found = torch.zeros(1)
            if run.rank == 0:
                found[0] = run.test(method.model())
            dist.broadcast(found, 0)  # nobody starts a round before it is measured
            accuracies.append((k + 1, float(found)))
            if float(found) >= spec.stop_at:
                break
    return accuracies


def counters() -> tuple[int, int]:
    """Bytes that this host's interface received and sent; zeros outside of a host."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, fields = line.partition(":")
        if name.strip() == os.environ.get("GLOO_SOCKET_IFNAME", ""):
            return int(fields.split()[0]), int(fields.split()[8])
    return 0, 0


def main() -> None:
    """Join, do the runs in turn, write."""
    path = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports for a second
    data = fashion_mnist()
    os.environ["MASTER_PORT"] = str(PORT)
    dist.init_process_group("gloo")
    found = [one_run(Spec(**spec), data) for spec in json.loads(path.read_text())]
    path.with_suffix(f".{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def one_run(spec: Spec, data: Data) -> dict[str, Any]:
    """Rows and accuracies of one run."""
    run = Run(spec, data)
    dist.barrier()
    accuracies = train(run)
    dist.barrier()
    return {"rows": run.clock.rows, "accuracies": accuracies}


if __name__ == "__main__":
    main()
