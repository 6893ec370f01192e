"""One training run as a stream of rows: what `train` and `demo` record and show."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

import torch

from subnetwork.algorithm import DivergedError, Round, WorkerLostError, rounds
from subnetwork.experiments.resume import STALE, Edges, Keeper, Start
from subnetwork.methods.rows import Method, Task
from subnetwork.nets import ABSENT, Gradients, ModelState, NetPartition, Submodel, recalibrate
from subnetwork.nets.architecture import runnable
from subnetwork.nets.evaluate import Scores
from subnetwork.record import Row, read, writing
from subnetwork.runtime import Fault, Patience, Seat, clipping, here, seated
from subnetwork.runtime.clipping import REMEMBERED
from subnetwork.runtime.faults import NetWork, telling
from subnetwork.runtime.measured import Measured, by_worker
from subnetwork.runtime.serve import with_shares
from subnetwork.runtime.shares import GRAIN, Shares
from subnetwork.runtime.star import brief

NetRound: TypeAlias = Round[ModelState, Submodel, NetPartition]


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a few rounds: a row for the record, and the merged model."""

    row: dict[str, Any]
    x: ModelState


def train(
    t: Task,
    method: Method,
    seats: Sequence[Seat] | None = None,
    start: Start | None = None,
    faults: list[Fault] | None = None,
) -> Iterator[Progress]:
    """Run the method; yield about every `local_steps` local steps.

    Args:
        t: the task the method was made for.
        method: a row of the table of methods.
        seats: where the workers sit; None trains them one after another in this process, with the
            same result to the bit.
        start: where the run begins; round 0 from x^0 if it is left out.
        faults: where they are noted until a row has them.

    Yields:
        Rows, whose fields docs/runs.md lists: progress, loss and accuracy of the recalibrated
        merge; steps, payload, bytes on the wire, seconds and memory of each worker; faults.
    """
    brief(seats or (), t.run.to_json(), method.local)
    start = start or Start(lambda: method.x)
    usual = deque[float](start.row.get("usual_norms", ()), maxlen=REMEMBERED)
    told = [] if faults is None else faults
    meter = _Meter(t.run.clip_updates, usual, told, Patience(first=t.run.patience))
    shares = _shares(t, method, start) if t.run.shares == "measured" else None
    run = _rounds(method, meter.over(method, seats), start, shares, seats or ())
    before, began = start.row, time.perf_counter()
    since = began - before.get("seconds", 0.0)
    for done in _chunks(run, max(1, t.run.local_steps // method.steps_a_round)):
        seconds = {"merge_seconds": max(0.0, time.perf_counter() - began - sum(meter.work))}
        last, row = done[-1], _progress(t, method, done, before)
        began = time.perf_counter()
        row |= entries_of(scores_after(t, last, row["steps"]))
        seconds["test_seconds"] = time.perf_counter() - began
        row |= meter.read(len(last.trained)) | seconds
        if shares is not None:
            row["weights"] = list(shares.weights)
            shares.told(row)
            row["next_weights"] = list(shares.weights)
        row["seconds"] = time.perf_counter() - since
        yield Progress(row, last.x)
        before, began = row, time.perf_counter()


def _shares(t: Task, method: Method, start: Start) -> Shares:
    """Where measured shares begin: equal, or as they were where the run goes on."""
    n, row = t.run.workers, start.row
    given = tuple(row.get("next_weights", row.get("weights", ())))
    weights = given if len(given) == n else (GRAIN,) * n
    return Shares(weights, min(method.sketch.layout.sizes.values()))


def _rounds(
    method: Method, work: NetWork, start: Start, shares: Shares | None, seats: Sequence[Seat]
) -> Iterator[NetRound]:
    """The run's rounds; from where the shares change on, those of another sketch."""
    x, k = start.x, start.k
    while k < method.n_rounds:
        sketch, weights = method.sketch, shares.weights if shares is not None else ()
        if weights:
            sketch = with_shares(sketch, weights)
            for seat in seats:
                seat.deal(weights)
        for one in rounds(
            x, sketch, work, method.merge, seed=method.seed, n_rounds=method.n_rounds, start=k
        ):
            yield one
            x, k = one.x, one.k + 1
            if shares is not None and shares.weights != weights:
                break


@dataclass(frozen=True)
class _Meter:
    """What is noted between two rows."""

    clip: float | None
    usual: deque[float]  # norms of updates
    faults: list[Fault]
    patience: Patience
    measured: list[Measured] = field(default_factory=list)
    work: list[float] = field(default_factory=list)  # seconds of lines 4-8, a number a round

    def over(self, method: Method, seats: Sequence[Seat] | None) -> NetWork:
        """The work of the method at these seats, which writes down here what it took."""
        if seats is None:
            work = here(method.local, measure=self.measured.append)
        else:
            report, measure = telling(self.faults), self.measured.append
            work = seated(seats, patience=self.patience, report=report, measure=measure)
        if self.clip is not None:
            gradients, report = isinstance(method.local, Gradients), telling(self.faults)
            work = clipping(work, self.clip, usual=self.usual, gradients=gradients, report=report)

        def timed(
            k: int, partition: NetPartition, submodels: Sequence[Submodel], /
        ) -> Sequence[Submodel]:
            began = time.perf_counter()
            trained = work(k, partition, submodels)
            self.work.append(time.perf_counter() - began)
            return trained

        return timed

    def read(self, n_workers: int) -> dict[str, Any]:
        """The entries of a row; what was noted is forgotten."""
        row = by_worker(self.measured, n_workers)
        row["faults"] = [fault.to_row() for fault in self.faults]
        if self.clip is not None:
            row["usual_norms"] = list(self.usual)
        for notes in (self.faults, self.measured, self.work):
            notes.clear()
        return row


def _progress(
    t: Task, method: Method, done: Sequence[NetRound], before: Mapping[str, Any]
) -> dict[str, Any]:
    """The part of a row that the same seed gives again: work done, its loss, its payload."""
    last = done[-1]
    losses = [z.loss for one in done for z in one.trained if z is not ABSENT]
    _check_finite(t.run.method, last, losses)
    down, up = _bytes([one.submodels for one in done]), _bytes([one.trained for one in done])
    spans = [[_span(method, one.k, z) for z in one.trained] for one in done]
    steps = [sum(map(len, of_worker)) for of_worker in zip(*spans, strict=True)]
    samples = sum(t.samples(i, span) for of_round in spans for i, span in enumerate(of_round))
    return {
        "k": last.k,
        "steps": steps_after(t, method, last.k),
        "samples": before.get("samples", 0) + samples,
        "loss": mean_loss(losses) if losses else None,
        "worker_steps": steps,
        "bytes_down": down,
        "bytes_up": up,
        "payload": before.get("payload", 0) + sum(down) + sum(up),
    }


def mean_loss(losses: Sequence[float]) -> float:
    """The mean of finite losses, also of such as a liar sends: their sum may be too large.

    >>> mean_loss([1.0, 2.0]), mean_loss([1.5e308, 1.7e308])
    (1.5, 1.6e+308)
    """
    total = sum(losses)
    return total / len(losses) if math.isfinite(total) else mean(losses)


def steps_after(t: Task, method: Method, k: int) -> int:
    """Local steps after round k, of a worker that did all that was asked for."""
    return min((k + 1) * method.steps_a_round, t.run.total_steps)


def _span(method: Method, k: int, z: Submodel) -> range:
    """The global steps that a worker's part of round k is after."""
    first = k * method.steps_a_round
    return range(first, first + min(z.n_steps, method.steps_a_round))


def record(
    folder: Path,
    t: Task,
    method: Method,
    seats: Sequence[Seat] | None,
    edges: Edges,
    start: Start | None = None,
    keeper: Keeper | None = None,
) -> ModelState:
    """Run the method, write `folder`/METHOD.jsonl row by row, show every row; return the model.

    With a `keeper` the run is kept as it goes, when it ends, and when it is interrupted or loses a
    worker; the rounds under way are dropped then. It ends too where it `edges.leaves`, to go on as
    another run: it is kept, and the record has no last line.

    Raises:
        ValueError: a run that is to be kept is cut by a law that cannot be written down.
    """
    start = start or Start(lambda: method.x)
    law = method.sketch.to_json() if keeper is not None else ""
    config = asdict(t.run) | _where(seats)
    path = folder / f"{t.run.method}.jsonl"
    at, left = (start.k, start.x, start.row), False  # rounds done, the model, the last row
    if keeper is not None:
        edges.notes.extend(keeper.begin(law))
    more, rows = start.notes, earlier(path, start)
    faults: list[Fault] = []

    def late() -> list[dict[str, Any]] | None:
        return None if left else [*(fault.to_row() for fault in faults), *edges.notes]

    def keep(*, last: bool = True) -> None:
        k, x, row = at
        if keeper is not None and k > start.k and (keeper.due() or last):
            edges.notes.extend(_kept(keeper, k, x, row, law))

    def done() -> str:
        return f"{'all' if at[0] == method.n_rounds else 'interrupted after'} {at[0]} rounds"

    with (
        writing(
            path,
            kind="train",
            name=t.run.method,
            config=config,
            more=more,
            rows=rows,
            late=late,
            waits=keeper is not None and keeper.goes_on,
        ) as write,
        _kept_however_it_ends(keep, done),
    ):
        edges.begun()
        for progress in train(t, method, seats, start, faults):
            row = progress.row | {"faults": [*progress.row.get("faults", []), *edges.notes]}
            write(row)
            edges.notes.clear()
            at = row["k"] + 1, progress.x, row  # at once, whatever interrupts
            edges.show(row)
            keep(last=False)
            if left := _leaves(edges, at[0], keeper, keep):
                break
    return at[1]


def _leaves(edges: Edges, k: int, keeper: Keeper | None, keep: Callable[[], None]) -> bool:
    """Whether the run is to go on as another one before round k, from a checkpoint."""
    if not edges.wanted(k):
        return False
    keep()
    return edges.leaves(keeper is not None and keeper.kept == k)


def _where(seats: Sequence[Seat] | None) -> dict[str, Any]:
    where = "this process" if seats is None else "processes"
    return {"where": where, "threads": torch.get_num_threads()}


@contextmanager
def _kept_however_it_ends(keep: Callable[[], None], done: Callable[[], str]) -> Iterator[None]:
    """Keep a run when the block is left; an end without a reason is said to be after what is done.

    On a full disk the reason is the disk.
    """
    try:
        yield
    except (KeyboardInterrupt, WorkerLostError) as reason:
        keep()
        raise type(reason)(str(reason) or done()) from None
    except OSError:
        with suppress(OSError):
            keep()
        raise
    keep()


def earlier(path: Path, start: Start) -> list[Row]:
    """What a record holds of the rounds before the start: nothing where it was lost."""
    if not (start.k and path.exists() and path.stat().st_size):
        return []
    return [row for row in read(path).rows if row["k"] < start.k]


def lost(path: Path, start: Start) -> list[str]:
    """A line where a record lacks the last rows before the start; none where it has them."""
    rows = earlier(path, start)
    k = rows[-1]["k"] + 1 if rows else 0
    if k == start.k:
        return []
    return [f"{path} has lost its rows from round {k} on; the checkpoint is after {start.k} rounds"]


def _kept(
    keeper: Keeper, k: int, x: ModelState, row: Mapping[str, Any], law: str
) -> list[dict[str, Any]]:
    """Keep a checkpoint; the fault for the record where the disk is full."""
    stale = keeper.keep(k, x, row, law)
    return [{"k": k, "kind": STALE, "reason": stale}] if stale else []


def merged(t: Task, x: ModelState) -> torch.nn.Module:
    """The plain module of a merged model, with batch statistics of all training rows."""
    return recalibrate(runnable(t.architecture, x), t.stream)


def tested(t: Task, model: torch.nn.Module) -> tuple[float, float]:
    """Mean loss and accuracy of a model on the test rows."""
    found = t.scores(model)
    return found.loss, found.accuracy


def _check_finite(name: str, last: NetRound, losses: list[float]) -> None:
    finite = all(bool(torch.isfinite(p).all()) for p in last.x.params.values())
    if not (finite and all(map(math.isfinite, losses))):
        raise DivergedError(
            f"{name} diverged: the model or the loss is no number any more after round {last.k}. "
            "Use a smaller --step-size."
        )


def scores_after(t: Task, last: NetRound, steps: int) -> Scores | None:
    """The merged model's scores after a round, and so many steps; None where they are not due."""
    if not t.run.tested_after(steps):
        return None
    found = t.scores(merged(t, last.x))
    check_test_loss(t.run.method, last.k, found)
    return found


def entries_of(found: Scores | None) -> dict[str, float | None]:
    """The entries of a row: None where the model was not tested."""
    if found is None:
        return {"accuracy": None, "test_loss": None}
    return {"accuracy": found.accuracy, "test_loss": found.loss}


def check_test_loss(name: str, k: int, found: Scores) -> None:
    """Raise DivergedError where the merged model's loss on the test rows is no number."""
    if not math.isfinite(found.loss):
        raise DivergedError(
            f"{name} diverged: the merged model's test loss is no number any more after round {k}. "
            "Use a smaller --step-size."
        )


def _chunks(run: Iterable[NetRound], size: int) -> Iterator[list[NetRound]]:
    iterator = iter(run)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _bytes(sent: Sequence[Sequence[Submodel]]) -> list[int]:
    """Payload bytes of each worker, added up over rounds."""
    return [sum(w.n_bytes for w in of_worker) for of_worker in zip(*sent, strict=True)]
