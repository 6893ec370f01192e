"""Who is first at an accuracy, over which link: IST, Local SGD, DiLoCo, DDP, DDP with PowerSGD.

    python benchmarks/race.py [--network mlp] [--workers 4] [--links 100mbit unthrottled] [--quick]

Real processes in hosts of their own (net.py). See README.md beside this file for what is measured;
what is raced stands in race_field.py, how it is timed in race_timing.py, one worker in
race_worker.py.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from net import CannotEmulateError, Link
from race_field import (
    AVERAGING,
    CACHE,
    FIELDS,
    IST,
    ROWS,
    Course,
    Learning,
    Target,
    mean_rounds,
)
from race_parts import Parts
from race_timing import (
    PREDICTED,
    Offs,
    Predictions,
    Timed,
    foretold,
    kept,
    measured,
    offs,
    time_rounds,
)

from subnetwork.cli.quantities import bits_per_second, duration, n_bytes
from subnetwork.runtime.measured import cores

UNTHROTTLED = "unthrottled"
LINKS = ["100mbit", UNTHROTTLED, "10mbit", "1gbit"]
NO_DATA = "race: the data are read from the folder that SUBNETWORK_DATA names; set it."
CAP = 5.0  # times the best: what is slower is no contender
EARLY = "before lazy deals and wires"
EVEN = 0.1  # predicted or measured times that differ by less are told apart by nobody

Courses = Mapping[str, Sequence[Course]]


def show(link: str, timed: Mapping[str, Parts], predicted: Predictions, off: Offs) -> None:
    """What a round over a link is made of, beside what was predicted."""
    print(f"\n{link}: a round, in the middle of all passes")
    print(
        f"{'':<25}{'round':>9}{'compute':>9}{'handling':>9}{'exchange':>9}{'waiting':>9}"
        f"{'wire':>9}{'replay':>9}  {'predicted round':<17}{'predicted replay':<18}"
        "of the round: compute, handling, exchange"
    )
    for name, part in timed.items():
        spans = (part.wall, part.compute, part.handling, part.exchange, part.waiting)
        line = f"{name:<25}" + "".join(f"{duration(span):>9}" for span in spans)
        line += f"{n_bytes(part.wire):>9}{duration(part.replay):>9}  "
        for of, by_pass in zip(predicted, off, strict=True):
            if name in of:
                told = f"{duration(of[name].seconds)} ({median(by_pass[name]) - 1:+.0%})"
                line += f"{told:<17}"
        if name in predicted[0]:
            of = predicted[0][name]
            spans = (of.compute, of.handling, of.exchange)
            line += " " + ", ".join(map(duration, spans))
        print(line)


def show_target(link: str, target: Target, course: Courses, timed: Mapping[str, Parts]) -> None:
    """Time and bytes of every row to one accuracy."""
    levels = ", ".join(f"{level:.1%}" for level in sorted(set(target.of_seed)))
    n = len(target.of_seed)
    means = f"; means over {n} seeds, rounds of each" if n > 1 else ""
    print(f"\n{link}: to {target.name} ({levels})   time, replay with a core each, wire{means}")
    rounds = {name: target.rounds(course[name]) for name in timed}
    times = {name: mean(ks) * timed[name].wall for name, ks in rounds.items() if ks}
    for name, ks in rounds.items():
        if not ks:
            best = min(of.best for of in course[name])
            print(f"{name:<25}> cap   not within its run: {best:.1%}")
            continue
        capped, k = "> cap " if times[name] > CAP * min(times.values()) else "", mean(ks)
        print(
            f"{name:<25}{capped}{duration(times[name])}, {duration(k * timed[name].replay)}, "
            f"{n_bytes(k * timed[name].wire)} in {', '.join(map(str, ks))} rounds"
        )


def show_gaps(course: Courses) -> None:
    """How good every row became, beside DDP."""
    print("\nbest accuracy within the run, mean over seeds, and its gap to DDP's")
    best = {name: mean(of.best for of in found) for name, found in course.items()}
    for name, accuracy in best.items():
        gap = f"  {100 * (accuracy - best['ddp']):+.2f} points" if "ddp" in best else ""
        print(f"{name:<25}{accuracy:.2%}{gap}")


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
    link: str,
    asked: argparse.Namespace,
    targets: Sequence[Target],
    course: Courses,
    timed: Mapping[str, Parts],
) -> Iterator[Result]:
    """How many times faster, and in how many fewer bytes, the best IST is at each target.

    Of IST count rows that exchange. Rows of others that do not come to it within their run count
    with all of it: at least so many.
    """
    levels = FIELDS[asked.network].targets
    raced = asked.network == "mlp" and link == "100mbit" and asked.workers == 4
    for target in targets:
        rounds = {name: mean_rounds(target, course[name]) for name in timed}
        for name in [name for name in timed if ROWS[name]["method"] not in IST]:
            rounds[name] = rounds[name] or mean(of.last for of in course[name])
        spans = {name: k * timed[name].wall for name, k in rounds.items() if k}
        wires = {name: k * timed[name].wire for name, k in rounds.items() if k}
        first = raced and target.name == f"{levels[0]:.0%}"
        last = raced and target.name == f"{levels[-1]:.0%}"
        tag = f"{asked.network}, {link}, {asked.workers} workers, to {target.name}: best IST, times"
        early = {name: wire for name, wire in wires.items() if not is_lazy_or_rounded(name)}
        for what, others, goal, values in (
            ("faster than Local SGD / DiLoCo", AVERAGING, 2.5 if first else 1.0 * last, spans),
            ("fewer wire bytes than Local SGD", ("local_sgd",), 100.0 * first, wires),
            (f"fewer wire bytes than Local SGD, {EARLY}", ("local_sgd",), 10.0 * first, early),
            ("fewer wire bytes than Local SGD / DiLoCo", AVERAGING, 0, wires),
            ("faster than DDP", ("ddp",), 20.0 * first, spans),
            ("faster than DDP + PowerSGD", ("ddp_powersgd",), 0, spans),
        ):
            yield Result(f"{tag} {what}", times(values, others), goal or None)


def is_lazy_or_rounded(name: str) -> bool:
    """Whether a row of IST deals few units anew, or sends less than float32."""
    return name.startswith("ist") and bool({"period", "wire"} & set(ROWS[name]))


def exchanges(name: str) -> bool:
    """Whether units are dealt anew; else, with churn 0, narrow networks are merged at the end."""
    return ROWS[name].get("period", 1) is not None


def times(values: Mapping[str, float], others: Sequence[str]) -> float | None:
    """The least of the others' over the least of IST that exchanges; None where one is missing."""
    ist = [of for name, of in values.items() if name.startswith("ist") and exchanges(name)]
    theirs = [value for name, value in values.items() if ROWS[name]["method"] in others]
    return min(theirs) / min(ist) if ist and theirs else None


