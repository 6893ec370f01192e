"""What a round moves: direct hand-over beside a coordinator, an all-gather and a dense all-reduce.

    python benchmarks/exchange.py [--workers 4] [--hidden 512 512] [--rounds 6]

Every variant merges round k and selects round k + 1 of the same IST run (an MLP, Perm), over gloo
between processes of this machine, and the models are compared to the bit. Payload is counted where
it is sent; where the kernel allows it the processes run in a network namespace of their own, and
the counters of its one interface say what really went over it. See README.md beside this file.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import torch
import torch.distributed as dist
from torch import Tensor

from subnetwork import Perm
from subnetwork.keys import key
from subnetwork.nets import MLP, ModelState, NetSketch, Submodel, holders, initial_state
from subnetwork.runtime.direct import (
    Draws,
    Held,
    carried,
    handed_over,
    meet,
    merged,
    over,
    taken,
    whole_parameters,
    with_moments,
)
from subnetwork.runtime.direct.links import Links, Post, whole

SEED = 3
INPUTS, OUTPUTS = 784, 10
MTU = 1500


def local(k: int, worker: int, submodel: Submodel) -> Submodel:
    """A stand-in for training that costs nothing: every entry moves."""
    shift = (key(k, worker) % 1000 + 1) / 1000
    return Submodel({name: p + shift for name, p in submodel.params.items()})


def lower_bound(sketch: NetSketch, x: Mapping[str, Tensor], n_rounds: int) -> int:
    """Bytes that have to move over `n_rounds` rounds, by dense index sets alone.

    An entry of one holder goes to its next one, unless that is the same worker; an entry that waits
    moves from its last holder. An entry that all hold is sent to one of them and back to the rest.
    """
    bound = 0
    home: dict[str, Tensor] = {}
    for name, p in x.items():
        lines = torch.arange(p.numel())
        grid = Draws(sketch, {n: t.to("meta") for n, t in x.items()}, SEED).grids[name]
        home[name] = (lines // grid.length % sketch.deal.n_workers).view(p.shape)
    for k in range(n_rounds + 1):
        cut = sketch.sample(SEED, k)
        for name, p in x.items():
            if not sketch.layout.axes_of(name):
                bound += 2 * (cut.n_workers - 1) * p.numel() * 4 * (k < n_rounds)
                continue
            for i in range(cut.n_workers):
                block = cut.block(name, p, i)
                bound += 4 * int((home[name][block] != i).sum()) * (k > 0)
                home[name][block] = i
    return bound


Step = Callable[[int], int]
"""One round of a variant; returns the payload that this rank sent."""


def direct(rank: int, draws: Draws, x: ModelState, links: Links) -> tuple[Step, list[Held]]:
    """Every entry that changes hands, once; no rank has the model."""
    held = [taken(draws, rank, 0, with_moments(x.params.items()))]

    def step(k: int) -> int:
        trained = local(k, rank, held[0].submodel)
        up = carried(merged(draws, rank, replace(held[0], submodel=trained)), links)
        down = carried(handed_over(draws, rank, up.result), links)
        held[0] = down.result
        return up.bytes_sent + down.bytes_sent

    return step, held


def as_bytes(submodel: Submodel) -> Tensor:
    """All tensors of a submodel, one after another."""
    return torch.cat([t.reshape(-1) for t in submodel.tensors()]).view(torch.uint8)


def as_submodel(parcel: Tensor, like: Submodel) -> Submodel:
    """The other way round."""
    parts = torch.split(parcel.clone().view(torch.float32), [t.numel() for t in like.tensors()])
    named = zip(like.params.items(), parts, strict=True)
    return Submodel({name: part.view(p.shape) for (name, p), part in named})


@dataclass
class Whole:
    """A rank that has the whole model."""

    x: ModelState


def server(rank: int, draws: Draws, x: ModelState, links: Links) -> tuple[Step, Whole]:
    """Rank 0 has the model: every other submodel goes down and up."""
    have = Whole(x)
    n = draws.n_workers
    shapes = ModelState(draws.like)

    def step(k: int) -> int:
        cut = draws.partition(k)
        like = [cut.select(shapes, i) for i in range(n)]
        mine = [cut.select(have.x, i) for i in range(n)] if rank == 0 else like
        down = [[as_bytes(w)] if rank == 0 and i else [] for i, w in enumerate(mine)]
        sizes = [like[rank].n_bytes if rank and i == 0 else 0 for i in range(n)]
        arrived, back = (
            whole(sizes),
            whole([w.n_bytes * (rank == 0 < i) for i, w in enumerate(like)]),
        )
        links(Post(down, arrived))
        w = mine[0] if rank == 0 else as_submodel(arrived[0][0], like[rank])
        z = local(k, rank, w)
        up = [[as_bytes(z)] if rank and i == 0 else [] for i in range(n)]
        links(Post(up, back))
        if rank == 0:
            trained = [z, *(as_submodel(back[i][0], like[i]) for i in range(1, n))]
            have.x = holders(have.x, cut, trained)
        return sum(len(p) for pieces in (*down, *up) for p in pieces)

    return step, have


def all_gather(rank: int, draws: Draws, x: ModelState, links: Links) -> tuple[Step, Whole]:
    """Every rank has the model and gets every trained submodel."""
    have = Whole(x)
    n = draws.n_workers
    shapes = ModelState(draws.like)

    def step(k: int) -> int:
        cut = draws.partition(k)
        z = local(k, rank, cut.select(have.x, rank))
        like = [cut.select(shapes, i) for i in range(n)]
        out = as_bytes(z)
        post = Post(
            [[out] if i != rank else [] for i in range(n)],
            whole([w.n_bytes * (i != rank) for i, w in enumerate(like)]),
        )
        links(post)
        trained = [z if i == rank else as_submodel(post.into[i][0], like[i]) for i in range(n)]
        have.x = holders(have.x, cut, trained)
        return post.n_bytes

    return step, have


def all_reduce(
    rank: int, draws: Draws, x: ModelState, group: dist.ProcessGroup
) -> tuple[Step, Whole]:
    """Every rank has the model; full-size changes, zero outside a rank's block, are summed.

    Its payload is that of gloo's ring, 2 (n - 1) / n of the model sent by every rank; sums are not
    taken in the order of the workers, so that models agree to rounding only.
    """
    have = Whole(x)
    n = draws.n_workers

    def step(k: int) -> int:
        cut = draws.partition(k)
        w = cut.select(have.x, rank)
        z = local(k, rank, w)
        change = {name: torch.zeros_like(p) for name, p in have.x.params.items()}
        for name, delta in change.items():
            shared = 1 if draws.sketch.layout.axes_of(name) else n
            delta[cut.block(name, delta, rank)] = (z.params[name] - w.params[name]) / shared
        flat = torch.cat([delta.reshape(-1) for delta in change.values()])
        group.allreduce([flat]).wait()
        parts = torch.split(flat, [p.numel() for p in change.values()])
        have.x = ModelState(
            {
                name: p + part.view(p.shape)
                for (name, p), part in zip(have.x.params.items(), parts, strict=True)
            }
        )
        return 2 * (n - 1) * flat.numel() * 4 // n

    return step, have


VARIANTS = ("direct", "server", "all_gather", "all_reduce")


def interface_bytes() -> int:
    """Bytes that the loopback interface of this namespace sent, headers included."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[8])
    raise RuntimeError("there is no loopback interface")


