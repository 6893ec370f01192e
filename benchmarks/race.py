"""Who is first at an accuracy, over which link: IST, Local SGD, DiLoCo, DDP, DDP with PowerSGD.

    python benchmarks/race.py [--workers 4] [--links 100mbit unthrottled] [--quick]

Real processes in hosts of their own (net.py). See README.md beside this file for what is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from net import CannotEmulateError, Link, network

from subnetwork.cli.quantities import bits_per_second, duration, n_bytes

WORKER = str(Path(__file__).parent / "race_worker.py")
UNTHROTTLED = "unthrottled"
LINKS = ["100mbit", UNTHROTTLED, "10mbit", "1gbit"]
NO_DATA = "race: Fashion-MNIST is read from the folder that SUBNETWORK_DATA names; set it."
TARGETS = (0.85, 0.88)
CACHE = Path(__file__).parent / "race_courses.json"
CAP = 5.0  # times the best: what is slower is no contender
BEHIND_DDP = 0.01
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
PREDICTED = {
    "ist": "IST, coordinator",
    "ist_direct": "IST, direct",
    "local_sgd": "Local SGD",
    "diloco": "DiLoCo",
    "ddp": "DDP",
}

STEP_SIZES = (0.05, 0.1, 0.2, 0.4)
"""What every method is tuned on, once, without a limit on the link."""
TUNED_STEPS = 50  # local steps of a round while tuning
PER_ROUND = (20, 50, 100, 200)
"""Local steps of a round: not tuned but raced, so that every method has its best at each link."""
DDP_STEPS = 20
"""DDP has no rounds: its rows are told in as many steps."""
MOST_STEPS = {"ist": 3000, "ist_direct": 3000}
"""Local steps of a worker after which a method is given up; see also `--most-steps`."""
EVALUATED = {"ist": 50, "ist_direct": 50}
"""Local steps between two tests of the model; a round is the least."""


def rows() -> dict[str, dict[str, Any]]:
    """The field, without step sizes."""
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
    found["ist outer"] = {"method": "ist", "n_steps": 100, "outer": True}
    for method in AVERAGING:
        for n_steps in PER_ROUND:
            found[f"{method} {n_steps}"] = {"method": method, "n_steps": n_steps}
    found["diloco int8"] = {"method": "diloco", "n_steps": 50, "wire": "int8"}
    found["ddp"] = {"method": "ddp", "n_steps": DDP_STEPS}
    found["ddp powersgd"] = {"method": "ddp_powersgd", "n_steps": DDP_STEPS}
    return found


AVERAGING = ("local_sgd", "diloco")
ROWS: Mapping[str, Mapping[str, Any]] = rows()
TUNED_LIKE = {"ist": "ist_direct", "ddp_powersgd": "ddp"}
"""Methods that take the step size of another one."""


@dataclass(frozen=True)
class Course:
    """How a method learns: the same over every link, since a link changes no number."""

    accuracies: Sequence[tuple[int, float]]  # (rounds, accuracy)

    def rounds_to(self, target: float) -> int | None:
        """Rounds until the accuracy is first measured at the target; None: not within the run."""
        return next((k for k, accuracy in self.accuracies if accuracy >= target), None)

    @property
    def best(self) -> float:
        """The highest accuracy measured."""
        return max(accuracy for _, accuracy in self.accuracies)


@dataclass(frozen=True)
class Parts:
    """A round over one link, in seconds, medians over rounds, and bytes on the wire."""

    wall: float
    compute: float  # of the slowest worker
    handling: float  # cutting, packing, merging
    exchange: float  # the rest: on the wire, or behind others that are late
    waiting: float  # of the mean worker, for the slowest one
    compute_cpu: float  # processor time: what computing takes on a core of its own
    handling_cpu: float
    exchange_least: float  # in the round that was disturbed least: what the link takes
    wire: float  # bytes through the busiest interface, in its busier direction

    @property
    def replay(self) -> float:
        """The round with one core for each worker, put together from its parts."""
        return self.compute_cpu + self.handling_cpu + self.exchange_least


def parts(found: Sequence[Mapping[str, Any]], spec: Mapping[str, Any]) -> Parts:
    """Of one run, from what its workers wrote down; the first round is left out where it can be."""
    rows = [run["rows"][1:] or run["rows"] for run in found]
    of_round = list(zip(*rows, strict=True))

    def middle(name: str, of: Any) -> float:  # noqa: ANN401 - max, or a mean
        return median(of([row[name] for row in workers]) for workers in of_round)

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    wall = median(workers[0]["wall"] for workers in of_round)
    handling = median(workers[0]["handling_wall"] for workers in of_round)
    compute, compute_cpu = middle("compute_wall", max), middle("compute_cpu", max)
    waiting = compute - middle("compute_wall", mean)
    if spec["method"].startswith("ddp"):  # its communication is inside its steps
        crowded = max(1.0, len(found) / (os.cpu_count() or 1))
        compute, waiting = min(wall, compute_cpu * crowded), 0.0
    busiest = median(
        max(max(row["received"], row["sent"]) for row in workers) for workers in of_round
    )
    exchange = max(0.0, wall - compute - handling)
    handling_cpu = median(workers[0]["handling_cpu"] for workers in of_round)
    least = exchange
    if not spec["method"].startswith("ddp"):
        least = max(0.0, min(map(_outside, of_round)))
    return Parts(
        wall, compute, handling, exchange, waiting, compute_cpu, handling_cpu, least, busiest
    )


def _outside(workers: Sequence[Mapping[str, float]]) -> float:
    """Seconds of a round in which the worker that was there last neither trained nor handled."""
    return min(row["wall"] - row["compute_wall"] - row["handling_wall"] for row in workers)


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


def learned(specs: Sequence[Mapping[str, Any]], asked: argparse.Namespace) -> list[Course]:
    """How each of these learns over links that cost nothing; what the cache has is not repeated."""
    cache = json.loads(asked.cache.read_text()) if asked.cache.exists() else {}
    shared = {"n_workers": asked.workers, "evaluate_every": 1, "seed": asked.seed}
    whole = [{**shared, **spec} for spec in specs]
    new = [spec for spec in whole if not _long_enough(cache.get(_name_of(spec), []), spec)]
    if new:
        for spec, run in zip(new, run_all(asked.workers, Link(), new), strict=True):
            cache[_name_of(spec)] = run[0]["accuracies"]
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(cache.items())]
        asked.cache.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return [Course(cache[_name_of(spec)]) for spec in whole]


def _name_of(spec: Mapping[str, Any]) -> str:
    """Of a course: all that it depends on; how far it was followed is no part of it."""
    left_out = ("n_rounds", "stop_at")
    return json.dumps({k: v for k, v in spec.items() if k not in left_out}, sort_keys=True)


def _long_enough(course: Sequence[tuple[int, float]], spec: Mapping[str, Any]) -> bool:
    """Whether a course was followed to the accuracy or the round that is asked for."""
    reached = any(accuracy >= spec["stop_at"] for _, accuracy in course)
    return reached or bool(course and course[-1][0] + spec["evaluate_every"] > spec["n_rounds"])


def tuned(asked: argparse.Namespace) -> dict[str, float]:
    """The step size of each method that needs the fewest local steps to the first target."""
    methods = sorted({TUNED_LIKE.get(m, m) for m in (ROWS[name]["method"] for name in asked.rows)})
    best = {}
    for method in methods:
        n_steps = DDP_STEPS if method == "ddp" else TUNED_STEPS
        n_rounds = 600 // n_steps
        grid = [
            {"method": method, "n_steps": n_steps, "step_size": size, "n_rounds": n_rounds,
             "stop_at": TARGETS[0]} for size in STEP_SIZES
        ]  # fmt: skip
        found = zip(STEP_SIZES, learned(grid, asked), strict=True)
        scores = {size: (of.rounds_to(TARGETS[0]) or 10**9, -of.best) for size, of in found}
        best[method] = min(scores, key=scores.__getitem__)
        told = ", ".join(
            f"{s}: {n_steps * k if k < 10**9 else '-'}" for s, (k, _) in scores.items()
        )
        print(f"{method}: local steps to {TARGETS[0]:.0%} by step size: {told}", flush=True)
    return best


def specified(asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The rows that are asked for, with their step sizes."""
    sizes = tuned(asked)
    of_method = lambda method: sizes[TUNED_LIKE.get(method, method)]  # noqa: E731
    return {
        name: {**ROWS[name], "step_size": of_method(ROWS[name]["method"])} for name in asked.rows
    }


