"""What a row says of a round: work that was done, bytes that moved, seconds that add up, memory."""

import json
import math
import re
from pathlib import Path

import pytest

from seats_in_threads import SMALL, in_round, leave_all, row_of, run, seats_of, with_entry
from subnetwork.experiments.training import train
from subnetwork.methods import Training
from subnetwork.methods.rows import method, task
from subnetwork.record import repeatable
from subnetwork.runtime import here, measured, seated
from subnetwork.runtime.measured import by_worker, peak_memory
from subnetwork.runtime.wire import HEADER

N = SMALL.workers


@pytest.fixture(autouse=True)
def _leaving():
    yield
    leave_all()


def rows_of(spoilt=None, apart=True, **changes):
    """The rows of a run, at seats (threads behind sockets) or in one process."""
    fields = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}
    t = task(Training(**fields | changes))
    row = method(t)
    seats = seats_of(row_of(**changes), spoilt) if apart else None
    return [progress.row for progress in train(t, row, seats)]


def raises(*_):
    raise MemoryError("out of memory")


def test_the_wire_carries_the_payload_and_one_header_each_way():
    row, measured = row_of(), []
    done = run(row, seated(seats_of(row), measure=measured.append))
    assert len(measured) == row.n_rounds * N
    for m in measured:
        one = done[m.round]
        assert m.down == one.submodels[m.worker].n_bytes + HEADER
        assert m.up == one.trained[m.worker].n_bytes + HEADER


def test_what_workers_did_adds_up_to_the_round():
    row, measured = row_of(local_steps=20, rounds=3), []
    run(row, seated(seats_of(row), measure=measured.append))
    run(row, here(row.local, measure=measured.append))
    assert len(measured) == 2 * 3 * N
    for k in range(3):
        for of_round in (measured[N * k :][:N], measured[N * (3 + k) :][:N]):
            assert {m.round for m in of_round} == {k}
            totals = [m.compute + m.exchange + m.wait for m in of_round]
            assert max(totals) == pytest.approx(min(totals))
            assert min(m.compute for m in of_round) > 0
            assert min(m.exchange + m.wait for m in of_round) >= 0
    assert all(m.down == m.up == m.exchange == 0 for m in measured[3 * N :])


def test_peak_memory_is_that_of_the_process_and_comes_over_the_wire():
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert peak <= peak_memory() < 2 * peak
    (first, *_) = rows_of(rounds=1)
    assert all(peak <= of_worker < 2 * peak for of_worker in first["peak_bytes"])


def test_samples_count_the_work_that_was_done_and_merged():
    """A worker that fails does none; one that returns NaN did some, which nobody has."""

    def nan(k, worker, submodel, local):
        return with_entry(local(k, worker, submodel), float("nan"))

    spoilt = {1: in_round({1, 2}, raises), 2: in_round({2}, nan)}
    rows = rows_of(spoilt, rounds=4)
    assert [row["worker_steps"] for row in rows] == [
        [2, 2, 2, 2],
        [2, 0, 2, 2],
        [2, 0, 0, 2],
        [2, 2, 2, 2],
    ]
    assert [row["samples"] for row in rows] == [64, 112, 144, 208]
    assert [row["steps"] for row in rows] == [2, 4, 6, 8]
    assert rows[2]["compute_seconds"][1] == 0 < rows[2]["compute_seconds"][2]


def test_a_worker_that_claims_more_than_was_asked_for_is_not_believed():
    def boasts(k, worker, submodel, local):
        trained = local(k, worker, submodel)
        object.__setattr__(trained, "n_steps", 10**9)
        return trained

    rows = rows_of({0: in_round({0}, boasts)}, rounds=1)
    assert rows[0]["worker_steps"] == [2, 2, 2, 2]


