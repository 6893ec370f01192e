"""Random faults over running trainings: what is lost, and for how long the run stands still.

    SUBNETWORK_DATA=/data python benchmarks/chaos.py --faults 500 --seed 0 --minutes 15

Each method trains under `subnetwork train` with its own processes while faults of the rows of
docs/faults.md are put in at random times: real signals, real files, workers that do wrong. A fault
is over when the run shows what became of it; its pause is the longest stretch without a finished
round until then, less the usual one. Ends with 1 where a round was lost or done twice, a NaN was
merged, a checkpoint could not be read, a worker was left behind, or a process aborted.
"""

import argparse
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

MODULE = "chaos_worker"
WORKERS = 4
COMMON = "--batch-size 8 --checkpoint-every 1 --clip-updates 10"
METHODS = {
    "ist": "--hidden 32 16 --momentum 0.5 --step-size 0.05",
    "resist": "--data tinyshakespeare --model gpt --width 16 --blocks 3 --local-steps 2"
    " --step-size 0.05",
    "local_sgd": "--hidden 32 16 --optimizer adam --step-size 0.001",
    "diloco": "--hidden 32 16 --step-size 0.05",
}
OWN = {"nan": 6, "inf": 6, "error": 16, "out of memory": 16}  # three of them evict a worker
ORDERS = {**OWN, "huge": 8, "slow": 3, "frame": 7, "short": 7}
ROWS = {"killed": 1, "frozen": 2, "all killed": 5, "stranger": 7, "disk full": 12, **ORDERS}
ENDS = {
    "coordinator killed": 9,
    "killed in a checkpoint": 11,
    "checkpoint damaged": 13,
    "SIGTERM": 14,
    "other n": 17,
}
SHOWN_AS = {
    "nan": {"not finite"},
    "inf": {"not finite"},
    "error": {"failed"},
    "huge": {"clipped"},
    "out of memory": {"failed"},
    "slow": {"slow", "frozen"},  # on a busy machine too slow
    "frame": {"refused"},
    "short": {"refused"},
    "killed": {"lost", "not ready"},
    "frozen": {"frozen"},
    "all killed": {"waiting"},
}
WEIGHTS = {"killed": 5, "frozen": 0.6, "slow": 1, "all killed": 0.3, "disk full": 0.6}
RESUME = ("--resume", "--checkpoint-every", "1")
LIMIT = 60.0  # seconds until a fault has to show
START_UP = 300.0  # of a training, on a busy machine
STEPS = str(10**9)
DONE, INTERRUPTED, KILLED = 0, 130, -signal.SIGKILL


@dataclass
class Counts:
    """What was seen of all runs."""

    pauses: dict[str, list[float]] = field(default_factory=dict)
    wrong: dict[str, list[str]] = field(
        default_factory=lambda: {
            name: []
            for name in ("lost rounds", "NaN", "checkpoints", "orphans", "aborts", "unseen")
        }
    )
    rounds: int = 0
    rejoined: int = 0

    def total(self) -> int:
        """Faults that were put in and have shown."""
        return sum(map(len, self.pauses.values()))