def work(folder: Path, rank: int, arguments: argparse.Namespace) -> None:
    """One rank: every variant in turn; rank 0 writes what it saw."""
    torch.set_num_threads(1)
    n = arguments.workers
    network = MLP(INPUTS, tuple(arguments.hidden), OUTPUTS, norm=False)
    sketch = NetSketch(network.layout, Perm(n))
    group = meet(dist.FileStore(str(folder / "store"), n), rank, n, host="127.0.0.1")
    links = over(group, rank)
    found = {}
    for name in VARIANTS:
        x = initial_state(network, seed=SEED)
        draws = Draws(sketch, {p: t.to("meta") for p, t in x.params.items()}, SEED)
        make = {"direct": direct, "server": server, "all_gather": all_gather}.get(name)
        step, have = make(rank, draws, x, links) if make else all_reduce(rank, draws, x, group)
        step(0)  # sets up connections and compiles; not counted
        sent, seconds = 0, []
        barrier(links, n, rank)
        before = interface_bytes()
        for k in range(1, arguments.rounds + 1):
            start = time.perf_counter()
            sent += step(k)
            seconds.append(time.perf_counter() - start)
        barrier(links, n, rank)
        seen = interface_bytes() - before
        if isinstance(have, list):
            gathered = whole_parameters(have[0], draws, rank, links)
            model = {p: t.get("") for p, t in gathered}
        else:
            model = dict(have.x.params)
        found[name] = {"sent": sent, "seen": seen, "seconds": median(seconds)}
        if rank == 0:
            torch.save(model, folder / f"{name}.pt")
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def barrier(links: Links, n: int, rank: int) -> None:
    """Until everyone is here: a byte from each to each."""
    one = torch.zeros(1, dtype=torch.uint8)
    others = [i != rank for i in range(n)]
    links(Post([[one] if other else [] for other in others], whole([int(o) for o in others])))