@pytest.mark.parametrize("name", ["ist", "synchronous_sgd"])
def test_the_same_seed_gives_the_same_rows_apart_from_what_was_measured(name):
    once, again = (rows_of(method=name, rounds=3) for _ in range(2))
    assert list(map(json.dumps, map(repeatable, once))) == list(
        map(json.dumps, map(repeatable, again))
    )
    wire = {"wire_down", "wire_up"}
    together = [repeatable(row) for row in rows_of(method=name, rounds=3, apart=False)]
    for one, other in zip(map(repeatable, once), together, strict=True):
        assert {k: v for k, v in one.items() if k not in wire} == {
            k: v for k, v in other.items() if k not in wire
        }
    rounds = 2 if name == "synchronous_sgd" else 1
    assert once[0]["wire_up"] == [n + rounds * HEADER for n in once[0]["bytes_up"]]
    assert together[0]["wire_up"] == [0] * N
    assert set(once[0]) - set(repeatable(once[0])) == {
        *("compute_seconds", "exchange_seconds", "wait_seconds", "merge_seconds", "test_seconds"),
        *("seconds", "peak_bytes"),
    }


def test_what_is_repeatable_leaves_the_seconds_of_faults_out_too():
    fault = {"round": 1, "worker": 2, "kind": "lost", "seconds": 0.1}
    row = {"k": 1, "seconds": 3.0, "faults": [fault], "peak_bytes": [1]}
    assert repeatable(row) == {"k": 1, "faults": [{"round": 1, "worker": 2, "kind": "lost"}]}
    assert repeatable({"faults": []}) == {"faults": []}


def test_the_seconds_of_a_row_are_spent_somewhere():
    *_, last = (rows := rows_of(rounds=4))
    for worker in range(N):
        parts = ("compute_seconds", "exchange_seconds", "wait_seconds")
        own = sum(row[part][worker] for row in rows for part in parts)
        rest = sum(row["merge_seconds"] + row["test_seconds"] for row in rows)
        assert 0.7 * last["seconds"] < own + rest <= last["seconds"]


@pytest.mark.parametrize("name", ["ist", "synchronous_sgd"])
def test_a_model_that_is_tested_in_some_rows_is_trained_as_the_others(name):
    """The last row has a test, of a shorter round too; loss and payload are those of any run."""
    always = rows_of(method=name, steps=9)
    seldom = rows_of(method=name, steps=9, test_every=2)
    tests = ("accuracy", "test_loss")
    assert [row["accuracy"] is not None for row in seldom] == [False, True, False, True, True]
    for one, other in zip(map(repeatable, always), map(repeatable, seldom), strict=True):
        assert {k: v for k, v in one.items() if k not in tests} == {
            k: v for k, v in other.items() if k not in tests
        }
        assert other["accuracy"] is None or [one[k] for k in tests] == [other[k] for k in tests]
    assert [row["test_loss"] is None for row in seldom] == [True, False, True, False, False]


def test_the_page_lists_every_field_of_a_row():
    page = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    table = page.split("## The record")[1].split("## ")[0]
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    (row, *_) = rows_of(rounds=1, apart=False)
    (more, *_) = rows_of(rounds=1, apart=False, shares="measured", clip_updates=10.0)
    assert sorted(listed) == sorted(more)
    assert set(more) - set(row) == {"weights", "next_weights", "usual_norms"}


def test_nothing_was_measured_of_a_worker_that_was_not_there():
    assert by_worker([], 2)["peak_bytes"] == [0, 0]


def test_free_memory_is_the_least_of_what_the_machine_and_the_container_have(monkeypatch, tmp_path):
    table = tmp_path / "meminfo"
    monkeypatch.setattr(measured, "MEMORY", table)
    monkeypatch.setattr(measured, "CGROUP", tmp_path)
    assert measured.free_memory() == math.inf
    table.write_text("MemTotal:       9000 kB\nMemAvailable:   3000 kB\n")
    assert measured.free_memory() == 3000 * 1024
    (tmp_path / "memory.current").write_text("500000\n")
    for limit, free in (("max", 3000 * 1024), ("2000000", 1_500_000), ("100", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert measured.free_memory() == free
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 50\n")
    assert measured.free_memory() == 0
    (tmp_path / "memory.max").write_text("2000000")
    assert measured.free_memory() == 1_500_050
