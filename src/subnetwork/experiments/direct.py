"""A training run by direct hand-over: the side of every rank, and what rank 0 does besides."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from subnetwork.algorithm import DivergedError, WorkerLostError
from subnetwork.deals import Bernoulli
from subnetwork.experiments.leader import Leader
from subnetwork.experiments.merged import Tested, tested, write_model
from subnetwork.experiments.resume import Edges, Keeper, Start
from subnetwork.experiments.shards import check_shared, read_by_parts, save_with_others
from subnetwork.experiments.side import Side, steps_of, wire_of
from subnetwork.experiments.training import check_test_loss, earlier, steps_after
from subnetwork.methods import Training
from subnetwork.methods.rows import Method, Task, method, task
from subnetwork.nets import LocalSteps, NetPartition, checkpoint, holders
from subnetwork.nets.counters import COUNTER
from subnetwork.record import writing
from subnetwork.runtime.direct import (
    Company,
    DirectRound,
    Draws,
    Held,
    Rank,
    Rebuilt,
    agree,
    digest,
    direct_rounds,
    draws_of,
    initial_parameters,
    lasting_rounds,
    taken,
    tell,
    with_moments,
)
from subnetwork.runtime.direct.outer import carried_moments
from subnetwork.runtime.direct.sockets import Meter
from subnetwork.runtime.measured import peak_memory


@dataclass(frozen=True)
class Job:
    """What rank 0 tells the others."""

    run: Training
    folder: Path  # of the run, as it is written
    source: Path | None  # the checkpoint to go on from
    start: int = 0  # its round

    def to_json(self) -> str:
        """As text."""
        source = None if self.source is None else str(self.source.resolve())
        folder = str(self.folder.resolve())
        run = self.run.to_json()
        return json.dumps({"run": run, "folder": folder, "source": source, "start": self.start})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job that `to_json` wrote down."""
        read = json.loads(text)
        source = None if read["source"] is None else Path(read["source"])
        run = Training.from_json(read["run"])
        return cls(run, Path(read["folder"]), source, read["start"])


class _LeftError(Exception):
    """The run goes on as another one, of other ranks."""


def check_direct(name: str, row: Method) -> None:
    """Raise ValueError for a method that direct hand-over does not carry."""
    if not isinstance(row.local, LocalSteps):
        raise ValueError(
            f"--exchange direct writes a row after every round, and a round of {name} is one "
            "batch. Use --exchange star, or --method local_sgd."
        )
    if row.merge is not holders and steps_of(row) is None:
        raise ValueError(
            "--exchange direct merges by the mean over holders, and steps along it entry by entry, "
            f"but {name} merges otherwise. Use --exchange star."
        )
    draws_of(row.sketch, row.shapes.params, row.seed)  # refuses too many workers
    if any(isinstance(deal, Bernoulli) for deal in row.sketch.deals.values()):
        for k in range(row.n_rounds):
            _check_present(k, row.sketch.sample(row.seed, k))


def _check_present(k: int, partition: NetPartition) -> None:
    """Raise ValueError where a rank would have no network: it passes lines on to nobody then."""
    for worker in range(partition.n_workers):
        if not partition.has_network(worker):
            raise ValueError(
                f"worker {worker} holds no unit of some axis in round {k}, so that it has no "
                "network, and direct hand-over needs every rank. Use --exchange star, or a larger "
                "--keep."
            )


def lead(
    place: Rank,
    t: Task,
    row: Method,
    job: Job,
    start: Start,
    keeper: Keeper,
    edges: Edges,
) -> None:
    """Rank 0: run the method; write record, checkpoints and model to the folder; show every row.

    An interrupt ends the run after the round under way, with a checkpoint. Where it is to go on as
    another run, the ranks end with a checkpoint too, and neither model nor last line is written.
    """
    job = replace(job, start=start.k)
    edges.notes.extend(keeper.begin(row.sketch.to_json()))
    place.give(job.to_json())
    config = asdict(t.run) | {"where": "ranks", "threads": torch.get_num_threads()}
    path = job.folder / f"{t.run.method}.jsonl"
    more, rows = start.notes, earlier(path, start)
    leader = Leader(t, row, start, keeper, edges)
    with writing(
        path,
        kind="train",
        name=t.run.method,
        config=config,
        more=more,
        rows=rows,
        late=lambda: None if leader.left else leader.faults,
        waits=keeper.goes_on,
    ) as write:
        leader.tell_to(write, edges.show)
        edges.begun()
        try:
            _take_part(place, t, row, job, leader)
        except WorkerLostError as error:
            if place.stop():  # the ranks were ended, since they did not come to an end
                raise KeyboardInterrupt("interrupted; the round under way was dropped") from None
            fate = place.fate() if t.run.replicas else None
            raise WorkerLostError(fate or str(error)) from None


def follow(place: Rank, told: str) -> None:
    """The other ranks: take part in what rank 0 told them (`Rank.job`)."""
    job = Job.from_json(told)
    t = task(job.run)
    _take_part(place, t, method(t), job, None)


