"""The demo: four methods on one set of worker processes, two theorems, one folder of records."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import save

from subnetwork import record
from subnetwork.algorithm import rounds
from subnetwork.experiments import evidence, interpolation, neighbourhood
from subnetwork.experiments.outcome import Outcome, equal, verdict, write_claims
from subnetwork.experiments.resume import Edges
from subnetwork.experiments.training import merged
from subnetwork.experiments.training import record as record_training
from subnetwork.methods import Training
from subnetwork.methods.rows import Method, Task, method, task
from subnetwork.methods.worker import MODULE
from subnetwork.nets import MLP, ModelState
from subnetwork.nursery import Nursery
from subnetwork.runtime import Seat, here, launched
from subnetwork.runtime.memory import keep_memory
from subnetwork.theory.problems import breast_cancer

Show: TypeAlias = Callable[[str], AbstractContextManager[Callable[[Mapping[str, Any]], None]]]
"""name -> a context that yields what shows a row of a run."""

COMPARED = ("ist", "local_sgd", "diloco", "synchronous_sgd")
POINTS = 0.02  # of accuracy that IST may lose to synchronous SGD at equal samples


def run(
    folder: Path, base: Training, births: Nursery | None = None, *, show: Show
) -> list[Outcome]:
    """Train IST and three baselines on digits, run both theorems on breast_cancer.

    Args:
        folder: where the records and `model.safetensors` go.
        base: the run that all methods share but for their name.
        births: where worker processes come from; if left out, a nursery of their own.
        show: how progress is shown.

    Returns:
        What was claimed and measured, also written to `folder`/claims.jsonl.
    """
    keep_memory()
    torch.set_num_threads(1)
    tasks = {name: task(replace(base, method=name)) for name in COMPARED}
    methods = {name: method(t) for name, t in tasks.items()}
    with launched(base.workers, MODULE, births) as seats:
        models = {
            name: _train(folder, tasks[name], methods[name], seats, show) for name in COMPARED
        }
    (folder / "model.safetensors").write_bytes(
        save(merged(tasks["ist"], models["ist"]).state_dict())
    )
    _record_deal(folder, tasks["ist"], methods["ist"])
    outcomes = [
        *_of_training(folder),
        _same_bits(methods["ist"], models["ist"]),
        *_of_the_lab(folder, base.seed),
    ]
    write_claims(folder, outcomes, seed=base.seed)
    return outcomes


def _train(folder: Path, t: Task, row: Method, seats: Sequence[Seat], show: Show) -> ModelState:
    with show(t.run.method) as show_row:
        return record_training(folder, t, row, seats, Edges(show_row))


def _of_training(folder: Path) -> list[Outcome]:
    """What the records of the methods say, read back from them."""
    runs = {name: record.read(folder / f"{name}.jsonl") for name in COMPARED}
    final = {name: float(one.rows[-1]["accuracy"]) for name, one in runs.items()}
    payload = {
        name: sum(sum(row["bytes_down"]) + sum(row["bytes_up"]) for row in one.rows)
        for name, one in runs.items()
    }
    accuracy = Outcome(
        f"IST is at most {100 * POINTS:.0f} points of test accuracy below synchronous SGD at equal "
        "samples",
        "",
        final["ist"],
        final["synchronous_sgd"] - POINTS,
        verdict(final["ist"] >= final["synchronous_sgd"] - POINTS),
        unit="accuracy",
        record="ist",
    )
    n = int(runs["ist"].header["config"]["workers"])
    bytes_sent = Outcome(
        f"With {n} workers IST sends at most 1.1/{n} of the payload of Local SGD",
        "",
        payload["ist"] / payload["local_sgd"],
        1.1 / n,
        verdict(payload["ist"] <= 1.1 / n * payload["local_sgd"]),
        unit="of its bytes",
        record="ist",
    )
    return [accuracy, bytes_sent]


def _same_bits(row: Method, x: ModelState) -> Outcome:
    """Train once more in this process and compare with what the processes returned."""
    work = here(row.local)
    *_, last = rounds(row.x, row.sketch, work, row.merge, seed=row.seed, n_rounds=row.n_rounds)
    differing = sum(int((last.x.params[name] != p).sum()) for name, p in x.params.items())
    claim = "Entries of the IST model that differ between worker processes and one process"
    return replace(equal(claim, "", differing, 0, tolerance=0), unit="entries", record="ist")


def _of_the_lab(folder: Path, seed: int) -> list[Outcome]:
    problem = breast_cancer()
    outcomes: list[Outcome] = []
    for experiment in (interpolation, neighbourhood):
        found = experiment.run(problem, n_rounds=1000, seed=seed)
        evidence.write(folder, replace(found, config={**found.config, "problem": "breast_cancer"}))
        outcomes += found.outcomes
    return outcomes


def _record_deal(folder: Path, t: Task, row: Method) -> None:
    """Write down the deal of the first two rounds: what the page's pictures are drawn from."""
    assert isinstance(t.architecture, MLP)
    layers = [t.architecture.inputs, *t.architecture.hidden, t.architecture.outputs]
    sizes = t.architecture.layout.sizes
    config = {"layers": layers, "axes": list(sizes), "workers": t.run.workers, "seed": t.run.seed}
    with record.writing(folder / "deal.jsonl", kind="deal", name="deal", config=config) as write:
        for k in range(2):
            for axis, hands in row.sketch.sample(row.seed, k).hands.items():
                units = [hand.tolist() for hand in hands]
                write({"k": k, "axis": axis, "size": sizes[axis], "hands": units})
