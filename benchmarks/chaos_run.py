"""One training under `chaos.py`: its processes, its record as it grows, and what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHAOS = Path(__file__).with_name("chaos.py")
WORKERS = 4
COMMON = "--batch-size 8 --checkpoint-every 1 --clip-updates 10"
METHODS = {
    "ist": "--hidden 32 16 --momentum 0.5 --step-size 0.05",
    "resist": "--data tinyshakespeare --model gpt --width 16 --blocks 3 --local-steps 2"
    " --step-size 0.05",
    "local_sgd": "--hidden 32 16 --optimizer adam --step-size 0.001",
    "diloco": "--hidden 32 16 --step-size 0.05",
}
LIMIT = 60.0  # seconds until a fault has to show
START_UP = 300.0  # of a training, on a busy machine
STEPS = str(10**9)


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
        self.n, self.ended = WORKERS, 0.0
        self.start("--method", method, "--workers", str(WORKERS), *flags)

    def start(self, *flags: str) -> None:
        """Start the command, as new or to go on."""
        here = str(Path(__file__).parent)
        paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
        more = {"CHAOS": str(self.orders), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(CHAOS), "--coordinator", "train", *flags, "--out", "run"]
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

    def scale(self, n: int) -> bool:
        """Have the run go on with n workers; whether it does."""
        command = [sys.executable, "-m", "subnetwork", "scale", "run", "--workers", str(n)]
        path = self.folder / "scaled"
        with path.open("w") as said:
            asked = subprocess.Popen(command, cwd=self.folder, stdout=said, stderr=said)
        if not self.await_(lambda: asked.poll() is not None, LIMIT):
            asked.kill()
        if asked.wait():
            self.wrong("unseen", f"it was not scaled to {n} workers: {path.read_text()[-300:]}")
            return False
        self.n, self.strikes = n, [*self.strikes, *[0] * n][:n]
        timed = len(self.times)
        shown = self.await_(lambda: len(self.rows[-1]["worker_steps"]) == n, LIMIT)
        return shown and self.await_(lambda: len(self.times) > timed, LIMIT)

    def stop_in_a_checkpoint(self) -> bool:
        """Stop the coordinator while it writes one; False where it was not caught at it."""
        until = time.monotonic() + LIMIT / 3
        while time.monotonic() < until and self.process.poll() is None:
            if self.in_a_checkpoint():
                self.process.send_signal(signal.SIGSTOP)
                while _state(self.process.pid) not in "TZ":
                    time.sleep(0.0005)
                if self.in_a_checkpoint():
                    return True
                self.process.send_signal(signal.SIGCONT)
            time.sleep(0.0005)
        return False

    def in_a_checkpoint(self) -> bool:
        """Whether one is being written; one that is being taken away is none."""
        found = (self.record.parent / "checkpoints").glob(".round-*")
        return any(path.suffix != ".gone" for path in found)

    def end(self, number: int | None, expected: set[int]) -> None:
        """End the coordinator by a signal (None: it ends by itself) and look at what it leaves."""
        left = [pid for pid, _ in self.workers().values()]
        self.look()
        done, self.ended = (self.rows[-1]["k"] if self.rows else -1), time.monotonic()
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


def _state(pid: int) -> str:
    """A letter of the system's: T is stopped, Z over; Z of what there is not."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return "Z"


def _alive(pid: int) -> bool:
    return _state(pid) != "Z"
