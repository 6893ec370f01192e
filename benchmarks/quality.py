"""Accuracy of the methods at equal samples, equal bytes and equal FLOPs of a worker, in one table.

    python benchmarks/quality.py --only cora --out runs/quality --minutes 20

With --tried, IST is also run under other merges and deals, a row for each: what may help
where a goal was missed.

Every run is kept in quality_courses.jsonl beside this file when it ends and is never computed
twice: delete the file, or lines of it, when what they measured has changed. What is compared is
read off the runs' own courses: a baseline at equal bytes is its last round within those of IST.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subnetwork.deals import Bernoulli, Deal, Perm, Rolling, WarmUp
from subnetwork.experiments.training import train
from subnetwork.methods import Training
from subnetwork.methods.rows import Method, Task, method, task
from subnetwork.nets import Outer
from subnetwork.nets.architecture import runnable
from subnetwork.nets.data import GraphSet
from subnetwork.nets.table import cost
from subnetwork.nets.trace.tracer import Inputs
from subnetwork.runtime.direct import draws_of, route
from subnetwork.runtime.direct.counted import COUNTER
from subnetwork.runtime.direct.merging import Shared

Line = dict[str, Any]

COURSES = Path(__file__).with_name("quality_courses.jsonl")
FAMILY = ("ist", "scaled_ist", "lazy_ist")
BASELINES = ("local_sgd", "local_sgd_rare", "diloco")
ROWS = ("full", *BASELINES, *FAMILY, "never_dealt", "narrow")
WORDS = {
    "full": "full network, one worker, n times the batch",
    "local_sgd": "Local SGD",
    "local_sgd_rare": "Local SGD, n times the local steps",
    "diloco": "DiLoCo",
    "ist": "IST",
    "scaled_ist": "IST, scale inverted",
    "lazy_ist": "lazy IST",
    "resist": "IST by blocks (ResIST)",
    "never_dealt": "narrow networks, never re-dealt",
    "narrow": "one narrow network, alone",
    "outer": "IST, tried: an outer Nesterov step",
    "warm": "IST, tried: a tenth of the rounds by Local SGD first",
    "overlap": "IST, tried: everyone draws twice its share by itself",
    "rolling": "IST, tried: a rolling window, the same for all",
    "gentle": "IST, tried: scale inverted and dropout 0.2 in place of 0.5",
}
HANDED_OVER = (*FAMILY, "resist", "never_dealt")  # without a server
TRIED = ("outer", "warm", "overlap", "rolling", "gentle")
OURS = (*HANDED_OVER, *TRIED)


@dataclass(frozen=True)
class Section:
    """One data set with one network."""

    base: Training
    workers: tuple[int, ...]
    splits: tuple[str, ...] = ("iid", "dirichlet")
    rows: tuple[str, ...] = ROWS
    goals: tuple[float, ...] = ()  # the papers' own figures, for each number of workers
    source: str = ""
    seeds: int = 3  # at most: one where a run takes more than two minutes


CORA = Training(
    data="cora", model="gcn", hidden=(128,), norm="none", dropout=0.5, optimizer="adam",
    step_size=0.01, weight_decay=5e-4, local_steps=10, rounds=20, period=4,
)  # fmt: skip
TEXT = Training(
    data="tinyshakespeare", model="gpt", width=64, blocks=4, heads=4, optimizer="adamw",
    step_size=1e-3, batch_size=16, local_steps=20, rounds=10, axes=("*.heads", "*.hidden"),
    period=4,
)  # fmt: skip
PICTURES = Training(
    data="cifar10", model="resnet", width=16, blocks=2, step_size=0.1, momentum=0.9,
    local_steps=100, rounds=8, axes=("blocks.[0-9].channels",), period=4,
)  # fmt: skip
GIST = "GIST, Wolfe et al. 2021"
SECTIONS = {
    "cora": Section(CORA, (2, 4, 8), ("shared", "dirichlet"), ROWS, (80.8, 81.2, 79.6), GIST),
    "cora_sage": Section(replace(CORA, model="sage"), (2, 4, 8), ("shared", "dirichlet")),
    "citeseer": Section(replace(CORA, data="citeseer"), (2, 4, 8), ("shared", "dirichlet")),
    "citeseer_sage": Section(
        replace(CORA, data="citeseer", model="sage"), (2, 4, 8), ("shared", "dirichlet")
    ),
    "physics": Section(
        replace(CORA, data="coauthor_physics", hidden=(64,), rounds=10),
        (2, 4, 8),
        ("shared", "dirichlet"),
    ),
    "physics_sage": Section(
        replace(CORA, data="coauthor_physics", model="sage", hidden=(64,), rounds=10),
        (2, 4, 8),
        ("shared", "dirichlet"),
    ),
    "fashion": Section(
        Training(data="fashion_mnist", hidden=(512,), step_size=0.1, local_steps=50, period=4), (4,)
    ),
    "cifar10": Section(PICTURES, (2, 4), rows=(*ROWS, "resist"), seeds=1),
    "shakespeare": Section(TEXT, (2,), ("iid",), (*ROWS, "resist")),
}


def run_of(section: Section, row: str, n: int, split: str, seed: int) -> Training:
    """The run of a row: every worker takes the same local steps in all of them."""
    base = replace(section.base, workers=n, split=split, seed=seed)
    alone = replace(base, workers=1, split="shared" if split == "shared" else "iid")
    run = replace(base, method="ist" if row in TRIED else row)
    match row:
        case "full":
            run = replace(alone, method="local_sgd", batch_size=n * base.batch_size)
        case "narrow":
            run = replace(alone, method="narrow", share=n)
        case "local_sgd_rare":
            rare = base.local_steps * n
            run = replace(base, method="local_sgd", local_steps=rare, steps=base.total_steps)
        case "scaled_ist":
            run = replace(base, method="ist", scale="inverted")
        case "gentle":
            run = replace(base, method="ist", scale="inverted", dropout=0.2)
        case "resist":
            run = replace(base, method="resist", axes=())
    return run


def method_of(name: str, t: Task) -> Method:
    """What a row trains by."""
    row, n = method(t), t.run.workers
    match name:
        case "outer":
            return replace(row, merge=Outer(t.run.outer_step_size, t.run.outer_momentum))
        case "warm":
            return _dealt(row, WarmUp(max(1, row.n_rounds // 10), Perm(n)))
        case "overlap":
            return _dealt(row, Bernoulli(n, min(0.75, 2 / n)))
        case "rolling":
            return _dealt(row, Rolling((1 / n,) * n))
    return row


def _dealt(row: Method, deal: Deal) -> Method:
    return replace(row, sketch=replace(row.sketch, deal=deal))


@dataclass(frozen=True)
class Course:
    """What a run had sent and computed, by worker, and how good it was then: a point a row."""

    sent: tuple[float, ...]  # bytes of the busiest worker, both ways
    work: tuple[float, ...]  # FLOPs
    accuracy: tuple[float, ...]


def course_of(name: str, run: Training) -> Course:
    """Train, and follow it."""
    t = task(run)
    row = method_of(name, t)
    w = row.sketch.sample(row.seed, 0).select(row.x, 0)
    cost_of_step = step_cost(t, runnable(row.local.architecture, w))
    sent, points = 0, []
    for progress in train(t, row):
        sent += max(progress.row["bytes_down"]) + max(progress.row["bytes_up"])
        work = cost_of_step * progress.row["steps"]
        points.append((sent, work, progress.row["accuracy"]))
    course = Course(*zip(*points, strict=True))
    spoken = handed_over(row) if name in HANDED_OVER else course.sent
    return replace(course, sent=spoken if run.workers > 1 else (0.0,) * len(points))


def handed_over(row: Method) -> tuple[float, ...]:
    """Bytes of the busiest worker, sent and received, up to the end of each round, handed directly.

    The first parts are drawn by everyone from the seed; a point holds each worker's share of the
    model once, as if it were drawn together there.
    """
    n = row.sketch.sample(row.seed, 0).n_workers
    draws = draws_of(row.sketch, row.x.params, row.seed, moments=row.moments)
    planes = 1 + len([m for m in row.moments if m != COUNTER])
    share = sum(p.numel() * p.element_size() for p in row.x.params.values()) / n
    total, course = np.zeros(n), [share]
    for k in range(row.n_rounds - 1):
        for name, p in draws.like.items():
            each = draws.grids[name].length * p.element_size() * (1 if "::" in name else planes)
            lines = np.array([route(draws, name, k, i).arriving for i in range(n)])
            shared = [Shared.of(draws, name, k, i) for i in range(n)]  # their changes are merged
            lines += np.array([[len(of.for_keeper(j)) for of in shared] for j in range(n)])
            total += each * (lines.sum(axis=0) + lines.sum(axis=1))
        course.append(float(total.max()) + share)
    return tuple(course)


def key_of(name: str, run: Training) -> str:
    """A name made of all that a run depends on but the code."""
    said = {f.name: getattr(run, f.name) for f in fields(run) if getattr(run, f.name) != f.default}
    text = json.dumps(said, sort_keys=True) + (name if name in TRIED else "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kept_courses(path: Path) -> dict[str, Course]:
    """Key -> course, of all runs that were computed before."""
    if not path.exists():
        return {}
    whole = path.read_text().rpartition("\n")[0]  # a run that was cut off may have left half a line
    lines = [json.loads(line) for line in whole.splitlines()]
    return {line["key"]: Course(*map(tuple, line["course"])) for line in lines}


def keep(path: Path, name: str, run: Training, course: Course) -> None:
    """Add one run."""
    line = {"key": key_of(name, run), "row": name, "data": run.data, "model": run.model}
    line |= {"workers": run.workers, "split": run.split, "seed": run.seed}
    line["course"] = [course.sent, course.work, course.accuracy]
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def step_cost(t: Task, module: torch.nn.Module) -> int:
    """FLOPs of a worker's forward pass; of a graph network its parameters, which they follow.

    (Sparse products are not counted by torch; they are linear in the units, as parameters are.)
    """
    if isinstance(t.data, GraphSet):
        return sum(p.numel() for p in module.parameters())
    return cost(module, Inputs.of(t.batches.batch(0, 0)[0])).flops


def within(course: Course, key: str, budget: float) -> float | None:
    """Accuracy of the last point whose `key` is within the budget."""
    spent = getattr(course, key)
    held = [a for a, b in zip(course.accuracy, spent, strict=True) if b <= budget * (1 + 1e-9)]
    return held[-1] if held else None


def units(
    names: list[str], seeds: int, tried: tuple[str, ...]
) -> Iterator[tuple[str, int, str, str, int]]:
    """(section, workers, split, row, seed), the first seed of everything first.

    What may help where a goal was missed is tried with the first seed only.
    """
    for seed in range(seeds):
        for name in [name for name in names if seed < SECTIONS[name].seeds]:
            section = SECTIONS[name]
            fitting = [row for row in tried if row != "gentle" or section.base.dropout]
            rows = (*section.rows, *fitting) if seed == 0 else section.rows
            for split, n, row in product(section.splits, section.workers, rows):
                yield name, n, split, row, seed


def summary(values: list[float | None]) -> dict[str, float] | None:
    """Mean and largest distance from it, in percent; None where a run has nothing to show."""
    held = [100 * v for v in values if v is not None]
    if not held or len(held) < len(values):
        return None
    mean = statistics.mean(held)
    return {"mean": mean, "spread": max(abs(v - mean) for v in held), "runs": len(held)}


def compared(courses: dict[str, dict[int, Course]]) -> list[Line]:
    """One line a row: at equal samples; of the baselines, within bytes and work of each of ours."""
    table = []
    for row, held in courses.items():
        line: Line = {
            "row": row,
            "samples": summary([course.accuracy[-1] for course in held.values()]),
            "megabytes": statistics.mean(course.sent[-1] for course in held.values()) / 1e6,
            "work": statistics.mean(course.work[-1] for course in held.values()),
        }
        if row in OURS:
            for key in ("sent", "work"):
                beside = [_best_within(courses, held, key, rows) for rows in BASELINES]
                line[f"beside_{key}"] = min(
                    (b for b in beside if b), key=lambda b: b["lead"], default=None
                )
        table.append(line)
    return table


def _best_within(
    courses: dict[str, dict[int, Course]], ours: dict[int, Course], key: str, row: str
) -> dict[str, float] | None:
    """How good a baseline is within what ours took, and by how much ours leads.

    Over the seeds that both were run with; None without any, or where the baseline had no point.
    """
    others = courses.get(row, {})
    both = [seed for seed in ours if seed in others]
    found = summary([within(others[seed], key, getattr(ours[seed], key)[-1]) for seed in both])
    own = summary([ours[seed].accuracy[-1] for seed in both])
    return found and own and found | {"lead": own["mean"] - found["mean"]}


def goals(where: str, table: list[Line], paper: float | None) -> list[Line]:
    """The goals of one table, met or not."""
    found = []
    ran = {line["row"] for line in table}
    for key, words in (("sent", "bytes"), ("work", "worker-FLOPs")):
        leads = [
            (line[f"beside_{key}"]["lead"], line)
            for line in table
            if line["row"] in (*FAMILY, "resist") and line[f"beside_{key}"]
        ]
        if leads and ran.issuperset(BASELINES):  # beside nobody nothing is won
            lead, line = max(leads, key=lambda of: of[0])
            name = f"{where}: lead of {WORDS[line['row']]} at its own {words}, points"
            found.append({"name": name, "value": round(lead, 2), "goal": 0.0, "met": lead > 0})
    ist = [line["samples"] for line in table if line["row"] == "ist"]
    if paper is not None and ist and ist[0]:
        name = f"{where}: IST at least the paper's own"
        value = ist[0]["mean"]
        found.append({"name": name, "value": value, "goal": paper, "met": value >= paper})
    return found


def shown(cell: object) -> str:
    """A cell of the table."""
    if not isinstance(cell, dict):
        return "-"
    spread = f" ± {cell['spread']:.1f}" if cell["runs"] > 1 else ""
    return f"{cell['mean']:.1f}{spread}"


def markdown(where: str, table: list[Line], paper: str) -> str:
    """One table of the page."""
    best = "best baseline within these"
    head = f"| row | accuracy | MB a worker | {best} | GFLOPs | {best} | runs |"
    lines = [f"## {where}", "", *([paper, ""] if paper else []), head, "|---" * 7 + "|"]
    for line in table:
        runs = line["samples"]["runs"] if isinstance(line["samples"], dict) else 0
        cells = [WORDS[line["row"]], shown(line["samples"]), f"{line['megabytes']:.2f}"]
        cells += [shown(line.get("beside_sent")), f"{line['work'] / 1e9:.4g}"]
        cells += [shown(line.get("beside_work")), str(runs)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def verdict(goal: Line) -> str:
    """What became of a goal, in words."""
    words = "no goal" if goal["met"] is None else "met" if goal["met"] else "missed"
    return f"{goal['value']:.4g} (goal {goal['goal']:.4g}: {words})"


def main() -> int:
    """Run what is asked for, within the minutes; write the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--minutes", type=float, default=60, help="no run is started after these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", help="only these numbers of workers")
    parser.add_argument("--splits", nargs="+", help="only these splits")
    parser.add_argument("--rows", nargs="+", choices=WORDS, help="only these rows")
    parser.add_argument("--tried", action="store_true", help="other merges and deals too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    began, left_out, kept = time.monotonic(), 0, kept_courses(COURSES)
    found: dict[tuple[str, int, str], dict[str, dict[int, Course]]] = {}
    for name, n, split, row, seed in units(args.only, args.seeds, TRIED if args.tried else ()):
        asked = ((n, args.workers), (split, args.splits), (row, args.rows))
        if any(only and one not in only for one, only in asked):
            continue
        run = run_of(SECTIONS[name], row, n, split, seed)
        course = kept.get(key_of(row, run))
        if course is None:
            if time.monotonic() - began > 60 * args.minutes:
                left_out += row not in TRIED  # which are run where a goal was missed
                continue
            course = course_of(row, run)
            keep(COURSES, row, run, course)
        found.setdefault((name, n, split), {}).setdefault(row, {})[seed] = course
        last = 100 * course.accuracy[-1]
        print(f"{name} n={n} {split} seed {seed} {row}: {last:.1f} %", flush=True)
    pages, results, data = [], [], {}
    for (name, n, split), courses in found.items():
        section, where = SECTIONS[name], f"{name}, {n} workers, {split}"
        table = compared(courses)
        own = dict(zip(section.workers, section.goals, strict=False)).get(n)
        paper = own if split in ("iid", "shared") else None
        note = f"The paper's own figure: {paper} % ({section.source})." if paper else ""
        judged = goals(where, table, paper)
        said = [f"- {g['name'].removeprefix(where + ': ')}: {verdict(g)}" for g in judged]
        pages.append("\n".join([markdown(where, table, note), *said, ""]))
        results += judged
        data[where] = table
    note = f"{left_out} of the runs that were asked for are not there.\n" if left_out else ""
    (args.out / "quality.md").write_text(f"# Quality\n\n{note}\n" + "\n".join(pages))
    (args.out / "quality.json").write_text(
        json.dumps({"tables": data, "results": results}, indent=1)
    )
    print("\n".join(pages))
    print(note)
    for result in results:
        print("RESULT", json.dumps(result))
    return 0 if all(result["met"] is not False for result in results) else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
