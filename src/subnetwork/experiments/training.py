"""One training run as a stream of rows: what `train` and `demo` record and show."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from subnetwork.algorithm import DivergedError, Round, rounds
from subnetwork.methods.rows import Method, Task
from subnetwork.nets import ABSENT, ModelState, Submodel, recalibrate
from subnetwork.nets.architecture import runnable
from subnetwork.nets.calibrate import accuracy
from subnetwork.record import writing
from subnetwork.runtime import Fault, Seat, here, seated
from subnetwork.runtime.faults import telling


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a few rounds: a row for the record, and the merged model."""

    row: dict[str, Any]
    x: ModelState


def train(t: Task, method: Method, seats: Sequence[Seat] | None = None) -> Iterator[Progress]:
    """Run the method; yield about every `local_steps` local steps.

    Args:
        t: the task the method was made for.
        method: a row of the table of methods.
        seats: where the workers sit; None trains them one after another in this process, with the
            same result to the bit.

    Yields:
        Rows with `k`, `steps` and `samples` so far, the rounds' mean `loss`, test `accuracy` of
        the recalibrated merge, payload `bytes_down` and `bytes_up` per worker, `seconds`, and
        the `faults` of these rounds.
    """
    for ready in [seat.assign(t.run.to_json(), method.local) for seat in seats or ()]:
        ready()
    faults: list[Fault] = []
    work = here(method.local) if seats is None else seated(seats, report=telling(faults))
    started = time.perf_counter()
    run = rounds(
        method.x, method.sketch, work, method.merge, seed=method.seed, n_rounds=method.n_rounds
    )
    for done in _chunks(run, max(1, t.run.local_steps // method.steps_a_round)):
        last = done[-1]
        steps = min((last.k + 1) * method.steps_a_round, t.run.total_steps)
        losses = [z.loss for one in done for z in one.trained if z is not ABSENT]
        _check_finite(t.run.method, last, losses)
        row = {
            "k": last.k,
            "steps": steps,
            "samples": steps * t.run.batch_size * t.run.workers,
            "loss": sum(losses) / len(losses) if losses else None,
            "accuracy": accuracy(merged(t, last.x), t.data.test_inputs, t.data.test_targets),
            "bytes_down": _bytes([one.submodels for one in done]),
            "bytes_up": _bytes([one.trained for one in done]),
            "seconds": time.perf_counter() - started,
            "faults": [fault.to_row() for fault in faults],
        }
        faults.clear()
        yield Progress(row, last.x)


def record(
    folder: Path,
    t: Task,
    method: Method,
    seats: Sequence[Seat] | None,
    show: Callable[[Mapping[str, Any]], None],
) -> ModelState:
    """Run the method, write `folder`/METHOD.jsonl row by row, show every row; return the model."""
    x = method.x
    where = "this process" if seats is None else "processes"
    config = asdict(t.run) | {"where": where, "threads": torch.get_num_threads()}
    path = folder / f"{t.run.method}.jsonl"
    with writing(path, kind="train", name=t.run.method, config=config) as write:
        for progress in train(t, method, seats):
            write(progress.row)
            show(progress.row)
            x = progress.x
    return x


def merged(t: Task, x: ModelState) -> torch.nn.Module:
    """The plain module of a merged model, with batch statistics of all training rows."""
    return recalibrate(runnable(t.architecture, x), t.batches.stream)


def _check_finite(name: str, last: Round[ModelState, Submodel, Any], losses: list[float]) -> None:
    finite = all(bool(torch.isfinite(p).all()) for p in last.x.params.values())
    if not (finite and all(map(math.isfinite, losses))):
        raise DivergedError(
            f"{name} diverged: the model or the loss is no number any more after round {last.k}. "
            "Use a smaller --step-size."
        )


def _chunks(run: Iterable[Round[Any, Any, Any]], size: int) -> Iterator[list[Round[Any, Any, Any]]]:
    iterator = iter(run)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _bytes(sent: Sequence[Sequence[Submodel]]) -> list[int]:
    """Payload bytes of each worker, added up over rounds."""
    return [sum(w.n_bytes for w in of_worker) for of_worker in zip(*sent, strict=True)]
