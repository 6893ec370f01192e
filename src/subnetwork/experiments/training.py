"""One training run as a stream of rows: what `train` and `demo` record and show."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from subnetwork.algorithm import DivergedError, Round, WorkerLostError, rounds
from subnetwork.experiments.resume import Keeper, Start
from subnetwork.methods.rows import Method, Task
from subnetwork.nets import ABSENT, ModelState, Submodel, recalibrate
from subnetwork.nets.architecture import runnable
from subnetwork.record import Row, read, writing
from subnetwork.runtime import Fault, Seat, here, seated
from subnetwork.runtime.faults import telling


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a few rounds: a row for the record, and the merged model."""

    row: dict[str, Any]
    x: ModelState


def train(
    t: Task, method: Method, seats: Sequence[Seat] | None = None, start: Start | None = None
) -> Iterator[Progress]:
    """Run the method; yield about every `local_steps` local steps.

    Args:
        t: the task the method was made for.
        method: a row of the table of methods.
        seats: where the workers sit; None trains them one after another in this process, with the
            same result to the bit.
        start: where the run begins; round 0 from x^0 if it is left out.

    Yields:
        Rows with `k`, `steps` and `samples` so far, the rounds' mean `loss`, `accuracy` and
        `test_loss` of the recalibrated merge, payload `bytes_down` and `bytes_up` per worker,
        `payload` bytes of all so far, `seconds`, and the `faults` of these rounds.
    """
    for ready in [seat.assign(t.run.to_json(), method.local) for seat in seats or ()]:
        ready()
    faults: list[Fault] = []
    work = here(method.local) if seats is None else seated(seats, report=telling(faults))
    start = start or Start(lambda: method.x)
    started = time.perf_counter() - start.row.get("seconds", 0.0)
    steps, samples = start.row.get("steps", 0), start.row.get("samples", 0)
    payload = start.row.get("payload", 0)
    run = rounds(
        start.x,
        method.sketch,
        work,
        method.merge,
        seed=method.seed,
        n_rounds=method.n_rounds,
        start=start.k,
    )
    for done in _chunks(run, max(1, t.run.local_steps // method.steps_a_round)):
        last = done[-1]
        before, steps = steps, min((last.k + 1) * method.steps_a_round, t.run.total_steps)
        samples += (steps - before) * t.samples_a_step
        losses = [z.loss for one in done for z in one.trained if z is not ABSENT]
        _check_finite(t.run.method, last, losses)
        found = t.scores(merged(t, last.x))
        down, up = _bytes([one.submodels for one in done]), _bytes([one.trained for one in done])
        payload += sum(down) + sum(up)
        row = {
            "k": last.k,
            "steps": steps,
            "samples": samples,
            "loss": sum(losses) / len(losses) if losses else None,
            "accuracy": found.accuracy,
            "test_loss": found.loss,
            "bytes_down": down,
            "bytes_up": up,
            "payload": payload,
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
    start: Start | None = None,
    keeper: Keeper | None = None,
) -> ModelState:
    """Run the method, write `folder`/METHOD.jsonl row by row, show every row; return the model.

    With a `keeper` the run is kept as it goes, when it ends, and when it is interrupted or loses a
    worker; the rounds under way are dropped then.
    """
    start = start or Start(lambda: method.x)
    where = "this process" if seats is None else "processes"
    config = asdict(t.run) | {"where": where, "threads": torch.get_num_threads()}
    path = folder / f"{t.run.method}.jsonl"
    rows, notes = earlier(path, start)
    x, k, row = start.x, start.k, dict(start.row)
    with writing(
        path, kind="train", name=t.run.method, config=config, more=notes, rows=rows
    ) as write:
        stale: list[dict[str, Any]] = []
        try:
            for progress in train(t, method, seats, start):
                row = progress.row | {"faults": [*progress.row.get("faults", []), *stale]}
                write(row)
                x, k = progress.x, row["k"] + 1
                show(row)
                stale = _kept(keeper, k, x, row) if keeper is not None and keeper.due() else []
        except (KeyboardInterrupt, WorkerLostError) as reason:
            if keeper is not None and k > start.k:
                _kept(keeper, k, x, row)
            raise type(reason)(str(reason) or f"interrupted after {k} rounds") from None
        if keeper is not None:
            _kept(keeper, k, x, row)
    return x


def earlier(path: Path, start: Start) -> tuple[list[Row], dict[str, Any]]:
    """What a record holds of the rounds before the start, and what its header says of the run."""
    if not start.k or not path.exists():
        return [], dict(start.notes)
    old = read(path)
    notes = {key: old.header[key] for key in ("from",) if key in old.header}
    resumed = [*old.header.get("resumed", []), *start.notes.get("resumed", [])]
    return [row for row in old.rows if row["k"] < start.k], notes | {"resumed": resumed}


def _kept(keeper: Keeper, k: int, x: ModelState, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keep a checkpoint; the fault for the record where the disk is full."""
    stale = keeper.keep(k, x, row)
    return [{"k": k, "kind": "stale checkpoint", "reason": stale}] if stale else []


def merged(t: Task, x: ModelState) -> torch.nn.Module:
    """The plain module of a merged model, with batch statistics of all training rows."""
    return recalibrate(runnable(t.architecture, x), t.stream)


def tested(t: Task, model: torch.nn.Module) -> tuple[float, float]:
    """Mean loss and accuracy of a model on the test rows."""
    found = t.scores(model)
    return found.loss, found.accuracy


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
