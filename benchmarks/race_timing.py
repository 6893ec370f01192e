"""The rounds of `race.py` over one link: timed, played again, and foretold by the cost model."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from net import Link
from race_field import IST, ROWS, run_all
from race_parts import Parts, Run, fastest, parts, sleeps
from race_run import NETWORKS

from subnetwork import decompose
from subnetwork.deals import Lazy, Perm
from subnetwork.methods import Training
from subnetwork.methods.rows import task
from subnetwork.nets import SGD, AdamW
from subnetwork.nets.architecture import runnable
from subnetwork.nets.data.batches import Feed
from subnetwork.nets.plan import Plan
from subnetwork.runtime.calibration import STILL, calibrate, loopback, sizes
from subnetwork.runtime.costs import Network, Setting, predict
from subnetwork.runtime.measured import cores

PREDICTED = {
    "ist": "IST, coordinator",
    "ist_direct": "IST, direct",
    "local_sgd": "Local SGD",
    "diloco": "DiLoCo",
    "ddp": "DDP",
}
"""The cost model's name of a method."""
Predictions = tuple[Mapping[str, Any], Mapping[str, Any]]
"""By the cores of this machine, and with a core for each worker."""


def timings(
    rows: Mapping[str, Mapping[str, Any]], link: Link, asked: argparse.Namespace
) -> tuple[dict[str, Parts], Predictions]:
    """A round of each row over one link, and what the cost model foretells of it.

    DDP, which is slow, is timed over fewer steps. All rows take a part of their rounds, in passes,
    every other one the other way round, and what a step takes is measured before, between and
    after. What else a machine does only adds time: a row's fastest pass counts, and the fastest
    of what was foretold of it. Then, where workers share cores, those that do not communicate in
    their steps once more, asleep in place of computing.
    """
    specs = []
    for row in rows.values():
        spec = {**row, "n_workers": asked.workers}
        if spec["method"].startswith("ddp"):
            spec["n_steps"] = asked.ddp_steps
        specs.append(spec)
    n_rounds = 1 + math.ceil(asked.timed_rounds / asked.passes)  # the first one warms up
    found: list[list[Run]] = [[] for _ in specs]
    foretold = [predictions(link, asked)]
    for number in range(asked.passes):
        order = -1 if number % 2 else 1
        these = [{**spec, "n_rounds": n_rounds} for spec in specs[::order]]
        for runs, run in zip(found, warmed(asked.workers, link, these)[::order], strict=True):
            runs.append(run)
        foretold.append(predictions(link, asked))
    best = [fastest(runs) for runs in found]
    again = replayed(specs, best, link, asked) if link.rate and asked.workers > cores() else {}
    measured = {}
    for i, (name, spec, run) in enumerate(zip(rows, specs, best, strict=True)):
        scale = rows[name]["n_steps"] / spec["n_steps"]
        taken = asdict(parts(run, spec, asleep=again.get(i), limited=link.rate is not None))
        kept = {key: taken.pop(key) for key in ("limited", "alone", "slept")}
        scaled = {key: value * scale for key, value in taken.items()}
        measured[name] = Parts(**scaled, **kept)
    if asked.keep:
        passes = dict(zip(rows, found, strict=True))
        keep(asked.keep, link, passes, foretold, {list(rows)[i]: run for i, run in again.items()})
    return measured, least_of(foretold)


def keep(
    path: Path,
    link: Link,
    found: Mapping[str, Sequence[Run]],
    foretold: Sequence[Predictions],
    again: Mapping[str, Run],
) -> None:
    """Add a line of JSON: what workers wrote of every pass and replay, what was foretold."""
    told = [[{name: asdict(cost) for name, cost in of.items()} for of in both] for both in foretold]
    line = {"rate": link.rate, "passes": found, "foretold": told, "replayed": again}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def replayed(
    specs: Sequence[Mapping[str, Any]],
    found: Sequence[Run],
    link: Link,
    asked: argparse.Namespace,
) -> dict[int, Run]:
    """Of the rows that can be: what workers wrote that slept as long as computing took."""
    able = {
        i: {**spec, "asleep": sleeps(run), "n_rounds": 1 + asked.timed_rounds}
        for i, (spec, run) in enumerate(zip(specs, found, strict=True))
        if not spec["method"].startswith("ddp")
    }
    return dict(zip(able, warmed(asked.workers, link, list(able.values())), strict=True))


def warmed(n_workers: int, link: Link, specs: Sequence[Mapping[str, Any]]) -> list[Run]:
    """As `run_all`, of processes that have been through every method, but for DDP, before.

    Else what a process does once would be taken for the first row's: modules and first memory.
    """
    once = {"n_steps": 1, "n_rounds": 2, "asleep": ()}
    first = {spec["method"]: {**spec, **once} for spec in specs}
    warm = [spec for method, spec in first.items() if not method.startswith("ddp")]
    return run_all(n_workers, link, [*warm, *specs])[len(warm) :]


def planned(training: Training, n_workers: int) -> tuple[Plan, Feed]:
    """The cut of what is trained, with one of its batches as the example; and all of them."""
    t = task(replace(training, workers=n_workers))
    model = runnable(t.architecture, t.start())
    inputs, _ = t.batches.batch(0, 0)
    return decompose(model, inputs, width=training.axes or None), t.batches


def predictions(link: Link, asked: argparse.Namespace) -> Predictions:
    """The cost model's rounds on this machine's cores, and with a core for each worker.

    Steps are measured once for all deals and wires, which differ in their hand-over alone.
    """
    training = NETWORKS[asked.network]
    (plan, feed), n = planned(training, asked.workers), asked.workers
    wires = Network(link.rate, link.delay) if link.rate else loopback()
    here, alone, paces = {}, {}, {}
    for name, row in ((name, ROWS[name]) for name in asked.rows):
        if row["method"] not in PREDICTED:
            continue
        period, wire = row.get("period", 1), row.get("wire", "float32")
        outer = row.get("outer", False)
        adam = training.optimizer == "adamw" and row.get("state") != "reset"
        steps = AdamW(STILL) if adam else SGD(STILL)
        measure = partial(calibrate, plan, n, optimizer=steps, beside=n - 1, batches=feed)
        if adam not in paces:
            paces[adam] = measure(budget=4)
        pace = paces[adam]
        if row["method"] in IST and (period, wire, outer) != (1, "float32", False):
            deal = Perm(n) if period == 1 else Lazy(n, period)
            kind = (adam, period, wire, outer)
            if kind not in paces:
                paces[kind] = measure(budget=1, deal=deal, wire=wire, outer=outer)
            pace = replace(pace, direct=paces[kind].direct, handling=paces[kind].handling)
        entries = sizes(plan, n, moments=2 if adam else 0)
        for into, shared in ((here, cores()), (alone, None)):
            setting = Setting(n, row["n_steps"], wire, period, shared, outer=outer)
            costs = predict(entries, pace, wires, setting)
            into[name] = costs[PREDICTED[row["method"]]]
    return here, alone


def least_of(foretold: Sequence[Predictions]) -> Predictions:
    """The fastest round of each method that was foretold from several calibrations."""
    return tuple(  # type: ignore[return-value]
        {
            name: min((each[name] for each in those), key=lambda cost: cost.seconds)
            for name in those[0]
        }
        for those in zip(*foretold, strict=True)
    )