def told_beforehand(
    link: str,
    asked: argparse.Namespace,
    targets: Sequence[Target],
    course: Courses,
    timed: Mapping[str, Parts],
    predicted: Predictions,
) -> Iterator[Result]:
    """Whether the predicted rounds have the same winner as the measured ones: IST, or another."""
    for target in targets:
        rounds = {name: mean_rounds(target, course[name]) for name in predicted[0]}
        known = {name: k for name, k in rounds.items() if k}
        others = tuple(PREDICTED)[2:]
        measured = times({name: k * timed[name].wall for name, k in known.items()}, others)
        told = times({name: k * predicted[0][name].seconds for name, k in known.items()}, others)
        if measured is None or told is None:
            continue
        even = max(abs(measured - 1), abs(told - 1)) < EVEN
        tag = f"{asked.network}, {link}, {asked.workers} workers, to {target.name}"
        print(f"{tag}: IST {told:.2f} times as fast as the others by the model, {measured:.2f} so")
        right = even or (measured > 1) == (told > 1)
        yield Result(f"{tag}: the model names who is faster", float(right), 1.0)


def ratios_foretold(link: str, asked: argparse.Namespace, off: Offs) -> Iterator[Result]:
    """How far the predicted ratio of the seconds of a local step, others over IST, is off.

    The ratio within each pass, and the middle of passes.
    """
    for kind, of in zip(("on this machine", "with a core each"), off, strict=True):
        for family in ("ddp", "local_sgd", "diloco"):
            theirs = [name for name in of if ROWS[name]["method"] == family]
            for ist in [name for name in of if name.startswith("ist")]:
                ratios = [
                    median(a / b for a, b in zip(of[other], of[ist], strict=True)) - 1
                    for other in theirs
                ]
                if ratios:
                    tag = f"{asked.network}, {link}, {asked.workers} workers, {kind}"
                    tag += f": {family} / {ist}, prediction off"
                    yield Result(tag, abs(max(ratios, key=abs)), 0.2, False)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="mlp", choices=list(FIELDS))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--links", nargs="+", default=LINKS, help="such as 100mbit, unthrottled")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), help="all, if left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="step sizes by the first")
    parser.add_argument("--most-steps", type=int, help="local steps that no row goes beyond")
    parser.add_argument("--only-learn", action="store_true", help="fill the cache, time nothing")
    parser.add_argument("--cache", type=Path, default=CACHE, help="courses that were learned")
    parser.add_argument("--passes", type=int, default=3, help="over all rows")
    parser.add_argument("--timed-rounds", type=int, default=2, help="of a row in each pass")
    parser.add_argument("--ddp-steps", type=int, default=5, help="steps of DDP in a timed round")
    parser.add_argument("--stop-at", type=float, default=1.0, help="accuracy that ends a run")
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--keep", type=Path, help="new file for all that is timed, as JSON lines")
    files.add_argument("--kept", type=Path, help="such a file: print what it says, time nothing")
    parser.add_argument("--quick", action="store_true", help="few rounds: a look, no result")
    asked = parser.parse_args()
    if min(asked.timed_rounds, asked.passes) < 1:
        parser.error("--timed-rounds and --passes are 1 or more")
    of = FIELDS[asked.network]
    asked.rows = asked.rows or [name for name in ROWS if name not in of.without]
    if asked.quick:
        asked.timed_rounds, asked.passes = 1, 1
        asked.ddp_steps, asked.stop_at = 2, of.targets[0]
    return asked


