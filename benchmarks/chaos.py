"""Random faults over running trainings: what is lost, and for how long the run stands still.

    SUBNETWORK_DATA=/data python benchmarks/chaos.py --faults 500 --seed 0 --minutes 15

Each method trains under `subnetwork train` with its own processes while faults of the rows of
docs/faults.md are put in at random times: real signals, real files, workers that do wrong. A fault
is over when the run shows what became of it; its pause is the longest stretch without a finished
round until then, less the usual one. Ends with 1 where a round was lost or done twice, a NaN was
merged, a checkpoint could not be read, a worker was left behind, a process aborted, a fault did not
show, or a pause was longer than its goal. The training itself stands in chaos_run.py.
"""

import argparse
import json
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from chaos_run import LIMIT, METHODS, START_UP, WORKERS, Counts, Run

MODULE = "chaos_worker"
OWN = {"nan": 6, "inf": 6, "error": 16, "out of memory": 16}  # three of them evict a worker
ORDERS = {**OWN, "huge": 8, "slow": 3, "frame": 7, "short": 7}
ROWS = {
    "killed": 1,
    "frozen": 2,
    "scaled": 4,
    "all killed": 5,
    "stranger": 7,
    "disk full": 12,
    **ORDERS,
}
ENDS = {
    "coordinator killed": 9,
    "killed in a checkpoint": 11,
    "checkpoint damaged": 13,
    "SIGINT": 14,
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
WEIGHTS = {
    "killed": 5,
    "frozen": 0.6,
    "slow": 1,
    "all killed": 0.3,
    "disk full": 0.6,
    "scaled": 0.6,
}
RESUME = ("--resume", "--checkpoint-every", "1")
TURNED_AWAY = 7.0  # seconds until a stranger is, who has 5 to prove itself
LONGEST = {"killed": 0.25, "frozen": 3.25, "coordinator killed": 5.0}
"""Goals of the longest pause, in seconds; the least deadline is 3."""
INTERRUPTED, KILLED = 130, -signal.SIGKILL


def _all_killed(run: Run, _: random.Random) -> bool:
    since = len(run.rows)
    for pid, _folder in run.workers().values():
        _send(pid, signal.SIGKILL)
    shown = run.await_(lambda: run.shown(since, {"waiting", "lost"}, None), LIMIT)
    return shown and run.await_(lambda: run.shown(since, {"joined"}, None), LIMIT)


def _disk_full(run: Run, _: random.Random) -> bool:
    """No file of the coordinator can grow, until it has missed a checkpoint."""
    since, until = len(run.rows), time.monotonic() + LIMIT
    while time.monotonic() < until and run.process.poll() is None:
        before = _limit(run.process.pid, 512)
        time.sleep(0.3)
        _limit(run.process.pid, before)
        if run.await_(lambda: run.shown(since, {"stale checkpoint"}, None), 2.0):
            return True
    return False


def _strange(run: Run, words: random.Random) -> bool:
    """Somebody without the secret connects and sends noise; whether it is turned away."""
    since, folder = len(run.rows), next(iter(run.workers().values()))[1]
    host, port = (folder / "address").read_text().split()
    with socket.create_connection((host, int(port)), timeout=TURNED_AWAY) as stranger:
        with suppress(OSError):  # it may be turned away before it has said all
            stranger.sendall(words.randbytes(words.randrange(1, 5000)))
        stranger.setblocking(False)
        if not run.await_(lambda: _turned_away(stranger), TURNED_AWAY):  # and looks on meanwhile
            return False
    return run.await_(lambda: len(run.rows) > since + 3, LIMIT)


def _turned_away(stranger: socket.socket) -> bool:
    """Whether the other end has closed the connection; what it says until then is no matter."""
    try:
        return not stranger.recv(1 << 12)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _scaled(run: Run, _: random.Random) -> bool:
    return run.scale(WORKERS - 1 if run.n == WORKERS else WORKERS)


Fault: TypeAlias = Callable[[Run, random.Random], bool]
"""Puts a fault into a running training; says whether it has shown."""
OF_THE_RUN: Mapping[str, Fault] = {
    "all killed": _all_killed,
    "scaled": _scaled,
    "stranger": _strange,
    "disk full": _disk_full,
}
"""Those of no single worker."""


def in_the_run(run: Run, kind: str, words: random.Random) -> bool:
    """Put a fault into the running training; whether it was possible and has shown."""
    if kind in OF_THE_RUN:
        shown = OF_THE_RUN[kind](run, words)
        if not shown and run.process.poll() is None:
            run.wrong("unseen", f"{kind} did not show")
        return shown
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


def of_the_coordinator(run: Run, kind: str, words: random.Random) -> str:
    """End the coordinator and start it again; returns what fault it was in the end."""
    flags = []
    if kind == "killed in a checkpoint" and not run.stop_in_a_checkpoint():
        kind = "coordinator killed"
    killed = kind in ("coordinator killed", "killed in a checkpoint")
    number = signal.SIGKILL if killed else getattr(signal, kind, signal.SIGTERM)
    run.end(number, {KILLED if killed else INTERRUPTED})
    if kind == "killed in a checkpoint" and not run.in_a_checkpoint():
        run.wrong("unseen", "it was killed in a checkpoint, of which there is nothing")
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
    return kind


def one(run: Run, kind: str, words: random.Random) -> None:
    """One fault, its pause and what it left."""
    usual, began = median(run.gaps) if run.gaps else 0.0, time.monotonic()
    last = run.times[-1] if run.times else began
    if kind in ENDS:
        kind = of_the_coordinator(run, kind, words)
        pause = (run.times[0] if run.times else time.monotonic()) - run.ended
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


def _limit(pid: int, n_bytes: int) -> int:
    """Set how large a file may be; what it was before."""
    with suppress(ProcessLookupError):
        before, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (n_bytes, most))
        return before
    return resource.RLIM_INFINITY


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
    """Print the report; whether nothing was wrong, and no pause too long."""
    rows = ROWS | ENDS
    print("\n row  fault                    count   median     max  (pause, seconds)")
    for kind, pauses in sorted(counts.pauses.items(), key=lambda item: rows[item[0]]):
        line = f"{len(pauses):6d} {median(pauses):8.2f} {max(pauses):8.2f}"
        print(f"{rows[kind]:4d}  {kind:23s} {line}")
    result: dict[str, Any] = {"name": "chaos", "faults": counts.total(), "asked": asked}
    result |= {"rounds": counts.rounds, "rejoined": counts.rejoined, "seconds": round(seconds)}
    result |= {name: len(why) for name, why in counts.wrong.items()}
    sound = not any(counts.wrong.values())
    result |= {"value": sum(map(len, counts.wrong.values())), "goal": 0}
    print("RESULT " + json.dumps(result | {"met": sound and counts.total() >= asked}))
    for kind, goal in LONGEST.items():
        if longest := max(counts.pauses.get(kind, ()), default=0.0):
            line = {"name": f"longest pause: {kind}", "value": round(longest, 3), "goal": goal}
            print("RESULT " + json.dumps(line | {"met": longest <= goal}))
            sound = sound and longest <= goal
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
