"""What a rank of direct hand-over remembers, beside the whole model; and a run under a limit.

    python benchmarks/memory.py [--workers 4] [--hidden 1536 1536 ...] [--rounds 2]

An MLP on digits trains, evaluates, writes checkpoints and goes on by `subnetwork train --exchange
direct`, as it is and with dropout, with which `decompose` cuts it. See README.md beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from cage import ENTER, Cage, NoCageError, cages

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

DIRECT = ["--exchange", "direct"]
LARGER = "layers of a model larger than a rank's control group; none: leave it out"
CAGED = 0.9  # of the model: what a rank may have, libraries and all
LIMITED = """
import resource, runpy, sys
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
runpy.run_module("subnetwork", run_name="__main__")
"""


@dataclass
class Seen:
    """The most that each process of a run had, and how the run ended."""

    resident: dict[int, int] = field(default_factory=dict)  # pid -> bytes (VmHWM)
    private: dict[int, int] = field(default_factory=dict)  # pid -> bytes (VmData)
    error: str = ""

    def look(self, pid: int) -> None:
        """One more look at a process and its children."""
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            family = [pid, *(int(c) for t in tasks for c in (t / "children").read_text().split())]
            texts = {each: Path(f"/proc/{each}/status").read_text() for each in family}
        except OSError:
            return
        for each, text in texts.items():
            lines = dict(line.split(":", 1) for line in text.splitlines())
            for name, most in (("VmHWM", self.resident), ("VmData", self.private)):
                now = int(lines.get(name, "0 kB").split()[0]) * 1024
                most[each] = max(now, most.get(each, 0))


def train(folder: Path, flags: list[str], limit: int = 0) -> Seen:
    """Run the command in a folder, every process under a limit."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIMITED, str(limit), "train", *flags],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = Seen()
    while process.poll() is None:
        seen.look(process.pid)
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
    assert process.stderr is not None
    said = process.stderr.read().strip()
    seen.error = (said or f"status {process.returncode}") if process.returncode else ""
    return seen


def result(name: str, value: float, goal: float) -> bool:
    """Print a RESULT line; whether the value is below its goal."""
    met = value < goal
    print("RESULT", json.dumps({"name": name, "value": round(value, 3), "goal": goal, "met": met}))
    return met


def bytes_of(hidden: Sequence[int]) -> int:
    """Of the parameters of an MLP on digits, with batch normalisation."""
    return 4 * (sum((a + 1) * b for a, b in pairwise([64, *hidden, 10])) + 2 * sum(hidden))


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--hidden", type=int, nargs="+", default=[1536] * 12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--caged", type=int, nargs="*", default=[8192] * 12, help=LARGER)
    asked = parser.parse_args()
    whole = bytes_of(asked.hidden)
    direct = ["--workers", str(asked.workers), "--batch-size", "16", "--local-steps", "2"]
    direct += ["--checkpoint-every", "1", "--rounds", str(asked.rounds)]
    load = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    print(f"{len(asked.hidden)} hidden layers, {asked.workers} ranks; the model is "
          f"{whole / 1e6:.1f} MB; {load}")  # fmt: skip
    met = []
    for kind, more in (("MLP", []), ("cut by decompose", ["--dropout", "0.1"])):
        print(f"\n{kind}")
        with tempfile.TemporaryDirectory() as at:
            met += measured(Path(at), kind, [*direct, *more], asked.hidden, whole)
    if asked.caged:
        with tempfile.TemporaryDirectory() as at:
            met += caged(Path(at), asked.workers, asked.caged)
    return 0 if all(met) else 1


