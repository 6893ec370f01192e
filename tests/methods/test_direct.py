"""Training by direct hand-over, ranks as threads: records, models and checkpoints of `--here`."""

import errno
import json
import threading
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

import small_sets
from ranks_in_threads import together
from subnetwork.algorithm import rounds
from subnetwork.experiments import direct as module
from subnetwork.experiments.direct import Job, check_direct, follow, lead
from subnetwork.experiments.resume import Edges, Keeper, Start, going_on, saved
from subnetwork.experiments.side import Side
from subnetwork.experiments.training import merged, record
from subnetwork.methods import Training
from subnetwork.methods.rows import method, task
from subnetwork.nets import holders_in_place
from subnetwork.nets.tensorfile import write_tensors
from subnetwork.record import repeatable
from subnetwork.runtime import here
from subnetwork.runtime.direct import tell

SMALL = Training(hidden=(12, 9), workers=3, rounds=3, local_steps=2, batch_size=8)
OF_TEXT = replace(
    SMALL, data="tinyshakespeare", model="gpt", width=8, blocks=1, batch_size=2, test_every=9
)
CASES = {
    "ist": replace(SMALL, momentum=0.5),
    "adam": replace(SMALL, optimizer="adam", step_size=0.01),
    "full": replace(SMALL, method="local_sgd"),
    "relu": replace(SMALL, model="relu", hidden=(12,), rounds=2, workers=2),
    "replicas": replace(SMALL, momentum=0.5, exchange="direct", replicas=1),
    "replicas of counters": replace(
        SMALL, optimizer="adam", step_size=0.01, exchange="direct", replicas=1
    ),
    "one": replace(SMALL, workers=1, steps=5),
    "outer": replace(SMALL, momentum=0.5, outer="nesterov"),
    "outer of counters": replace(SMALL, optimizer="adam", step_size=0.01, outer="nesterov"),
    "outer, replicas": replace(SMALL, outer="nesterov", exchange="direct", replicas=1),
    "diloco": replace(SMALL, method="diloco"),
    "resnet": replace(SMALL, model="resnet", data="cifar10", width=4, blocks=1),
    "gpt": replace(OF_TEXT, optimizer="adamw", step_size=0.01),
    "resist": replace(OF_TEXT, method="resist", blocks=4),
    "few tests": replace(SMALL, rounds=5, test_every=2),
    "few tests, relu": replace(SMALL, model="relu", hidden=(12,), workers=2, test_every=2),
    "layer norm": replace(SMALL, norm="layer"),
    "gcn": replace(SMALL, data="cora", model="gcn", norm="batch", workers=2),
    "gat": replace(SMALL, data="cora", model="gat", hidden=(8,), workers=2),
    "narrow": replace(SMALL, method="narrow", workers=1, share=3),
}


@pytest.fixture(autouse=True)
def one_generator(monkeypatch):
    """Threads share torch's generator, as ranks do not: they begin one after another."""
    begun, lock = module._begun, threading.Lock()

    def alone(side):
        with lock:
            held = begun(side)
        tell(side.links, side.rank, side.n_workers, {})  # until all have
        return held

    monkeypatch.setattr(module, "_begun", alone)


@pytest.fixture(autouse=True)
def few_data(monkeypatch):
    """In the place of sets that are read from files."""
    small_sets.given(monkeypatch)


def silent(_row):
    """Rows are read from the record."""


def direct(run, folder, old=None, every=10**6):
    """Train with a thread for every rank."""
    t = task(run)
    row = method(t)
    folder.mkdir(exist_ok=True)
    start = Start(lambda: pytest.fail("rank 0 made the whole model"))
    start = start if old is None else going_on(t, old)
    keeper = Keeper(folder / "checkpoints", t, start, every=every)
    job = Job(run, folder, None if old is None else old.path)

    def side(place):
        torch.set_num_threads(1)
        if place.rank:
            return follow(place, place.job())
        return lead(place, t, row, job, start, keeper, Edges(silent))

    together(run.workers, side)
    return t


def through_a_coordinator(run, folder, old=None):
    torch.set_num_threads(1)
    t = task(run)
    folder.mkdir(exist_ok=True)
    row = method(t)
    start = Start(lambda: row.x) if old is None else going_on(t, old)
    keeper = Keeper(folder / "checkpoints", t, start, every=10**6)
    x = record(folder, t, row, None, Edges(silent), start, keeper)
    write_tensors(folder / "model.safetensors", merged(t, x).state_dict())