def in_namespace(command: list[str]) -> list[str] | None:
    """The command in a network namespace of its own with a loopback at Ethernet's MTU, or None."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return None
    mode = ["--net"] if os.geteuid() == 0 else ["--net", "--user", "--map-root-user"]
    if subprocess.run(["unshare", *mode, "true"], capture_output=True, check=False).returncode:
        return None
    quoted = " ".join(f"'{word}'" for word in command)
    one_by_one = f"mtu {MTU} gso_max_segs 1"  # a header for every packet, as on a cable
    script = f"ip link set lo {one_by_one} up && exec {quoted}"
    return ["unshare", *mode, "sh", "-c", script]


def ranks(arguments: argparse.Namespace, folder: Path) -> None:
    """Start all ranks in this namespace and wait for them."""
    command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder)]
    processes = [
        subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(arguments.workers)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"ranks ended with {codes}")


def result(name: str, value: float, goal: float | None, *, most: bool = True) -> str:
    """One line for machines."""
    met = None if goal is None else (value <= goal if most else value >= goal)
    return "RESULT " + json.dumps(
        {"name": name, "value": round(value, 4), "goal": goal, "met": met}
    )


def judge(folder: Path, arguments: argparse.Namespace, *, counted: bool) -> list[str]:
    """The table and the results."""
    n, n_rounds = arguments.workers, arguments.rounds
    seen = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(n)]
    network = MLP(INPUTS, tuple(arguments.hidden), OUTPUTS, norm=False)
    x = initial_state(network, seed=SEED).params
    sketch = NetSketch(network.layout, Perm(n))
    bound = lower_bound(sketch, x, n_rounds + 1) - lower_bound(sketch, x, 1)
    models = {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in VARIANTS}
    lines = []
    heads = [("payload", 14), ("of bound", 10), ("interface", 14), ("of bound", 10), ("s/round", 9)]
    print("\n" + " " * 12 + "".join(head.rjust(width) for head, width in heads))
    for name in VARIANTS:
        sent = sum(rank[name]["sent"] for rank in seen)
        wire = seen[0][name]["seen"]
        seconds = max(rank[name]["seconds"] for rank in seen)
        shown = (
            f"{wire / n_rounds:14,.0f}{wire / bound:10.3f}" if counted else f"{'-':>14s}{'-':>10s}"
        )
        print(f"{name:12s}{sent / n_rounds:14,.0f}{sent / bound:10.3f}{shown}{seconds:9.4f}")
        if name == "direct":
            lines.append(result("direct: payload / lower bound", sent / bound, 1.0))
            if counted:
                lines.append(result("direct: interface bytes / lower bound", wire / bound, 1.07))
        else:
            own = sum(rank["direct"]["sent"] for rank in seen)
            lines.append(result(f"{name}: times the payload of direct", sent / own, None))
    for name in ("server", "all_gather"):
        equal = all(torch.equal(models[name][p], models["direct"][p]) for p in x)
        lines.append(result(f"direct equals {name} to the bit", float(equal), 1.0, most=False))
    gap = max(float((models["all_reduce"][p] - models["direct"][p]).abs().max()) for p in x)
    lines.append(result("largest gap to all_reduce", gap, 1e-3))
    return lines


def main() -> int:
    """Print payload, interface bytes and times; the exit status says whether all goals were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 512])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        work(arguments.folder, arguments.rank, arguments)
        return 0
    if arguments.inside:
        ranks(arguments, arguments.folder)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, *sys.argv[1:], "--inside", "--folder", name]
        isolated = in_namespace(command)
        if isolated is None:
            print("interface counters are SKIPPED: a network namespace needs Linux, root (or user "
                  "namespaces), unshare and ip")  # fmt: skip
        subprocess.run(isolated or command, check=True)
        shape = f"{INPUTS}-{arguments.hidden}-{OUTPUTS}"
        print(f"{arguments.workers} workers, {shape}: bytes a round, of all workers together")
        lines = judge(folder, arguments, counted=isolated is not None)
    print("\n" + "\n".join(lines))
    return 0 if all('"met": false' not in line for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
