"""What a round costs beside its compute, and what a worker remembers: direct, DDP and Local SGD.

    python benchmarks/overhead.py [--quick] [--only "3 layers"]

A 4096-wide MLP on 4096 inputs and 35 outputs, local steps J = 20, batch 128, float32, one thread a
worker, processes on this machine over gloo. See README.md beside this file.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import torch
import torch.distributed as dist
from net import CannotEmulateError, network
from torch import nn
from torch.nn.functional import cross_entropy

from subnetwork import Perm, decompose
from subnetwork.environment import PAGES
from subnetwork.nets import MLP, SGD, Batches, LocalSteps, NetSketch
from subnetwork.runtime.costs import Network, Pace, Setting, predict
from subnetwork.runtime.direct import (
    Draws,
    agree,
    carried,
    digest,
    handed_over,
    initial_parameters,
    meet,
    merged,
    over,
    taken,
    together,
    with_moments,
)
from subnetwork.runtime.direct.memory import Spare
from subnetwork.runtime.direct.outer import trained
from subnetwork.runtime.measured import peak_memory
from subnetwork.runtime.memory import spare_memory
from subnetwork.runtime.sizing import sizes

INPUTS, OUTPUTS, WIDTH, J, BATCH, STEP_SIZE = 4096, 35, 4096, 20, 128, 0.01
MODELS = {"2 layers": (WIDTH,), "3 layers": (WIDTH, WIDTH)}
SMALL = "small, "  # of as many layers of 16 units: what a process has whatever the model is
VARIANTS = ("direct", "DDP", "Local SGD")


@dataclass(frozen=True)
class Case:
    """One run of one variant."""

    variant: str
    model: str
    workers: int
    rounds: int

    @property
    def network(self) -> MLP:
        """The whole network."""
        widths = MODELS[self.model.removeprefix(SMALL)]
        if self.model.startswith(SMALL):
            widths = (16,) * len(widths)
        return MLP(INPUTS, widths, OUTPUTS, norm=False)

    @property
    def name(self) -> str:
        """As the RESULT lines say it."""
        return f"{self.model}, {self.workers} workers"


def data(workers: int) -> Batches:
    """Noise: what is learned is no matter here."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1024, INPUTS, generator=generator)
    targets = torch.randint(OUTPUTS, (1024,), generator=generator)
    return Batches(inputs, targets, workers, BATCH, seed=1)


Start: TypeAlias = Callable[[Sequence[str], Mapping[str, str]], "subprocess.Popen[str]"]
"""A command and what its environment has to say -> the process."""
Seconds = tuple[float, float]
"""Of the wall, and of this process's CPU: the second one means something on a busy machine too."""


def now() -> Seconds:
    """Both clocks."""
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    """Seconds that went by on both."""
    return time.perf_counter() - start[0], time.process_time() - start[1]


def steps(module: nn.Module, batches: Batches, rank: int, k: int) -> Seconds:
    """J local steps; returns their seconds."""
    start = now()
    optimizer = torch.optim.SGD(module.parameters(), STEP_SIZE)
    for step in range(k * J, (k + 1) * J):
        optimizer.zero_grad(set_to_none=True)
        inputs, targets = batches.batch(rank, step)
        cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    return since(start)