def rounds_on(x, row, start):
    """The models of the rounds from `start` on, in this process."""
    work = here(row.local)
    run = rounds(x, row.sketch, work, row.merge, seed=row.seed, n_rounds=row.n_rounds, start=start)
    return [done.x for done in run]


def rows(folder):
    (path,) = folder.glob("*.jsonl")
    _, *found, end = map(json.loads, path.read_text().splitlines())
    assert end == {"end": "done"}
    apart = ("bytes_down", "bytes_up", "payload", "wire_down", "wire_up")
    return [{k: v for k, v in repeatable(row).items() if k not in apart} for row in found]


def tensors(folder):
    """Of the last checkpoint, however many shards it has."""
    found, damage = saved(folder / "checkpoints")
    assert not damage
    x = found.start.x
    return {"": x.params, **x.moments, "outer": x.outer}


def same_state(one, other):
    assert list(one) == list(other)
    for plane, those in other.items():
        assert list(one[plane]) == list(those)
        assert all(torch.equal(one[plane][name], t) for name, t in those.items()), plane


@pytest.mark.parametrize(
    ("name", "whole"), [*((name, False) for name in CASES), ("ist", True), ("gpt", True)]
)
def test_direct_training_equals_the_coordinator_to_the_bit(name, whole, tmp_path, monkeypatch):
    """Whether the model is put together to be tested, or its parameters pass by."""
    monkeypatch.setattr(Side, "tests_whole", whole)
    run = replace(CASES[name], exchange="direct")
    direct(run, tmp_path / "direct")
    through_a_coordinator(replace(run, exchange="star", replicas=0), tmp_path / "star")
    assert rows(tmp_path / "direct") == rows(tmp_path / "star")
    models = [(tmp_path / kind / "model.safetensors").read_bytes() for kind in ("direct", "star")]
    assert models[0] == models[1]
    same_state(tensors(tmp_path / "direct"), tensors(tmp_path / "star"))
    (written,) = (tmp_path / "direct" / "checkpoints").iterdir()
    assert len(list(written.glob("shard-*"))) == run.workers


@pytest.mark.parametrize(
    ("run", "whole"),
    [
        (SMALL, True),
        (replace(SMALL, hidden=(3000, 3000)), False),
        (replace(SMALL, hidden=(3000, 3000), dropout=0.1), False),
        (replace(SMALL, data="cora", model="gcn"), False),
        (OF_TEXT, False),  # one batch, no statistics
        (replace(SMALL, model="relu", hidden=(12,)), False),  # so too
    ],
)
def test_what_takes_less_memory_than_its_rows_is_put_together(run, whole):
    """1,437 rows that statistics are of, and 360 that are tested, in batches of 1,024."""
    t = task(replace(run, exchange="direct"))
    side = Side(t, method(t), Mock(), 0, Mock(), Mock(), Mock(), None)
    assert side.tests_whole is whole


@pytest.mark.parametrize("case", ["adam", "outer of counters"])
@pytest.mark.parametrize("workers", [3, 2])
def test_a_run_goes_on_from_the_shards_of_its_ranks(workers, case, tmp_path):
    """With the same number of ranks to the bit; with another one as `rounds` goes on."""
    run = replace(CASES[case], exchange="direct")
    direct(replace(run, rounds=2), tmp_path / "run")
    found, _ = saved(tmp_path / "run" / "checkpoints")
    more = replace(run, rounds=4, workers=workers)
    direct(more, tmp_path / "run", replace(found, run=replace(run, rounds=2)))
    if workers == run.workers:
        direct(more, tmp_path / "whole")
        assert rows(tmp_path / "run") == rows(tmp_path / "whole")
        models = [(tmp_path / at / "model.safetensors").read_bytes() for at in ("run", "whole")]
        assert models[0] == models[1]
        same_state(tensors(tmp_path / "run"), tensors(tmp_path / "whole"))
        return
    row = method(task(more))
    *_, last = rounds(
        found.start.x, row.sketch, here(row.local), row.merge, seed=row.seed, n_rounds=4, start=2
    )
    model = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(model[name], p) for name, p in last.x.params.items())