def measured(
    folder: Path, kind: str, direct: list[str], hidden: list[int], whole: int
) -> list[bool]:
    """Of one kind of network, the peak of its ranks, and whether it runs under a limit."""
    tiny = train(folder, [*direct, *DIRECT, "--hidden", *["16"] * len(hidden), "--out", "tiny"])
    assert not tiny.error, tiny.error
    base = max(tiny.resident.values())
    print(f"a rank of a network of no size: {base / 1e6:.1f} MB")
    network = ["--hidden", *map(str, hidden)]
    found = train(folder, [*direct, *DIRECT, *network, "--out", "free"])
    assert not found.error, found.error
    for rank, peak in enumerate(found.resident.values()):
        over = peak - base
        print(f"rank {rank}: {over / 1e6:.1f} MB above that, {over / whole:.2f} of the model")
    highest = max(found.resident.values()) - base
    name = f"{kind}: peak of a rank over the model's bytes"
    limit = max(tiny.private.values()) + int(0.9 * whole)
    return [result(name, highest / whole, 1.0), *limited(folder, direct, network, limit)]


def limited(folder: Path, direct: list[str], network: list[str], limit: int) -> list[bool]:
    """Train, evaluate, write checkpoints and go on where no process may hold the model as well."""
    print(f"limit of a process: {limit / 1e6:.1f} MB = a network of no size + 0.9 of the model")
    flags = [*direct, *DIRECT, *network, "--out", "limited"]
    first = train(folder, flags, limit).error
    print(f"direct, trains, evaluates, writes checkpoints: {first or 'yes'}")
    rounds = int(direct[direct.index("--rounds") + 1])
    more = ["--resume", "--rounds", str(rounds + 1), "--out", "limited"]
    second = first or train(folder, more, limit).error
    print(f"direct, goes on: {second or 'yes'}")
    star = train(folder, [*direct, *network, "--out", "star"], limit).error
    print(f"through a coordinator: {star[-200:] or 'yes: the limit is too wide to show anything'}")
    return [not first, not second]


def caged(folder: Path, workers: int, hidden: Sequence[int]) -> list[bool]:
    """A model larger than all that a rank may have: train, evaluate, write, go on; and a star's."""
    whole = bytes_of(hidden)
    limit = int(CAGED * whole)
    print(
        f"\na control group of {limit / 1e6:.0f} MB for each of {workers} ranks, and a model of "
        f"{whole / 1e6:.0f} MB of {len(hidden)} hidden layers"
    )
    network = ["--hidden", *map(str, hidden), "--batch-size", "16", "--local-steps", "2"]
    run = ["--checkpoint-every", "1", "--out", "caged"]
    try:
        with cages([f"rank{rank}" for rank in range(workers)], limit) as found:
            first = in_cages(folder, found, [*run, *network, *DIRECT, "--rounds", "2"])
            print(f"direct, trains, evaluates, writes checkpoints: {first or 'yes'}", flush=True)
            second = first or in_cages(folder, found, [*run, "--resume", "--rounds", "3"])
            print(f"direct, goes on: {second or 'yes'}", flush=True)
            star = in_cages(folder, found, [*network, "--rounds", "1", "--out", "star"])
            print(f"through a coordinator: {star or 'yes: the groups are too large'}", flush=True)
    except NoCageError as why:
        print(f"SKIPPED, which shows nothing: {why}. Run it as root, or in a delegated group.")
        return []
    name = "model larger than a rank's control group: bytes of the group over the model's"
    line = {"name": name, "value": CAGED, "goal": 1.0, "met": not (first or second)}
    print("RESULT", json.dumps(line))
    return [not first, not second]


def in_cages(folder: Path, found: Sequence[Cage], flags: Sequence[str]) -> str:
    """Train under torchrun, each rank in its cage; why it did not go through, if it did not."""
    (folder / "enter.py").write_text(ENTER)
    pattern = str(found[0].procs).replace("rank0", "rank{}")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(found)}"]
    before = sum(cage.kills for cage in found)
    done = subprocess.run(
        [sys.executable, *torchrun, "enter.py", pattern, "train", *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    kills = sum(cage.kills for cage in found) - before
    if kills:
        return f"no, the kernel ended {kills} of its processes for want of memory"
    return f"no: {done.stderr.strip()[-200:]}" if done.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