class Run:
    """One training, its record as it grows, and its processes."""

    def __init__(self, method: str, folder: Path, seed: int, counts: Counts) -> None:
        self.method, self.folder, self.counts = method, folder, counts
        self.orders = folder / "orders"
        self.orders.mkdir()
        self.record = folder / "run.unfinished" / f"{method}.jsonl"
        flags = f"{COMMON} {METHODS[method]} --seed {seed} --rounds {STEPS}".split()
        self.n = WORKERS
        self.start("--method", method, "--workers", str(WORKERS), *flags)

    def start(self, *flags: str) -> None:
        """Start the command, as new or to go on."""
        here = str(Path(__file__).parent)
        paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
        more = {"CHAOS": str(self.orders), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--coordinator", "train", *flags, "--out", "run"]
        with (self.folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=os.environ | more, stdout=said, stderr=said
            )
        self.rows: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.gaps: deque[float] = deque(maxlen=50)
        self.strikes = [0] * self.n
        self.file, self.inode, self.rest = 0, 0, b""
        if not self.await_(lambda: len(self.times) > 1, START_UP):
            if self.process.poll() is not None and "--resume" not in flags:
                last = self.said().strip().splitlines()[-1:]
                sys.exit(f"chaos: {self.method} does not train: {' '.join(last)}")
            self.wrong("aborts", f"it did not start in {START_UP:g} s: {self.said()[-300:]}")

    def look(self) -> None:
        """Read what the record has got since the last look."""
        with suppress(OSError):
            found = self.record.stat()
            if found.st_ino != self.inode:
                self.inode, self.file, self.rest = found.st_ino, 0, b""
                self.rows.clear()
            with self.record.open("rb") as file:
                file.seek(self.file)
                data = file.read()
            self.file += len(data)
            *lines, self.rest = (self.rest + data).split(b"\n")
            fresh = [row for row in map(json.loads, lines) if "k" in row]
            first = not self.rows and self.file > 0
            self.rows += fresh
            if fresh and not (first and len(fresh) > 1):  # rows of an earlier part are no news
                now = time.monotonic()
                if self.times:
                    self.gaps.append((now - self.times[-1]) / len(fresh))
                self.times.append(now)

    def await_(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Look on until something holds; False where it does not or the run ends before."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until or self.process.poll() is not None:
                return condition()
            time.sleep(0.003)
            self.look()
        return True

    def present(self) -> list[int]:
        """The workers that took part in the last round."""
        faults = self.rows[-1]["faults"] if self.rows else []
        out = {f.get("worker") for f in faults if f["kind"] not in ("joined", "slow", "clipped")}
        return [i for i in range(self.n) if i not in out]

    def workers(self) -> dict[int, tuple[int, Path]]:
        """Process id and folder of each worker process."""
        found = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError, IndexError):
                name, nursery = _named(status)
                if name.startswith("worker ") and self._owns(nursery):
                    log = (status.parent / "fd" / "1").readlink()
                    found[int(name.split()[1])] = (int(status.parent.name), log.parent)
        return found

    def _owns(self, nursery: int) -> bool:
        return _named(Path(f"/proc/{nursery}/stat"))[1] == self.process.pid

    def shown(self, since: int, kinds: set[str], worker: int | None) -> bool:
        """Whether rows from `since` on tell of such a fault of a worker (None: of any)."""
        return any(
            f["kind"] in kinds and worker in (None, f.get("worker"))
            for row in self.rows[since:]
            for f in row["faults"]
        )

    def end(self, number: int | None, expected: set[int]) -> None:
        """End the coordinator by a signal (None: it ends by itself) and look at what it leaves."""
        left = [pid for pid, _ in self.workers().values()]
        self.look()
        done = self.rows[-1]["k"] if self.rows else -1
        if number is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
        try:
            status = self.process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
            self.wrong("orphans", f"the coordinator did not end in {LIMIT:g} s")
        if status not in expected:
            self.wrong("aborts", f"status {status}: {self.said()[-300:]}")
        until = time.monotonic() + 5
        while any(map(_alive, left)) and time.monotonic() < until:
            time.sleep(0.02)
        if any(map(_alive, left)):
            self.wrong("orphans", f"workers {left} are left")
        self.check(done)

    def check(self, done: int) -> None:
        """What the run has left in its folder: rounds, numbers and a checkpoint that is whole."""
        self.look()
        ks = [row["k"] for row in self.rows]
        if ks != list(range(len(ks))):
            self.wrong("lost rounds", f"rounds {ks[:3]} .. {ks[-3:]} are {len(ks)}")
        kinds = [f for row in self.rows for f in row["faults"]]
        bad = [f for f in kinds if "SIGABRT" in f["reason"] or "SIGSEGV" in f["reason"]]
        if bad:
            self.wrong("aborts", str(bad[0]))
        if any(row["loss"] is None and row["k"] >= 0 for row in self.rows):
            self.wrong("NaN", "a loss is no number")
        _check_kept(self, done)

    def wrong(self, what: str, why: str) -> None:
        """Count and say what must not happen."""
        self.counts.wrong[what].append(f"{self.method}: {why}")
        print(f"WRONG {what}: {self.method}: {why}", flush=True)

    def said(self) -> str:
        """What the command has printed since it was started last."""
        return (self.folder / "said").read_text(errors="replace")


def _check_kept(run: Run, done: int) -> None:
    import torch

    from subnetwork.experiments.resume import saved

    try:
        kept, damage = saved(run.record.parent / "checkpoints")
    except ValueError as error:
        run.wrong("checkpoints", str(error))
        return
    if kept is None or damage:
        run.wrong("checkpoints", "; ".join(damage) or "there is none")
    elif not all(bool(torch.isfinite(p).all()) for p in kept.start.x.params.values()):
        run.wrong("NaN", f"the model of round {kept.start.k} holds what is no number")
    elif done - kept.start.k > 1 and not run.shown(-60, {"stale checkpoint"}, None):
        run.wrong("lost rounds", f"round {done} was done, {kept.start.k} are kept")


def _named(stat: Path) -> tuple[str, int]:
    """Name and parent of a process."""
    before, after = stat.read_text().rsplit(")", 1)
    return before.split("(", 1)[1], int(after.split()[1])


def _alive(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def in_the_run(run: Run, kind: str, words: random.Random) -> bool:
    """Put a fault into the running training; whether it was possible and has shown."""
    since = len(run.rows)
    if kind == "all killed":
        for pid, _ in run.workers().values():
            _send(pid, signal.SIGKILL)
        shown = run.await_(lambda: run.shown(since, {"waiting", "lost"}, None), LIMIT)
        return shown and run.await_(lambda: run.shown(since, {"joined"}, None), LIMIT)
    if kind == "stranger":
        _strange(next(iter(run.workers().values()))[1], words)
        return run.await_(lambda: len(run.rows) > since + 3, LIMIT)
    if kind == "disk full":
        _limit(run.process.pid, 512)
        time.sleep(0.3)
        _limit(run.process.pid, resource.RLIM_INFINITY)
        return run.await_(lambda: run.shown(since, {"stale checkpoint"}, None), LIMIT)
    candidates = [i for i in run.present() if kind not in OWN or run.strikes[i] < 2]
    if not candidates:
        return False
    return _to_one(run, kind, words.choice(candidates))


def _to_one(run: Run, kind: str, victim: int) -> bool:
    """A fault of one worker."""
    since = len(run.rows)
    if kind in ORDERS:
        run.strikes[victim] += kind in OWN
        order = run.orders / f".{victim}"
        order.write_text(kind)
        order.rename(run.orders / str(victim))
    elif victim in (workers := run.workers()):
        _send(workers[victim][0], signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
    else:
        return False
    limit = float(os.environ["CHAOS_WAIT"]) + LIMIT
    shown = run.await_(lambda: run.shown(since, SHOWN_AS[kind], victim), limit)
    if not shown and run.process.poll() is None:
        told = [f for row in run.rows[since:] for f in row["faults"] if f.get("worker") == victim]
        run.wrong("unseen", f"{kind} of worker {victim} did not show: {told[:2]}")
        with suppress(OSError):
            (run.orders / str(victim)).unlink()
    run.await_(lambda: len(run.rows) > since + 1, LIMIT)
    return shown


def of_the_coordinator(run: Run, kind: str, words: random.Random) -> None:
    """End the coordinator and start it again."""
    flags = []
    if kind == "killed in a checkpoint":
        folder = run.record.parent / "checkpoints"
        run.await_(lambda: any(p.name.startswith(".") for p in folder.iterdir()), 1)
    killed = kind in ("coordinator killed", "killed in a checkpoint")
    run.end(signal.SIGKILL if killed else signal.SIGTERM, {KILLED if killed else INTERRUPTED})
    if kind == "other n":
        run.n = WORKERS - 1 if run.n == WORKERS else WORKERS
        flags = ["--workers", str(run.n)]
    if kind == "checkpoint damaged":
        newest = max((run.record.parent / "checkpoints").glob("round-*"))
        file = words.choice(sorted(newest.iterdir()))
        data = bytearray(file.read_bytes())
        data[words.randrange(len(data))] ^= 1 << words.randrange(8)
        file.write_bytes(data)
    run.start(*RESUME, *flags)
    if kind == "checkpoint damaged" and "skipped a damaged checkpoint" not in run.said():
        run.wrong("checkpoints", "a damaged one was not found")


def one(run: Run, kind: str, words: random.Random) -> None:
    """One fault, its pause and what it left."""
    usual, began = median(run.gaps) if run.gaps else 0.0, time.monotonic()
    last = run.times[-1] if run.times else began
    if kind in ENDS:
        of_the_coordinator(run, kind, words)
        pause = (run.times[0] if run.times else time.monotonic()) - began
    elif in_the_run(run, kind, words):
        times = [last, *[t for t in run.times if t > last]]
        longest = max((b - a for a, b in pairwise(times)), default=0.0)
        pause = max(0.0, longest - usual)
    else:
        pause = -1.0
    if run.process.poll() is not None:
        run.end(None, set())
        run.start(*RESUME)
    elif pause >= 0:
        run.counts.pauses.setdefault(kind, []).append(pause)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _limit(pid: int, n_bytes: int) -> None:
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (n_bytes, most))


def _strange(folder: Path, words: random.Random) -> None:
    """Somebody without the secret connects and sends noise."""
    with suppress(OSError):
        host, port = (folder / "address").read_text().split()
        with socket.create_connection((host, int(port)), timeout=1) as stranger:
            stranger.sendall(words.randbytes(words.randrange(1, 5000)))
            stranger.recv(100)


def tortured(method: str, n_faults: int, seed: int, until: float, counts: Counts) -> None:
    """One method, until it has had its faults or the time is over."""
    words = random.Random(f"{seed} {method}")
    every = [*ROWS, *ENDS]
    weights = [WEIGHTS.get(kind, 2.0 if kind in ROWS else 0.6) for kind in every]
    before = counts.total()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(method, Path(folder), seed, counts)
        while counts.total() - before < n_faults and time.monotonic() < until:
            kind = words.choices(every, weights)[0]
            if kind in OWN and min(run.strikes) >= 2:
                kind = words.choice(list(ENDS))
            one(run, kind, words)
            run.await_(lambda: False, words.uniform(0.0, 0.2))
        run.end(signal.SIGTERM, {INTERRUPTED})
        counts.rounds += len(run.rows)
        counts.rejoined += sum(f["kind"] == "joined" for row in run.rows for f in row["faults"])
    print(f"{method}: {counts.total() - before} faults, {len(run.rows)} rounds", flush=True)


def reported(counts: Counts, asked: int, seconds: float) -> bool:
    """Print the report; whether nothing was wrong."""
    rows = ROWS | ENDS
    print("\n row  fault                    count   median     max  (pause, seconds)")
    for kind, pauses in sorted(counts.pauses.items(), key=lambda item: rows[item[0]]):
        line = f"{len(pauses):6d} {median(pauses):8.2f} {max(pauses):8.2f}"
        print(f"{rows[kind]:4d}  {kind:23s} {line}")
    result: dict[str, Any] = {"name": "chaos", "faults": counts.total(), "asked": asked}
    result |= {"rounds": counts.rounds, "rejoined": counts.rejoined, "seconds": round(seconds)}
    result |= {name: len(why) for name, why in counts.wrong.items()}
    sound = not any(counts.wrong.values())
    print("RESULT " + json.dumps(result | {"met": sound and counts.total() >= asked}))
    return sound


def coordinator(arguments: list[str]) -> int:
    """The command, with workers that take orders."""
    from subnetwork.cli import main
    from subnetwork.methods import worker
    from subnetwork.runtime import Patience, launch, star

    worker.MODULE, launch.START_UP = MODULE, int(START_UP)
    star.Patience = partial(Patience, missing=float(os.environ["CHAOS_WAIT"]))
    return main(arguments)


def chaos() -> int:
    """All methods in turn; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--wait", default="60", help="seconds for enough workers; more if busy")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    asked = parser.parse_args()
    os.environ["CHAOS_WAIT"] = asked.wait
    counts, began = Counts(), time.monotonic()
    for place, method in enumerate(asked.methods):
        left = len(asked.methods) - place
        n_faults = -(-(asked.faults - counts.total()) // left)
        share = (began + 60 * asked.minutes - time.monotonic()) / left
        tortured(method, n_faults, asked.seed, time.monotonic() + share, counts)
    return 0 if reported(counts, asked.faults, time.monotonic() - began) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--coordinator"]:
        sys.exit(coordinator(sys.argv[2:]))
    sys.exit(chaos())
