"""The field of `race.py`: what is trained, by which rows, and how each of them learns.

A link changes no number that is trained, so every row learns once for each seed, over links that
cost nothing, and what it learned is kept in `race_courses.json`.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from net import Link, network

WORKER = str(Path(__file__).parent / "race_worker.py")
CACHE = Path(__file__).parent / "race_courses.json"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}

IST = ("ist", "ist_direct")
AVERAGING = ("local_sgd", "diloco")
TUNED_LIKE = {"ist": "ist_direct", "ddp_powersgd": "ddp"}
"""Methods that take the step size of another one."""
TUNED_STEPS = 50  # local steps of a round while tuning
PER_ROUND = (20, 50, 100, 200, 400)
"""Local steps of a round: not tuned but raced, so that every method has its best at each link."""
DDP_STEPS = 20
"""DDP has no rounds: its rows are told in as many steps."""
FINAL = "best DDP - 1 point"
BEHIND_DDP = 0.01


def rows() -> dict[str, dict[str, Any]]:
    """All rows, without step sizes."""
    direct = {"method": "ist_direct", "n_steps": 100}
    found: dict[str, dict[str, Any]] = {
        f"ist {n_steps}": {**direct, "n_steps": n_steps} for n_steps in PER_ROUND
    }
    found["ist bf16"] = {**direct, "wire": "bfloat16"}
    found["ist int8"] = {**direct, "wire": "int8"}
    for churn, period in (("0.25", 4), ("0.1", 10), ("0", None)):
        found[f"ist bf16 churn {churn}"] = {**direct, "period": period, "wire": "bfloat16"}
    found["ist int8 churn 0.1"] = {**direct, "period": 10, "wire": "int8"}
    found["ist coordinator"] = {"method": "ist", "n_steps": 100}
    for n_steps in PER_ROUND[:-2]:
        found[f"ist outer {n_steps}"] = {"method": "ist", "n_steps": n_steps, "outer": True}
    for wire, tag in (("bfloat16", "bf16"), ("int8", "int8")):
        outer = {**direct, "wire": wire, "outer": True}
        found[f"ist outer {tag}"] = outer
        found[f"ist outer {tag} churn 0.1"] = {**outer, "period": 10}
    for n_steps in (50, 100):
        found[f"ist inverted {n_steps}"] = {**direct, "n_steps": n_steps, "scale": "inverted"}
    found["ist reset"] = {**direct, "state": "reset"}
    for method in AVERAGING:
        for n_steps in PER_ROUND:
            found[f"{method} {n_steps}"] = {"method": method, "n_steps": n_steps}
    found["diloco int8"] = {"method": "diloco", "n_steps": 50, "wire": "int8"}
    found["ddp"] = {"method": "ddp", "n_steps": DDP_STEPS}
    found["ddp powersgd"] = {"method": "ddp_powersgd", "n_steps": DDP_STEPS}
    return found


ROWS: Mapping[str, Mapping[str, Any]] = rows()


@dataclass(frozen=True)
class Field:
    """How a network of `race_run.NETWORKS` is raced."""

    targets: tuple[float, ...]  # accuracies on the test rows
    step_sizes: tuple[float, ...]  # what every method is tuned on, once
    tuned_steps: int  # local steps of a worker, at most, while tuning
    steps: int  # of a worker with the whole model, in all
    part_steps: int  # of a worker of IST, in all
    without: tuple[str, ...] = ()  # rows that it does not have

    def most(self, method: str) -> int:
        """Local steps of a worker in all."""
        return self.part_steps if method in IST else self.steps


FIELDS = {
    # SGD without momentum has no state to reset
    "mlp": Field(
        *((0.85, 0.88), (0.05, 0.1, 0.2, 0.4), 600, 800, 2000),
        ("ist reset", "ist inverted 50", "ist inverted 100"),
    ),
    "gpt": Field(  # rounds of 400 steps are too long for its runs
        *((0.30, 0.35), (0.001, 0.002, 0.004, 0.008), 200, 560, 800),
        ("ist 400", "local_sgd 400", "diloco 400"),
    ),
}


@dataclass(frozen=True)
class Course:
    """How a row learns by one seed."""

    accuracies: Sequence[tuple[int, float]]  # (rounds, accuracy)

    def rounds_to(self, target: float) -> int | None:
        """Rounds until the accuracy is first measured at the target; None: not within the run."""
        return next((k for k, accuracy in self.accuracies if accuracy >= target), None)

    @property
    def last(self) -> int:
        """Rounds that it was followed."""
        return self.accuracies[-1][0]

    @property
    def best(self) -> float:
        """The highest accuracy measured."""
        return max(accuracy for _, accuracy in self.accuracies)


@dataclass(frozen=True)
class Target:
    """An accuracy to be reached, for each seed."""

    name: str
    of_seed: Sequence[float]

    def rounds(self, of: Sequence[Course]) -> list[int] | None:
        """Rounds to it by seed; None where a seed does not come to it within its run."""
        found = [c.rounds_to(level) for c, level in zip(of, self.of_seed, strict=True)]
        return None if None in found else [k for k in found if k is not None]


@dataclass(frozen=True)
class Learning:
    """What is asked for of the courses."""

    network: str
    n_workers: int
    rows: Sequence[str]
    seeds: Sequence[int] = (0,)
    most_steps: int | None = None  # local steps that no row goes beyond
    stop_at: float = 1.0  # accuracy that ends a run
    cache: Path = CACHE

    @property
    def field(self) -> Field:
        """What is raced."""
        return FIELDS[self.network]

    def learned(self, specs: Sequence[Mapping[str, Any]]) -> list[Course]:
        """How each of these learns; what the cache has is not repeated."""
        cache = json.loads(self.cache.read_text()) if self.cache.exists() else {}
        shared = {"network": self.network, "n_workers": self.n_workers}
        whole = [{**shared, **spec} for spec in specs]
        new = [spec for spec in whole if not _long_enough(cache.get(name_of(spec), []), spec)]
        if new:
            for spec, run in zip(new, run_all(self.n_workers, Link(), new), strict=True):
                cache[name_of(spec)] = run[0]["accuracies"]
            lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(cache.items())]
            self.cache.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return [Course(cache[name_of(spec)]) for spec in whole]

    def tuned(self) -> dict[str, float]:
        """The step size of each method that needs the fewest local steps to the first target.

        By the first seed alone.
        """
        methods = {TUNED_LIKE.get(m, m) for m in (ROWS[name]["method"] for name in self.rows)}
        return {method: self._tuned(method) for method in sorted(methods)}

    def _tuned(self, method: str) -> float:
        of, n_steps = self.field, DDP_STEPS if method == "ddp" else TUNED_STEPS
        target = of.targets[0]
        spec = {
            "method": method,
            "n_steps": n_steps,
            "n_rounds": of.tuned_steps // n_steps,
            "stop_at": target,
            "evaluate_every": 1,
            "seed": self.seeds[0],
        }
        found = self.learned([{**spec, "step_size": size} for size in of.step_sizes])
        scores = {
            size: (course.rounds_to(target) or 10**9, -course.best)
            for size, course in zip(of.step_sizes, found, strict=True)
        }
        told = ", ".join(
            f"{size}: {n_steps * k if k < 10**9 else f'- ({-best:.1%})'}"
            for size, (k, best) in scores.items()
        )
        print(f"{method}: local steps to {target:.0%} by step size: {told}", flush=True)
        return min(scores, key=scores.__getitem__)

    def specified(self) -> dict[str, dict[str, Any]]:
        """The rows that are asked for, with their step sizes."""
        sizes = self.tuned()
        found = {}
        for name in self.rows:
            row = ROWS[name]
            size = sizes[TUNED_LIKE.get(row["method"], row["method"])]
            found[name] = {**row, "network": self.network, "step_size": size}
        return found

    def courses(self, specs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Course]]:
        """How each row learns by each seed, until it is given up."""
        found: dict[str, list[Course]] = {name: [] for name in specs}
        for seed in self.seeds:
            for name, spec in specs.items():
                found[name] += self.learned([{**spec, **self._until(spec), "seed": seed}])
                told = " ".join(f"{k}:{a:.3f}" for k, a in found[name][-1].accuracies[-3:])
                print(f"{self.network} {self.n_workers} seed {seed} {name:<20} {told}", flush=True)
        return found

    def _until(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        most = self.most_steps or self.field.most(spec["method"])
        n_rounds = -(-most // spec["n_steps"])
        between = 100 if spec["method"] in IST else 40  # steps; tests take longer than IST's
        return {
            "n_rounds": n_rounds,
            "stop_at": self.stop_at,
            "evaluate_every": max(1, between // spec["n_steps"]),
        }

    def targets(self, course: Mapping[str, Sequence[Course]]) -> list[Target]:
        """Those of the field, and what DDP came to, less a point."""
        n = len(self.seeds)
        found = [Target(f"{level:.0%}", [level] * n) for level in self.field.targets]
        if "ddp" in course:
            found.append(Target(FINAL, [of.best - BEHIND_DDP for of in course["ddp"]]))
        return found


def mean_rounds(target: Target, of: Sequence[Course]) -> float | None:
    """Rounds to a target, the mean over seeds; None where one does not come to it."""
    rounds = target.rounds(of)
    return None if rounds is None else mean(rounds)


def name_of(spec: Mapping[str, Any]) -> str:
    """Of a course: all that it depends on; how far it was followed is no part of it."""
    left_out = ("n_rounds", "stop_at")
    return json.dumps({k: v for k, v in spec.items() if k not in left_out}, sort_keys=True)


def _long_enough(course: Sequence[tuple[int, float]], spec: Mapping[str, Any]) -> bool:
    """Whether a course was followed to the accuracy or the round that is asked for."""
    reached = any(accuracy >= spec["stop_at"] for _, accuracy in course)
    return reached or bool(course and course[-1][0] + spec["evaluate_every"] > spec["n_rounds"])


def run_all(n_workers: int, link: Link, specs: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """What every worker wrote of every run, by run; one set of processes does all of them."""
    with tempfile.TemporaryDirectory(prefix="race-") as folder, network(n_workers, link) as hosts:
        path = Path(folder) / "specs.json"
        path.write_text(json.dumps(list(specs)))
        environment = {**ENVIRONMENT, "WORLD_SIZE": str(n_workers)}
        command = [sys.executable, WORKER, str(path)]
        started = [
            host.start(command, environment=environment, stderr=subprocess.PIPE) for host in hosts
        ]
        while any(process.poll() is None for process in started):
            if any(process.poll() for process in started):
                break
            time.sleep(0.1)
        for rank, process in enumerate(started):
            if process.poll():
                assert process.stderr is not None
                last = process.stderr.read().strip().splitlines()[-1:]
                raise RuntimeError(f"worker {rank} left with {process.returncode}: {last}")
        of_rank = [
            json.loads(path.with_suffix(f".{rank}.json").read_text()) for rank in range(n_workers)
        ]
    return [list(of_run) for of_run in zip(*of_rank, strict=True)]
