"""Faults that go on: what the deadline follows, who is parted with, and when it is given up."""

import time

import pytest
import torch

from seats_in_threads import (
    IMPATIENT,
    LEAVING,
    OPEN,
    Threads,
    assert_same_models,
    in_round,
    kinds,
    leave_all,
    raises,
    row_of,
    run,
    seats_of,
)
from subnetwork.algorithm import DivergedError, WorkerLostError, rounds
from subnetwork.nets import ABSENT, Submodel
from subnetwork.runtime import Patience, dropped, dropping, here, seated
from subnetwork.runtime import launch as launching
from subnetwork.runtime.launch import Process
from subnetwork.runtime.seats import Remote
from subnetwork.runtime.serve import serve, templates
from subnetwork.runtime.star import brief
from subnetwork.runtime.wire import Header, Verb, pack


@pytest.fixture(autouse=True)
def _leaving():
    yield
    leave_all()


def hang(*_):
    LEAVING.wait(60)


def test_a_seat_that_is_empty_from_the_start_does_not_hold_the_deadline_up():
    """Its worker failed three times; another one freezes later, and is not waited for 20 s."""
    row, faults = row_of(rounds=5), []
    spoilt = {3: in_round(range(9), raises), 1: in_round({4}, hang)}
    seats = seats_of(row, spoilt, comes_back=False)
    began = time.monotonic()
    run(row, seated(seats, patience=IMPATIENT, report=faults.append))
    assert time.monotonic() - began < IMPATIENT.first / 2
    assert (2, 3, "evicted") in kinds(faults)
    assert (4, 1, "frozen") in kinds(faults)


def test_a_slow_worker_does_not_hold_the_deadline_up():
    """After a first round of 2.25 of 3 s the others' rounds count, which take milliseconds."""
    row, faults = row_of(local_steps=40, rounds=3), []

    def slowly(local):
        class Slow:
            def __call__(self, k, worker, submodel):
                return local(k, worker, submodel)

            def until(self, stop):
                return local.until(lambda steps: time.sleep(0.1) or stop(steps))

        return Slow()

    patience = Patience(floor=0.5, factor=4, first=3)
    began = time.monotonic()
    run(row, seated(seats_of(row, {3: slowly}), patience=patience, report=faults.append))
    assert kinds(faults) == [(k, 3, "slow") for k in range(3)]
    assert time.monotonic() - began < 3 + 2 * 1.5, "one round of 2.25 s, two of half a second"


@pytest.mark.parametrize(
    ("spoil", "error"), [(raises, WorkerLostError), (None, DivergedError)], ids=["raise", "nan"]
)
def test_what_every_worker_did_is_told_before_the_run_ends(spoil, error):
    def nan(k, worker, submodel, local):
        z = local(k, worker, submodel)
        params = {name: torch.full_like(p, torch.nan) for name, p in z.params.items()}
        return Submodel(params, z.moments, z.loss, z.n_steps)

    row, faults = row_of(), []
    seats = seats_of(row, {i: in_round({3}, spoil or nan) for i in range(4)})
    with pytest.raises(error):
        run(row, seated(seats, report=faults.append))
    assert [(f.round, f.worker) for f in faults] == [(3, i) for i in range(4)]
    if spoil:
        assert all(f.reason.startswith("Traceback") for f in faults)


def test_a_round_that_nobody_ever_comes_back_from_ends_the_run():
    row, faults = row_of(), []
    seats = seats_of(row, {i: in_round({2}, hang) for i in range(4)})
    patience = Patience(floor=0.4, first=20, missing=20, least=4)
    with pytest.raises(WorkerLostError, match=r"nobody came back from round 2 in 3 attempts: wor"):
        run(row, seated(seats, patience=patience, report=faults.append))
    assert [f.kind for f in faults].count("frozen") == 12


def seat_that(build, worker, **options):
    seat = Remote(worker, Threads(lambda link: serve(link, worker, build), **options))
    OPEN.append(seat)
    return seat


def test_one_worker_that_cannot_do_the_job_is_parted_with_and_the_others_go_on():
    row, faults = row_of(), []

    def cannot(_):
        raise MemoryError("no room for the rows")

    seats = seats_of(row)
    seats[2].leave()
    seats[2] = seat_that(cannot, 2, comes_back=False)
    brief(seats, "{}", row.local)
    apart = run(row, seated(seats, report=faults.append))
    assert kinds(faults)[0] == (0, 2, "not ready")
    assert "failed in taking a job: MemoryError: no room for the rows" in faults[0].reason
    assert_same_models(apart, run(row, dropping(here(row.local), dropped(faults))))


