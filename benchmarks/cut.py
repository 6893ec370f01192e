"""What cutting costs beside training: gather, write-back, rebuild and step, on 100M parameters.

    python benchmarks/cut.py [--quick] [--workers 2 4 8]

One thread, contenders interleaved, best of the repeats; see README.md beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from subnetwork.deals import Full, Perm
from subnetwork.nets import MLP, SGD, Buffers, LocalSteps, NetSketch, holders_in_place
from subnetwork.nets.architecture import built, initial_state
from subnetwork.nets.state import ModelState, Submodel
from subnetwork.runtime.memory import keep_memory

N_STEPS = 20  # local steps of a round, as the goal has it
BATCH = 128


class Random:
    """The same batch of noise, always: data loading is not measured here."""

    seed = 0

    def __init__(self, inputs: int, outputs: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._inputs = torch.randn(BATCH, inputs, generator=generator)
        self._targets = torch.randint(outputs, (BATCH,), generator=generator)

    def batch(self, worker: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and labels."""
        del worker, step
        return self._inputs, self._targets


def network(quick: bool) -> MLP:
    """103M parameters in three hidden layers; a tenth of that if quick."""
    width = 2048 if quick else 6912
    return MLP(784, (width, width, width), 10, norm=False)


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds, the best of each: A B C A B C ..., so that a busy neighbour hits all of them."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def flops(mlp: MLP, part: ModelState | Submodel) -> int:
    """Of a forward and a backward pass on a batch."""
    module = built(mlp, part)
    inputs, targets = Random(mlp.inputs, mlp.outputs).batch(0, 0)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(module(inputs), targets).backward()
    return counter.get_total_flops()


def result(name: str, value: float, goal: float | None, *, at_most: bool = False) -> bool:
    """Print a RESULT line; returns whether the goal, if there is one, was met."""
    met = None if goal is None else bool(value <= goal if at_most else value >= goal)
    rounded = float(f"{value:.4g}")
    print("RESULT " + json.dumps({"name": name, "value": rounded, "goal": goal, "met": met}))
    return met is not False


def measure(mlp: MLP, n: int, repeats: int) -> bool:
    """One line of the table and its results, for n workers."""
    x = initial_state(mlp, seed=0)
    sketch = NetSketch(mlp.layout, Perm(n), Buffers())
    feed = Random(mlp.inputs, mlp.outputs)
    local = LocalSteps(mlp, feed, SGD(1e-3), 1, in_place=True)
    whole = NetSketch(mlp.layout, Full(1), Buffers()).sample(0, 0).select(x, 0)
    rounds = iter(range(10**9))

    def gather() -> list[Submodel]:
        partition = sketch.sample(0, next(rounds))  # with the indices of a new round, every time
        return [partition.select(x, i) for i in range(n)]

    parts = gather()
    flat = parts[0].flat()
    assert flat is not None
    there = torch.empty_like(flat)

    def write_back() -> None:  # of entries that sit where those of round 0 do
        holders_in_place(x, sketch.sample(0, 0), parts)

    def rebuild() -> None:
        with local.modules.lent(mlp, parts[0]):
            pass

    seconds = interleaved(
        {
            "memcpy": lambda: there.copy_(flat),
            "gather": gather,
            "write back": write_back,
            "rebuild": rebuild,
            "step": lambda: local(0, 0, parts[0]),
            "full step": lambda: local(0, 0, whole),
        },
        repeats,
    )
    # a round gathers and writes back for all workers in the coordinator's process; each worker's
    # share of it is what stands beside its own compute
    share = {
        name: seconds[name] / (n if name in ("gather", "write back") else 1) for name in seconds
    }
    ratio = flops(mlp, whole) / flops(mlp, parts[0])
    speed_up = seconds["full step"] / seconds["step"]
    overhead = (share["gather"] + share["write back"] + share["rebuild"]) / (
        N_STEPS * seconds["step"]
    )
    print(
        f"n={n}  {flat.numel() / 1e6:5.1f}M entries a worker  "
        + "  ".join(f"{name} {1e3 * value:.2f} ms" for name, value in share.items())
    )
    met = result(f"overhead of cutting at {N_STEPS} steps, n={n}", overhead, 0.05, at_most=True)
    goal = 0.9 if n <= 4 else None
    met &= result(f"step speed-up / FLOP ratio {ratio:.2f}, n={n}", speed_up / ratio, goal)
    result(f"gather / memcpy of the same bytes, n={n}", share["gather"] / seconds["memcpy"], None)
    result(
        f"write back / memcpy of the same bytes, n={n}",
        share["write back"] / seconds["memcpy"],
        None,
    )
    return met


def peak(quick: bool, n: int) -> int:
    """VmHWM in bytes of a process that does one worker's round; n = 0 loads torch and stops."""
    command = [sys.executable, __file__, "--worker", str(n), *(["--quick"] if quick else [])]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one_worker(mlp: MLP, n: int) -> None:
    """A worker's round of its own in this process, from random entries: it never sees the whole."""
    if n:
        shapes = {
            name: torch.empty(shape, device="meta") for name, shape in whole_shapes(mlp).items()
        }
        like = NetSketch(mlp.layout, Perm(n)).sample(0, 0).select(ModelState(shapes), 0)
        w = Submodel(
            {name: torch.empty(p.shape).normal_(0, 0.01) for name, p in like.params.items()}
        )
        feed = Random(mlp.inputs, mlp.outputs)
        LocalSteps(mlp, feed, SGD(1e-3), 2, in_place=True)(0, 0, w)
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    print(1024 * int(line.split()[1]))


def whole_shapes(mlp: MLP) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters, without their memory."""
    widths = [mlp.inputs, *mlp.hidden, mlp.outputs]
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (below, above) in enumerate(pairwise(widths)):
        shapes |= {f"{2 * i}.weight": (above, below), f"{2 * i}.bias": (above,)}
    return shapes


def main() -> int:
    """Print the table and the results; the exit status says whether all goals were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10M parameters, fewer repeats")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    mlp = network(arguments.quick)
    if arguments.worker is not None:
        one_worker(mlp, arguments.worker)
        return 0
    repeats = arguments.repeats or (5 if arguments.quick else 7)
    entries = sum(torch.Size(shape).numel() for shape in whole_shapes(mlp).values())
    sizes = "-".join(map(str, (mlp.inputs, *mlp.hidden, mlp.outputs)))
    print(f"MLP {sizes}, {entries / 1e6:.0f}M parameters, batch {BATCH}, SGD, 1 thread")
    print(f"best of {repeats} interleaved repeats")
    met = True
    for n in arguments.workers:
        met &= measure(mlp, n, repeats)
    torchs = peak(arguments.quick, 0)
    whole = peak(arguments.quick, 1)
    result("peak memory of torch alone, MB", torchs / 1e6, None)
    result("peak memory of a worker that holds all, MB", whole / 1e6, None)
    for n in arguments.workers:
        own = peak(arguments.quick, n)
        result(f"peak memory of a worker, MB, n={n}", own / 1e6, None)
        above = (own - torchs) / (whole - torchs)
        result(f"share of the whole's peak above torch alone, n={n}", above, None)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