@pytest.mark.parametrize("victim", [0, 1, "record"])
def test_a_rank_whose_disk_is_full_costs_the_checkpoint_and_keeps_no_space(
    victim, tmp_path, monkeypatch
):
    """The row, or after the last one the end of the record, says so; all ranks leave it out alike.

    The record may be what finds no space, as it is forced to disk before.
    """
    from subnetwork.experiments import shards
    from subnetwork.nets import checkpoint

    def no_space(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if victim == "record":
        monkeypatch.setattr(shards, "force", no_space)

    write = checkpoint.write_whole_tensors

    def full(stage, kinds, tensors, rank, n_ranks):
        if rank == victim:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(stage, kinds, tensors, rank, n_ranks)

    monkeypatch.setattr(checkpoint, "write_whole_tensors", full)
    direct(replace(CASES["ist"], exchange="direct"), tmp_path / "run")
    assert list((tmp_path / "run/checkpoints").glob("*")) == []
    *_, end = map(json.loads, (tmp_path / "run/ist.jsonl").read_text().splitlines())
    (fault,) = end["faults"]
    assert (end["end"], fault["kind"]) == ("done", "stale checkpoint")
    assert "No space left on device" in fault["reason"]


def test_what_a_rank_alone_knows_it_says(monkeypatch):
    """And leaves to rank 0 what rank 0 says."""
    from subnetwork.algorithm import DivergedError, RunFailedError, WorkerLostError
    from subnetwork.experiments import rank

    monkeypatch.setattr(rank, "bound_to_parent", lambda: None)
    monkeypatch.setattr(rank, "rank_here", lambda *_: Mock())
    for raised, told in (
        (RunFailedError("rank 1 does not see it"), "rank 1 does not see it"),
        (WorkerLostError("rank 2 died"), rank.LOST),
        (DivergedError("it diverged"), rank.LOST),
        (KeyboardInterrupt(), rank.LOST),
    ):

        def fails(*_, raised=raised):
            raise raised

        monkeypatch.setattr(rank, "follow", fails)
        assert rank.main(["folder", "1", "2", "0"]) == told


def test_payload_is_what_changes_hands(tmp_path):
    """Less than down and up through a coordinator, and it adds up over the ranks."""
    run = replace(CASES["ist"], exchange="direct")
    direct(run, tmp_path / "direct")
    _, *found, _ = map(json.loads, (tmp_path / "direct" / "ist.jsonl").read_text().splitlines())
    total = 0
    for row in found:
        assert sum(row["bytes_up"]) == sum(row["bytes_down"]) > 0
        total += sum(row["bytes_up"])
        assert row["payload"] == total


def test_a_row_has_what_a_coordinators_row_has(tmp_path):
    """And a rank's seconds are those of the run, less what no row is of."""
    run = replace(CASES["ist"], exchange="direct", rounds=4)
    direct(run, tmp_path / "direct")
    through_a_coordinator(replace(run, exchange="star"), tmp_path / "star")
    found = {}
    for kind in ("direct", "star"):
        _, *found[kind], _ = map(
            json.loads, (tmp_path / kind / "ist.jsonl").read_text().splitlines()
        )
    assert set(found["star"][0]) - set(found["direct"][0]) == {"merge_seconds"}
    assert set(found["direct"][0]) <= set(found["star"][0])
    for row in found["direct"]:
        assert min(row["compute_seconds"] + row["exchange_seconds"] + row["peak_bytes"]) > 0
        assert min(row["wait_seconds"]) >= 0
    for worker in range(run.workers):
        parts = ("compute_seconds", "exchange_seconds", "wait_seconds")
        own = sum(row[part][worker] for row in found["direct"] for part in parts)
        # rank 0 tests; the others may be waiting for it meanwhile
        rest = 0 if worker else sum(row["test_seconds"] for row in found["direct"])
        assert 0 < own <= own + rest <= found["direct"][-1]["seconds"]


def test_rounds_of_one_batch_are_refused():
    run = replace(SMALL, method="synchronous_sgd")
    with pytest.raises(ValueError, match="a round of synchronous_sgd is one batch. Use --exchange"):
        check_direct("synchronous_sgd", method(task(run)))


def test_a_merge_that_is_none_of_ours_is_refused():
    row = replace(method(task(SMALL)), merge=holders_in_place)
    with pytest.raises(ValueError, match="but ist merges otherwise. Use --exchange star"):
        check_direct("ist", row)


@pytest.mark.parametrize("exchange", ["direct", "star"])
def test_a_run_goes_on_with_the_momentum_of_its_merge(exchange, tmp_path):
    """From a checkpoint of the other exchange: to the bit as if it had not stopped."""
    run = replace(CASES["outer"], rounds=4)
    first, then = (direct, through_a_coordinator)
    if exchange == "direct":
        first, then = then, first
    half = replace(run, rounds=2, exchange="star" if exchange == "direct" else "direct")
    first(half, tmp_path / "run")
    found, _ = saved(tmp_path / "run" / "checkpoints")
    assert all(bool(buffer.any()) for buffer in found.start.x.outer.values())
    then(replace(run, exchange=exchange), tmp_path / "run", replace(found, run=half))
    then(replace(run, exchange=exchange), tmp_path / "whole")
    same_state(tensors(tmp_path / "run"), tensors(tmp_path / "whole"))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_of_the_merge_that_is_turned_on_or_off_begins_at_zero_or_ends(momentum, tmp_path):
    run = replace(CASES["outer"], exchange="direct", outer_momentum=0.9 - momentum, rounds=2)
    direct(run, tmp_path / "run")
    found, _ = saved(tmp_path / "run" / "checkpoints")
    more = replace(run, rounds=3, outer_momentum=momentum)
    direct(more, tmp_path / "run", replace(found, run=run))
    x, row = found.start.x, method(task(more))
    (last,) = rounds_on(replace(x, outer={}), row, 2)
    same_state(tensors(tmp_path / "run"), {"": last.params, **last.moments, "outer": last.outer})


def test_a_deal_that_leaves_a_rank_without_a_network_is_refused_before_the_run():
    run = replace(SMALL, method="federated_dropout", exchange="direct", keep=0.1, rounds=20)
    with pytest.raises(ValueError, match=r"no unit of some axis in round \d+, .* larger --keep"):
        check_direct("federated_dropout", method(task(run)))
    check_direct("federated_dropout", method(task(replace(run, keep=0.9))))


def test_replicas_without_direct_exchange_are_refused():
    with pytest.raises(ValueError, match="replicas=1 is of ranks that .* Add --exchange direct"):
        replace(SMALL, replicas=1)
    with pytest.raises(ValueError, match="replicas is 0 or 1, not 2"):
        replace(SMALL, exchange="direct", replicas=2)


@pytest.mark.parametrize(("workers", "torchrun"), [(1, False), (3, True)])
def test_replicas_that_nobody_can_use_are_refused(workers, torchrun):
    from subnetwork.cli.handing import check_exchange
    from subnetwork.cli.keeping import Keeping

    run = replace(SMALL, workers=workers, exchange="direct", replicas=1)
    row = method(task(run))
    with pytest.raises(ValueError, match="--replicas 1 lets ranks .* Use --replicas 0"):
        check_exchange(run, row, Keeping(), here=False, torchrun=torchrun)


def test_rounding_without_direct_exchange_is_refused():
    with pytest.raises(ValueError, match="wire=int8 rounds what .* Add --exchange direct"):
        replace(SMALL, wire="int8")


def test_divergence_is_said_by_every_rank(tmp_path):
    from subnetwork.algorithm import DivergedError

    with pytest.raises(DivergedError, match="ist diverged: .* on rank 0, 1, 2. Use a smaller --st"):
        direct(replace(SMALL, step_size=1e30, exchange="direct"), tmp_path / "run")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_ends_the_run_before_it_is_kept_and_names_the_rank(
    value, tmp_path, monkeypatch
):
    from subnetwork.algorithm import DivergedError
    from subnetwork.nets.local import LocalSteps

    work = LocalSteps.__call__

    def spoilt(self, k, worker, submodel):
        trained = work(self, k, worker, submodel)
        if (k, worker) == (1, 2):
            next(iter(trained.params.values())).view(-1)[0] = value
        return trained

    monkeypatch.setattr(LocalSteps, "__call__", spoilt)
    with pytest.raises(DivergedError, match="after round 1, on rank 2"):
        direct(replace(SMALL, exchange="direct"), tmp_path / "run", every=1)
    assert not (tmp_path / "run/model.safetensors").exists()
    kept = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
    assert kept == ["round-00000001"], "what was before the round in which it happened"