def test_where_no_worker_can_do_the_job_the_run_does_not_begin():
    row = row_of()

    def cannot(_):
        raise ValueError("")  # and no word why

    seats = [seat_that(cannot, i, comes_back=False) for i in range(2)]
    with pytest.raises(WorkerLostError, match="worker 0 failed in taking a job: ValueError"):
        brief(seats, "{}", row.local)


@pytest.mark.parametrize("at", [0, 2])
def test_a_failure_before_the_part_is_read_costs_one_round(at):
    """What is left on the link is no frame: the worker is replaced, and takes part in the next."""
    row, faults = row_of(rounds=400), []
    drawn = []

    def build(_):
        made = templates(row.sketch, row.seed, row.x)

        def failing(k, worker):
            drawn.append(k)
            if k == at and drawn.count(at) == 1:
                raise MemoryError("no room")
            return made(k, worker)

        return failing, row.local

    seats = seats_of(row)
    seats[1].leave()
    seats[1] = seat_that(build, 1)
    seats[1].assign("{}", row.local)()
    work = seated(seats, report=faults.append)
    course = rounds(row.x, row.sketch, work, row.merge, seed=row.seed, n_rounds=row.n_rounds)
    while True:
        done = next(course)
        if "joined" in [f.kind for f in faults]:
            break
        time.sleep(0.01)
    assert done.trained[1] is not ABSENT
    assert kinds(faults)[0] == (at, 1, "refused")
    assert "MemoryError before w_i was read: no room" in faults[0].reason
    assert {f.kind for f in faults[1:]} - {"absent"} == {"joined"}  # or it is back at once
    assert seats[1]._door.dismissals == [False]


def test_a_link_that_is_too_slow_is_told_from_a_worker_that_is_silent():
    """40 MB that nobody reads: some of them are gone."""
    row, faults = row_of(hidden=(3000, 3000), rounds=1), []

    def deaf(link):
        link.receive_payload(link.receive_header(until=None), until=None)
        link.send(Header(Verb.READY), until=None)
        LEAVING.wait(60)

    seats = seats_of(row)
    seats[1].leave()
    seats[1] = Remote(1, Threads(deaf, comes_back=False))
    OPEN.append(seats[1])
    seats[1].assign("{}", row.local)()
    patience = Patience(floor=0.5, first=6)
    run(row, seated(seats, patience=patience, report=faults.append))
    assert kinds(faults) == [(0, 1, "frozen")]
    assert " MB had gone to it after " in faults[0].reason


class Births:
    """A nursery whose children fail to start."""

    def __init__(self):
        self.starts = []

    def start(self, *_):
        self.starts.append(time.monotonic())
        return Stillborn()


class Stillborn:
    pid = 0

    def poll(self):
        return 1


class Nobody:
    def arrived(self, _):
        return None


def test_a_process_that_does_not_start_is_tried_again_for_ever_and_less_and_less_often(
    tmp_path, monkeypatch
):
    clock = [100.0]
    monkeypatch.setattr(launching.time, "monotonic", lambda: clock[0])
    births = Births()
    door = Process(births, "module", tmp_path, 0, Nobody())
    door.start()
    for _ in range(30_000):  # five minutes of looks
        clock[0] += 0.01
        assert door.arrived() is None
    gaps = [b - a for a, b in zip(births.starts, births.starts[1:], strict=False)]
    assert gaps[0] < 0.25
    assert [round(gap, 1) for gap in gaps[:4]] == [0.1, 0.2, 0.4, 0.8]
    assert 29 < max(gaps) < 31
    assert len(births.starts) > 12, "it is not given up"
    door.finished()
    n_starts = len(births.starts)
    clock[0] += 100
    door.arrived()
    assert len(births.starts) == n_starts


def test_a_model_of_two_types_is_refused_by_a_coordinator():
    mixed = Submodel({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.bfloat16)})
    with pytest.raises(ValueError, match=r"bfloat16, float32, .*--exchange direct"):
        pack(mixed)