def _take_part(place: Rank, t: Task, row: Method, job: Job, leader: Leader | None) -> None:
    k, wired, place = job.start, Meter(), place.patient(t.run.patience)
    draws = draws_of(row.sketch, row.shapes.params, row.seed, moments=row.moments, start=k)
    company = _company(place, draws, t, row, leader, wired) if t.run.replicas else None
    links = company.links if company is not None else wired.opening(place.links)
    side = Side(t, row, draws, place.rank, links, wired.bytes, job.folder, job.source)
    if not place.number:
        agree(side.links, side.rank, digest(draws, side.wire))
    if k == row.n_rounds:
        held = _begun(side)
        write_model(side, held, tested(side, held))
        return
    if not place.number:
        check_shared(side)
    with suppress(_LeftError):
        if company is not None:
            after = partial(_after_round, side, leader, place.stop)
            begun = partial(_begun, side)
            lasting_rounds(
                company, _local(row), begun, after, n_rounds=row.n_rounds, steps=side.steps
            )
            return
        for done in _rounds(side, _begun(side)):
            _after_round(side, leader, place.stop, done)
            del done  # before the hand-over: old and new part are not both here


def _company(
    place: Rank, draws: Draws, t: Task, row: Method, leader: Leader | None, wired: Meter
) -> Company:
    """This rank among others of which one may die."""

    def report(rebuilt: Rebuilt) -> None:
        if leader is not None:
            leader.rebuilt(rebuilt, place.died[-1])

    moments = carried_moments(row.moments, steps_of(row))
    return Company(
        draws,
        place.rank,
        lambda number: wired.opening(partial(place.group, number)),
        moments=tuple(moment for moment in moments if moment != COUNTER),
        wire=wire_of(t.run),
        number=place.number,
        report=report,
    )


def _begun(side: Side) -> Held:
    """This rank's part at the start: read from a checkpoint, or made layer by layer."""
    row, architecture, k = side.row, side.row.architecture, side.draws.start
    if side.source is not None:
        whole = read_by_parts(checkpoint.opened(side.source), side.draws, side.moments)
    else:
        parameters = initial_parameters(architecture, seed=row.init)
        whole = with_moments(parameters, side.moments, architecture.layout)
    return taken(side.draws, side.rank, k, whole, emptied=True)


def _rounds(side: Side, held: Held) -> Iterator[DirectRound]:
    return direct_rounds(
        held,
        side.draws,
        side.rank,
        _local(side.row),
        side.links,
        n_rounds=side.row.n_rounds,
        wire=side.wire,
        steps=side.steps,
    )


def _local(row: Method) -> LocalSteps:
    assert isinstance(row.local, LocalSteps)
    return replace(row.local, in_place=True)  # nobody needs what was handed over


def _after_round(
    side: Side, leader: Leader | None, stop: Callable[[], bool], done: DirectRound
) -> None:
    finite = all(bool(torch.isfinite(t).all()) for t in done.held.submodel.tensors())
    words = {
        "loss": done.loss,
        "sent": done.bytes_sent,
        "received": done.bytes_received,
        "finite": finite and math.isfinite(done.loss),
        "due": leader is not None and leader.due(done.k),
        "kept": leader is not None and leader.kept(done.k + 1),
        "stop": stop(),
        "wanted": leader is not None and leader.wanted(done.k + 1),
        "took": [round(seconds, 7) for seconds in astuple(done.took)],
        "wire": side.wired(),
        "peak": peak_memory(),
    }
    said = tell(side.links, side.rank, side.n_workers, words)
    _check_finite(side, done.k, [rank for rank, each in enumerate(said) if not each["finite"]])
    began, found = time.perf_counter(), _tested_after(side, done)
    if leader is not None:
        leader.note(done.k, said, found.scores, time.perf_counter() - began)
    last, stopped = done.k + 1 == side.row.n_rounds, any(each["stop"] for each in said)
    wanted = any(each["wanted"] for each in said)
    due = last or stopped or wanted or any(each["due"] for each in said)
    if due and not any(each["kept"] for each in said):
        _keep(side, done.held, done.k + 1, leader)
    if last:
        write_model(side, done.held, found)
    elif stopped:
        raise KeyboardInterrupt(f"interrupted after {done.k + 1} rounds")
    elif wanted and _leaves(side, leader, done.k + 1):
        raise _LeftError


def _check_finite(side: Side, k: int, bad: Sequence[int]) -> None:
    """Raise DivergedError, before anything is kept, where ranks hold what is no number."""
    if bad:
        outer = " or --outer-step-size" if side.steps else ""
        where = ", ".join(map(str, bad))
        raise DivergedError(
            f"{side.t.run.method} diverged: the model or the loss is no number any more after "
            f"round {k}, on rank {where}. Use a smaller --step-size{outer}."
        )


def _leaves(side: Side, leader: Leader | None, k: int) -> bool:
    """Whether the run goes on as another one, with the checkpoint before round k.

    Rank 0 knows, and goes, whoever dies meanwhile: those that heard all others have gone.
    """
    leaves = leader is not None and leader.leaves(k)
    try:
        said = tell(side.links, side.rank, side.n_workers, {"leaves": leaves})
    except WorkerLostError:
        if not leaves:
            raise
        return True
    return any(each["leaves"] for each in said)


def _keep(side: Side, held: Held, k: int, leader: Leader | None) -> None:
    if leader is None:
        save_with_others(side, held, k, None)
    else:
        leader.keep(k, lambda header: save_with_others(side, held, k, header))


def _tested_after(side: Side, done: DirectRound) -> Tested:
    """What a round's row says of the merged model, if it says anything."""
    if not side.t.run.tested_after(steps_after(side.t, side.row, done.k)):
        return Tested()
    found = tested(side, done.held)
    if found.scores is not None:
        check_test_loss(side.t.run.method, done.k, found.scores)
    return found
