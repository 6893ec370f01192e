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
CAP = 5.0  # times the best: what is slower is no contender
BEHIND_DDP = 0.01
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
PREDICTED = {
    "ist": "IST, coordinator",
    "local_sgd": "Local SGD",
    "diloco": "DiLoCo",
    "ddp": "DDP",
}  # what direct hand-over predicts is "IST, direct"

DDP_STEPS = 20
"""DDP has no rounds: its rows are told in as many steps."""

IST = {"method": "ist", "step_size": 0.2, "n_steps": 100}
ROWS: Mapping[str, Mapping[str, Any]] = {
    "ist": IST,
    "ist bf16": {**IST, "wire": "bfloat16"},
    "ist churn 0.1": {**IST, "period": 10},
    "ist churn 0": {**IST, "period": None},
    "local_sgd": {"method": "local_sgd", "step_size": 0.1, "n_steps": 20},
    "local_sgd 50": {"method": "local_sgd", "step_size": 0.1, "n_steps": 50},
    "diloco": {"method": "diloco", "step_size": 0.1, "n_steps": 20},
    "ddp": {"method": "ddp", "step_size": 0.1, "n_steps": DDP_STEPS},
    "ddp_powersgd": {"method": "ddp_powersgd", "step_size": 0.1, "n_steps": DDP_STEPS},
}
"""The field. Direct hand-over and int8 are rows to add here, with a class in race_worker.py."""
AVERAGING = ("local_sgd", "local_sgd 50", "diloco")


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
    wire: float  # bytes through the busiest interface, in its busier direction

    @property
    def replay(self) -> float:
        """The round with one core for each worker, put together from its parts."""
        return self.compute_cpu + self.handling_cpu + self.exchange


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
    return Parts(wall, compute, handling, exchange, waiting, compute_cpu, handling_cpu, busiest)


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


def courses(names: Sequence[str], asked: argparse.Namespace) -> dict[str, Course]:
    """How each method learns, trained once over links that cost nothing."""
    shared = {
        "n_workers": asked.workers,
        "n_rounds": asked.rounds,
        "evaluate_every": asked.evaluate_every,
        "stop_at": asked.stop_at,
        "seed": asked.seed,
    }
    found = run_all(asked.workers, Link(), [{**ROWS[name], **shared} for name in names])
    return {name: Course(run[0]["accuracies"]) for name, run in zip(names, found, strict=True)}


def timings(names: Sequence[str], link: Link, asked: argparse.Namespace) -> dict[str, Parts]:
    """A round of each method over one link. DDP, which is slow, is timed over fewer steps."""
    specs = []
    for name in names:
        spec = {**ROWS[name], "n_workers": asked.workers, "n_rounds": asked.timed_rounds}
        if spec["method"].startswith("ddp"):
            spec["n_steps"] = asked.ddp_steps
        specs.append(spec)
    found = run_all(asked.workers, link, specs)
    measured = {}
    for name, spec, run in zip(names, specs, found, strict=True):
        scale = ROWS[name]["n_steps"] / spec["n_steps"]
        values = {key: value * scale for key, value in asdict(parts(run, spec)).items()}
        measured[name] = Parts(**values)
    return measured


def predictions(link: Link, asked: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cost model's rounds on this machine's cores, and with a core for each worker."""
    import torch

    from subnetwork import decompose
    from subnetwork.nets import MLP, initial_state
    from subnetwork.nets.architecture import runnable
    from subnetwork.runtime.calibration import calibrate, loopback, sizes
    from subnetwork.runtime.costs import Network, Setting, predict

    network = MLP(784, (1024, 1024), 10)
    model = runnable(network, initial_state(network, seed=0))
    plan = decompose(model, torch.rand(64, 784))
    wires = Network(link.rate, link.delay) if link.rate else loopback()
    entries, pace = sizes(plan, asked.workers), calibrate(plan, asked.workers, budget=3)
    here, alone = {}, {}
    for name, row in ROWS.items():
        if row["method"] not in PREDICTED:
            continue
        for into, cores in ((here, os.cpu_count()), (alone, None)):
            setting = Setting(
                asked.workers,
                row["n_steps"],
                row.get("wire", "float32"),
                row.get("period", 1),
                cores,
            )
            costs = predict(entries, pace, wires, setting)
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
        f"{'':<15}{'round':>9}{'compute':>9}{'handling':>9}{'exchange':>9}{'waiting':>9}"
        f"{'wire':>9}{'replay':>9}  {'predicted round':<17}{'predicted replay'}"
    )
    for name, part in timed.items():
        spans = (part.wall, part.compute, part.handling, part.exchange, part.waiting)
        line = f"{name:<15}" + "".join(f"{duration(span):>9}" for span in spans)
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
                print(f"{name:<15}> cap   not within its run: {course[name].best:.1%}")
                continue
            capped = "> cap " if times[name] > CAP * min(times.values()) else ""
            print(
                f"{name:<15}{capped}{duration(times[name])}, {duration(k * timed[name].replay)}, "
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
            ("fewer wire bytes than Local SGD / DiLoCo", AVERAGING, 100.0, wires),
            ("faster than DDP", ("ddp",), 20.0, spans),
            ("faster than DDP + PowerSGD", ("ddp_powersgd",), None, spans),
        ):
            yield Result(f"{tag} {what}", times(values, others), goal if goals else None)


def times(values: Mapping[str, float], others: Sequence[str]) -> float | None:
    """The least of the others' over the least of IST's; None where one of them is not there."""
    ist = [value for name, value in values.items() if name.startswith("ist")]
    theirs = [value for name, value in values.items() if name in others]
    return min(theirs) / min(ist) if ist and theirs else None


def foretold(
    link: str,
    n_workers: int,
    timed: Mapping[str, Parts],
    predicted: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Iterator[Result]:
    """By how much the cost model is off, of each method's round."""
    here, alone = predicted
    for name in [name for name in timed if name in here]:
        off = abs(here[name].seconds / timed[name].wall - 1)
        yield Result(f"{link}, {n_workers} workers: {name} predicted within", off, 0.2, False)
        off = abs(alone[name].seconds / timed[name].replay - 1)
        yield Result(f"{link}, {n_workers} workers: replay of {name} predicted within", off)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--links", nargs="+", default=LINKS, help="such as 100mbit, unthrottled")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--rounds", type=int, default=200, help="at most")
    parser.add_argument("--evaluate-every", type=int, default=1, help="rounds")
    parser.add_argument("--timed-rounds", type=int, default=8)
    parser.add_argument("--ddp-steps", type=int, default=5, help="steps of DDP in a timed round")
    parser.add_argument("--stop-at", type=float, default=1.0, help="accuracy that ends a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few rounds: a look, no result")
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.timed_rounds, asked.ddp_steps = 10, 3, 2
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
        course = courses(asked.rows, asked)
    except (CannotEmulateError, ValueError) as mistake:
        print(f"race: {mistake}", file=sys.stderr)
        return 2
    targets = {f"{target:.0%}": target for target in TARGETS}
    if "ddp" in course:
        targets["best DDP - 1 point"] = course["ddp"].best - BEHIND_DDP
    for name, of in course.items():
        print(f"{name:<15}" + " ".join(f"{k}:{a:.3f}" for k, a in of.accuracies))
    results: list[Result] = []
    for name, link in links.items():
        predicted = predictions(link, asked)
        timed = timings(asked.rows, link, asked)
        show(name, course, timed, predicted, targets)
        results += against(name, asked.workers, course, timed)
        results += foretold(name, asked.workers, timed, predicted)
    print("\n" + "\n".join(map(str, results)))
    return 1 if any(result.met is False for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