def fields(asked: argparse.Namespace) -> dict[str, Link]:
    """The links, by name; what cannot be is refused before anything takes time.

    Raises:
        ValueError: a link that is none, or a file that is there.
    """
    if asked.keep:
        if asked.keep.exists() and asked.keep.stat().st_size:
            raise ValueError(f"--keep {asked.keep} is there already. Name a new file.")
        asked.keep.touch()
    return {
        name: Link() if name == UNTHROTTLED else Link(bits_per_second(name)) for name in asked.links
    }


def timings(
    asked: argparse.Namespace, links: Mapping[str, Link], rows: Mapping[str, Mapping[str, Any]]
) -> Iterator[Timed]:
    """What is timed over one link after the other."""
    for name, link in links.items():
        begun = Timed(
            *(name, link.rate, link.delay, asked.network, asked.workers, cores(), rows),
            *(asked.ddp_steps, asked.passes),
        )
        yield time_rounds(begun, asked.timed_rounds, asked.keep)


def same_race(
    asked: argparse.Namespace, found: Sequence[Timed], rows: Mapping[str, Mapping[str, Any]]
) -> Sequence[Timed]:
    """What a file has, if it is of what is asked for.

    Raises:
        ValueError: it is of another race.
    """
    for timed in found:
        if (timed.network, timed.workers) != (asked.network, asked.workers):
            raise ValueError(
                f"{asked.kept} is of --network {timed.network} --workers {timed.workers}. Ask for "
                "these."
            )
        other = [name for name in {**rows, **timed.rows} if rows.get(name) != timed.rows.get(name)]
        if other:
            raise ValueError(
                f"{asked.kept} has other rows, such as {other[0]!r}. Ask for its own: --rows "
                + " ".join(map(repr, timed.rows))
            )
    return found


def main() -> int:
    """Learn once, time over every link, print; 1 if a goal is missed."""
    asked = read_arguments()
    if not os.environ.get("SUBNETWORK_DATA"):
        print(NO_DATA, file=sys.stderr)
        return 2
    wanted = (asked.network, asked.workers, asked.rows, asked.seeds)
    learning = Learning(*wanted, asked.most_steps, asked.stop_at, asked.cache)
    results: list[Result] = []
    try:
        links, before = fields(asked), kept(asked.kept) if asked.kept else None
        specs = learning.specified()
        course = learning.courses(specs)
        show_gaps(course)
        if asked.only_learn:
            return 0
        targets = learning.targets(course)
        every = timings(asked, links, specs) if before is None else same_race(asked, before, specs)
        for timed in every:
            results += judged(asked, targets, course, timed)
    except (CannotEmulateError, ValueError, OSError, RuntimeError) as mistake:
        print(f"race: {mistake}", file=sys.stderr)
        return 2
    finally:  # also those of links before one that failed
        print("\n" + "\n".join(map(str, results)) if results else "")
    return 1 if any(result.met is False for result in results) else 0


def judged(
    asked: argparse.Namespace, targets: Sequence[Target], course: Courses, timed: Timed
) -> list[Result]:
    """Print what was timed over a link; what it comes to."""
    parts, predicted, off, link = measured(timed), foretold(timed), offs(timed), timed.link
    show(link, parts, predicted, off)
    for target in targets:
        show_target(link, target, course, parts)
    return [
        *against(link, asked, targets, course, parts),
        *told_beforehand(link, asked, targets, course, parts, predicted),
        *ratios_foretold(link, asked, off),
    ]


if __name__ == "__main__":
    sys.exit(main())