@dataclass
class Watched:
    """Batches, and when the first one of a round was asked for."""

    batches: Batches
    began: Seconds | None = None

    @property
    def seed(self) -> int:
        """Of the batches."""
        return self.batches.seed

    def batch(self, worker: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One of the batches."""
        self.began = self.began or now()
        return self.batches.batch(worker, step)


def direct(case: Case, rank: int, store: dist.Store, batches: Batches) -> dict[str, Any]:
    """Rounds of the product: local steps on a part, merge, hand-over; the steps timed apart."""
    n = case.workers
    sketch = NetSketch(case.network.layout, Perm(n))
    with torch.device("meta"):
        like = dict(nn.Sequential(*case.network.build(sketch.layout.all_units)).named_parameters())
    draws = Draws(sketch, {name: p.to("meta") for name, p in like.items()}, 3)
    links = over(meet(store, rank, n, host="127.0.0.1"), rank)
    agree(links, rank, digest(draws, "float32"))
    x = with_moments(initial_parameters(case.network, seed=2))
    box = [taken(draws, rank, 0, x, emptied=True)]
    watched = Watched(batches)
    local = LocalSteps(case.network, watched, SGD(STEP_SIZE), J, in_place=True)
    compute, whole = [], []

    for k in range(case.rounds + 1):
        start, watched.began = now(), None
        held = box.pop()
        held = trained(held, local, rank, None, Spare())
        compute.append(since(watched.began))
        after = [carried(merged(draws, rank, held), links).result]
        del held
        handed = handed_over(draws, rank, after.pop(), in_place=True)
        box.append(carried(handed, links).result)
        del handed
        whole.append(since(start))
        if k == 0:
            agree(links, rank, [n])
    pairs = list(zip(whole[1:], compute[1:], strict=True))
    return {
        "compute": sum(c for _, (c, _) in pairs) / J / case.rounds,
        "iteration": sum(w for (w, _), _ in pairs) / J / case.rounds,
        "overhead": median((w - c) / c for (w, _), (c, _) in pairs),
        "rounds": [(w, c) for (w, _), (c, _) in pairs],
        "overhead_cpu": median((w - c) / c for (_, w), (_, c) in pairs),
        "stored": box[0].n_bytes,
    }


def ddp(case: Case, rank: int, store: dist.Store, batches: Batches) -> dict[str, float]:
    """Torch's DistributedDataParallel on the whole network."""
    dist.init_process_group("gloo", store=store, rank=rank, world_size=case.workers)
    module = nn.parallel.DistributedDataParallel(whole_network(case))
    times = [steps(module, batches, rank, k)[0] / J for k in range(max(2, case.rounds // 2))]
    del module  # before its group: its end waited for ever once
    leave(case, rank, store)
    return {"iteration": median(times[1:])}


def local_sgd(case: Case, rank: int, store: dist.Store, batches: Batches) -> dict[str, float]:
    """J steps on the whole network, then all_reduce of the parameters."""
    dist.init_process_group("gloo", store=store, rank=rank, world_size=case.workers)
    module, times = whole_network(case), []
    for k in range(max(2, case.rounds // 2)):
        start = time.perf_counter()
        steps(module, batches, rank, k)
        with torch.no_grad():
            for p in module.parameters():
                dist.all_reduce(p)
                p.div_(case.workers)
        times.append((time.perf_counter() - start) / J)
    leave(case, rank, store)
    return {"iteration": median(times[1:])}


def leave(case: Case, rank: int, store: dist.Store) -> None:
    """Leave torch's group when all have what they wait for: gloo loses it with who sent it."""
    store.set(f"done/{rank}", "")
    store.wait([f"done/{i}" for i in range(case.workers)])
    dist.destroy_process_group()


def whole_network(case: Case) -> nn.Module:
    """With torch's own initialisation."""
    module = case.network.build(case.network.layout.all_units)
    for layer in module:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return module


RUN: dict[str, Callable[..., dict[str, Any]]] = {
    "direct": direct,
    "DDP": ddp,
    "Local SGD": local_sgd,
}


def warm_up() -> None:
    """Load the compiled exchange, in this process alone."""
    network = MLP(4, (4, 4), 2, norm=False)
    x = dict(initial_parameters(network, seed=0))
    like = {name: p.to("meta") for name, p in x.items()}
    draws = [Draws(NetSketch(network.layout, Perm(2)), like, 0) for _ in range(2)]
    parts = [taken(d, i, 0, with_moments(x.items())) for i, d in enumerate(draws)]
    parts = together(
        [merged(d, i, part) for i, (d, part) in enumerate(zip(draws, parts, strict=True))]
    )
    together(
        [handed_over(d, i, part) for i, (d, part) in enumerate(zip(draws, parts, strict=True))]
    )


def peak_from_now() -> int:
    """Forget what this process had at most (Linux); what it has now, in bytes.

    Kernels that are compiled in the first process and read in the next ones leave 70 MB behind.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def work(case: Case, rank: int, folder: Path) -> None:
    """One rank: what it saw, as JSON."""
    torch.set_num_threads(1)
    if case.variant == "direct":
        spare_memory()  # as the command does
    batches = data(case.workers)
    steps(nn.Linear(INPUTS, OUTPUTS), batches, rank, 0)  # what torch loads on first use
    if case.variant == "direct":
        warm_up()
    store = dist.FileStore(str(folder / "store"), case.workers)
    before = peak_from_now()
    found = RUN[case.variant](case, rank, store, batches)
    found["memory"] = peak_memory() - before
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


@contextmanager
def starting() -> Iterator[Start]:
    """What starts a rank: in a host of its own for all, which speaks CUBIC; else here."""
    with ExitStack() as stack:
        try:
            (host,) = stack.enter_context(network(1))
        except CannotEmulateError as error:
            print(f"overhead: over the loopback of this machine as it is: {error}", flush=True)
            yield lambda command, env: subprocess.Popen(command, env=env | os.environ, text=True)
            return
        yield lambda command, env: host.start(command, environment=env)


def measured(case: Case) -> dict[str, float]:
    """The slowest, largest rank of a case; of the slower: rounds beside their slower compute."""
    with tempfile.TemporaryDirectory() as folder, starting() as start:
        words = [case.variant, case.model, str(case.workers), str(case.rounds)]
        command = [sys.executable, __file__, "--rank"]
        pages = {PAGES: "1"}  # as the command has them for direct hand-over; here for all
        ranks = [
            start([*command, str(rank), folder, *words], pages) for rank in range(case.workers)
        ]
        codes = [rank.wait() for rank in ranks]
        if any(codes):
            sys.exit(f"{case} ended with {codes}")
        found = [
            json.loads((Path(folder) / f"rank{i}.json").read_text()) for i in range(case.workers)
        ]
    slowest = list(zip(*(of.pop("rounds", []) for of in found), strict=True))
    found[0]["of the slower"] = median(
        max(w for w, _ in ranks) / max(c for _, c in ranks) - 1 for ranks in slowest or [[(1, 1)]]
    )
    return {key: max(of[key] for of in found if key in of) for key in found[0]}


def predicted(case: Case) -> float:
    """The memory of a worker of direct hand-over, beside one of DDP: what the plan says."""
    with torch.device("meta"):
        empty = case.network.build(case.network.layout.all_units)
    model = empty.to_empty(device="cpu")  # shapes are all that is asked
    plan = decompose(model, torch.zeros(BATCH, INPUTS), verify=False)
    costs = predict(
        sizes(plan, case.workers), Pace(1.0, 1.0), Network(math.inf), Setting(case.workers, J)
    )
    return costs["IST, direct"].memory / costs["DDP"].memory


def result(name: str, value: float, goal: float | None) -> str:
    """One line for machines."""
    met = None if goal is None else value <= goal
    return "RESULT " + json.dumps(
        {"name": name, "value": round(value, 4), "goal": goal, "met": met}
    )


def judge(model: str, workers: int, rounds: int) -> list[str]:
    """All variants of one model side by side."""
    cases = {variant: Case(variant, model, workers, rounds) for variant in VARIANTS}
    found = {variant: measured(case) for variant, case in cases.items()}
    for variant, of in found.items():
        of["memory"] -= measured(Case(variant, SMALL + model, workers, 2))["memory"]
    ours, case = found["direct"], cases["direct"]
    print(f"\n{case.name}{'':14s}{'s/iteration':>14s}{'compute':>10s}{'memory, MB':>12s}")
    for variant, of in found.items():
        compute = f"{of['compute']:10.4f}" if "compute" in of else f"{'':10s}"
        print(f"  {variant:28s}{of['iteration']:14.4f}{compute}{of['memory'] / 1e6:12.1f}")
    print(f"  stored between rounds {ours['stored'] / 1e6:.1f} MB")
    ratio = predicted(case)
    goal = 0.05 if workers == 2 else None
    faster = {v: found[v]["iteration"] / ours["iteration"] for v in VARIANTS[1:]}
    remembers = ours["memory"] / found["DDP"]["memory"]
    lines = [
        result(f"(round - compute) / compute, {case.name}", ours["overhead"], goal),
        result(f"the same of the slower rank, {case.name}", ours["of the slower"], None),
        result(f"the same in processor time, {case.name}", ours["overhead_cpu"], goal),
    ]
    lines += [
        result(f"{v} / direct, s per iteration, {case.name}", faster[v], None) for v in faster
    ]
    lines.append(result(f"memory, direct / DDP, {case.name}", remembers, round(ratio, 4)))
    print("\n".join(lines), flush=True)
    return lines


def main() -> int:
    """Print times, memory and results; the exit status says whether all goals were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, noisier")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rank", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank, folder, variant, model, workers, rounds = arguments.rank
        work(Case(variant, model, int(workers), int(rounds)), int(rank), Path(folder))
        return 0
    rounds = 3 if arguments.quick else 9
    lines = []
    for model in MODELS:
        for workers in (2, 4):
            if arguments.only in Case("", model, workers, rounds).name:
                lines += judge(model, workers, rounds)
    print("\n" + "\n".join(lines))
    return 0 if all('"met": false' not in line for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