def courses(specs: Mapping[str, Mapping[str, Any]], asked: argparse.Namespace) -> dict[str, Course]:
    """How each row learns, until the last target or until it is given up."""
    found = {}
    for name, spec in specs.items():
        most = asked.most_steps or MOST_STEPS.get(spec["method"], 1000)
        until = {
            "n_rounds": -(-most // spec["n_steps"]),
            "stop_at": asked.stop_at,
            "evaluate_every": max(1, EVALUATED.get(spec["method"], 40) // spec["n_steps"]),
        }
        (found[name],) = learned([{**spec, **until}], asked)
        told = " ".join(f"{k}:{a:.3f}" for k, a in found[name].accuracies[-3:])
        print(f"{name:<20} {told}", flush=True)
    return found


def timings(
    rows: Mapping[str, Mapping[str, Any]], link: Link, asked: argparse.Namespace
) -> dict[str, Parts]:
    """A round of each row over one link. DDP, which is slow, is timed over fewer steps."""
    specs = []
    for row in rows.values():
        spec = {**row, "n_workers": asked.workers, "n_rounds": asked.timed_rounds}
        if spec["method"].startswith("ddp"):
            spec["n_steps"] = asked.ddp_steps
        specs.append(spec)
    found = run_all(asked.workers, link, specs)
    measured = {}
    for name, spec, run in zip(rows, specs, found, strict=True):
        scale = rows[name]["n_steps"] / spec["n_steps"]
        values = {key: value * scale for key, value in asdict(parts(run, spec)).items()}
        measured[name] = Parts(**values)
    return measured


def predictions(link: Link, asked: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cost model's rounds on this machine's cores, and with a core for each worker."""
    import torch

    from subnetwork import decompose
    from subnetwork.deals import Lazy, Perm
    from subnetwork.nets import MLP, initial_state
    from subnetwork.nets.architecture import runnable
    from subnetwork.runtime.calibration import calibrate, loopback, sizes
    from subnetwork.runtime.costs import Network, Setting, predict

    network = MLP(784, (1024, 1024), 10)
    model = runnable(network, initial_state(network, seed=0))
    plan = decompose(model, torch.rand(64, 784))
    wires = Network(link.rate, link.delay) if link.rate else loopback()
    entries = sizes(plan, asked.workers)
    here, alone, paces = {}, {}, {}
    for name, row in ((name, ROWS[name]) for name in asked.rows):
        if row["method"] not in PREDICTED:
            continue
        period, wire = row.get("period", 1), row.get("wire", "float32")
        kind = (period, wire) if row["method"] == "ist_direct" else (1, "float32")
        if kind not in paces:
            deal = Perm(asked.workers) if kind[0] == 1 else Lazy(asked.workers, kind[0])
            paces[kind] = calibrate(plan, asked.workers, budget=5, deal=deal, wire=kind[1])
        for into, cores in ((here, os.cpu_count()), (alone, None)):
            setting = Setting(asked.workers, row["n_steps"], wire, period, cores)
            costs = predict(entries, paces[kind], wires, setting)
            into[name] = costs[PREDICTED[row["method"]]]
    return here, alone


def show(
    link: str,
    course: Mapping[str, Course],
    timed: Mapping[str, Parts],
    predicted: tuple[Mapping[str, Any], Mapping[str, Any]],
    targets: Mapping[str, float],
) -> None:
    """One table a link: parts of a round, then times and bytes to the targets."""
    print(f"\n{link}: a round")
    print(
        f"{'':<20}{'round':>9}{'compute':>9}{'handling':>9}{'exchange':>9}{'waiting':>9}"
        f"{'wire':>9}{'replay':>9}  {'predicted round':<17}{'predicted replay'}"
    )
    for name, part in timed.items():
        spans = (part.wall, part.compute, part.handling, part.exchange, part.waiting)
        line = f"{name:<20}" + "".join(f"{duration(span):>9}" for span in spans)
        line += f"{n_bytes(part.wire):>9}{duration(part.replay):>9}  "
        for of, measured in zip(predicted, (part.wall, part.replay), strict=True):
            if name in of:
                off = of[name].seconds / measured - 1
                line += f"{duration(of[name].seconds) + f' ({off:+.0%})':<17}"
        print(line)
    for what, target in targets.items():
        print(f"\n{link}: to {what} ({target:.1%})   time, replay with a core each, wire bytes")
        reached = {name: course[name].rounds_to(target) for name in timed}
        times = {name: k * timed[name].wall for name, k in reached.items() if k}
        for name, k in reached.items():
            if k is None:
                print(f"{name:<20}> cap   not within its run: {course[name].best:.1%}")
                continue
            capped = "> cap " if times[name] > CAP * min(times.values()) else ""
            print(
                f"{name:<20}{capped}{duration(times[name])}, {duration(k * timed[name].replay)}, "
                f"{n_bytes(k * timed[name].wire)} in {k} rounds"
            )


@dataclass(frozen=True)
class Result:
    """One RESULT line; without a goal it is for information."""

    name: str
    value: float | None
    goal: float | None = None
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; a value that there is not misses it."""
        if self.goal is None:
            return None
        if self.value is None:
            return False
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def __str__(self) -> str:
        """As the last lines of every benchmark."""
        line = {"name": self.name, "value": self.value, "goal": self.goal, "met": self.met}
        return "RESULT " + json.dumps(line)


def against(
    link: str, n_workers: int, course: Mapping[str, Course], timed: Mapping[str, Parts]
) -> Iterator[Result]:
    """How many times faster, and in how many fewer bytes, the best IST is at each target."""
    for target in TARGETS:
        rounds = {name: course[name].rounds_to(target) for name in timed}
        spans = {name: k * timed[name].wall for name, k in rounds.items() if k}
        wires = {name: k * timed[name].wire for name, k in rounds.items() if k}
        goals = link == "100mbit" and n_workers == 4 and target == TARGETS[0]
        tag = f"{link}, {n_workers} workers, to {target:.0%}: best IST, times"
        for what, others, goal, values in (
            ("faster than Local SGD / DiLoCo", AVERAGING, 2.5, spans),
            ("fewer wire bytes than Local SGD", ("local_sgd",), 100.0, wires),
            ("fewer wire bytes than Local SGD / DiLoCo", AVERAGING, None, wires),
            ("faster than DDP", ("ddp",), 20.0, spans),
            ("faster than DDP + PowerSGD", ("ddp_powersgd",), None, spans),
        ):
            yield Result(f"{tag} {what}", times(values, others), goal if goals else None)


def times(values: Mapping[str, float], others: Sequence[str]) -> float | None:
    """The least of the others' over the least of IST's; None where one of them is not there."""
    ist = [value for name, value in values.items() if name.startswith("ist")]
    theirs = [value for name, value in values.items() if ROWS[name]["method"] in others]
    return min(theirs) / min(ist) if ist and theirs else None


def foretold(
    link: str,
    n_workers: int,
    timed: Mapping[str, Parts],
    predicted: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Iterator[Result]:
    """How far the predicted ratio of the seconds of a local step, others over IST, is off."""
    here, alone = predicted
    known = [name for name in timed if name in here]
    for kind, of, measured in (
        ("on this machine", here, {name: timed[name].wall for name in known}),
        ("with a core each", alone, {name: timed[name].replay for name in known}),
    ):
        off = {name: of[name].seconds / measured[name] for name in known}
        for family in ("ddp", "local_sgd", "diloco"):
            for ist in [name for name in known if name.startswith("ist")]:
                others = [off[o] / off[ist] - 1 for o in known if ROWS[o]["method"] == family]
                if others:
                    tag = f"{link}, {n_workers} workers, {kind}: {family} / {ist}, prediction off"
                    yield Result(tag, abs(max(others, key=abs)), 0.2, False)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--links", nargs="+", default=LINKS, help="such as 100mbit, unthrottled")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--most-steps", type=int, help="local steps that no row goes beyond")
    parser.add_argument("--only-learn", action="store_true", help="fill the cache, time nothing")
    parser.add_argument("--cache", type=Path, default=CACHE, help="courses that were learned")
    parser.add_argument("--timed-rounds", type=int, default=8)
    parser.add_argument("--ddp-steps", type=int, default=5, help="steps of DDP in a timed round")
    parser.add_argument("--stop-at", type=float, default=TARGETS[-1], help="accuracy that ends it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few rounds: a look, no result")
    asked = parser.parse_args()
    if asked.quick:
        asked.timed_rounds, asked.ddp_steps = 3, 2
        asked.stop_at = TARGETS[0]
    return asked


def main() -> int:
    """Learn once, time over every link, print; 1 if a goal is missed."""
    asked = read_arguments()
    if not os.environ.get("SUBNETWORK_DATA"):
        print(NO_DATA, file=sys.stderr)
        return 2
    try:
        links = {
            name: Link() if name == UNTHROTTLED else Link(bits_per_second(name))
            for name in asked.links
        }
        specs = specified(asked)
        course = courses(specs, asked)
    except (CannotEmulateError, ValueError) as mistake:
        print(f"race: {mistake}", file=sys.stderr)
        return 2
    targets = {f"{target:.0%}": target for target in TARGETS}
    if "ddp" in course:
        targets["best DDP - 1 point"] = course["ddp"].best - BEHIND_DDP
    if asked.only_learn:
        return 0
    results: list[Result] = []
    for name, link in links.items():
        predicted = predictions(link, asked)
        timed = timings(specs, link, asked)
        show(name, course, timed, predicted, targets)
        results += against(name, asked.workers, course, timed)
        results += foretold(name, asked.workers, timed, predicted)
    print("\n" + "\n".join(map(str, results)))
    return 1 if any(result.met is False for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
