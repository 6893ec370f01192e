"""A round ends with whoever answers: what is left out, what is reported, when it is given up."""

import time

import pytest

from seats_in_threads import (
    IMPATIENT,
    LEAVING,
    OPEN,
    SMALL,
    Threads,
    assert_same_models,
    in_round,
    kinds,
    leave_all,
    raises,
    row_of,
    run,
    seats_of,
    with_entry,
)
from subnetwork.algorithm import DivergedError, WorkerLostError, rounds
from subnetwork.nets import ABSENT
from subnetwork.runtime import Patience, dropped, dropping, here, seated
from subnetwork.runtime import seats as seats_of_workers
from subnetwork.runtime.seats import Remote
from subnetwork.runtime.serve import serve, templates
from subnetwork.runtime.wire import Header, Verb


@pytest.fixture(autouse=True)
def _leaving():
    yield
    leave_all()


def nan(k, worker, submodel, local):
    return with_entry(local(k, worker, submodel), float("nan"))


def infinite(k, worker, submodel, local):
    return with_entry(local(k, worker, submodel), float("inf"))


MERGES = ["ist", "local_sgd", "diloco", "synchronous_sgd"]  # a row of every merge


@pytest.mark.parametrize("name", MERGES)
def test_without_a_fault_it_is_the_one_process_run_and_nothing_is_reported(name):
    row, faults = row_of(method=name), []
    apart = run(row, seated(seats_of(row), report=faults.append))
    assert_same_models(apart, run(row, here(row.local)))
    assert faults == []


@pytest.mark.parametrize("keep", [0.1, 1e-9])  # at times without a network; never with one
def test_a_worker_without_a_network_takes_no_part_and_that_is_no_fault(keep):
    row, faults, measured = row_of(method="federated_dropout", keep=keep, hidden=(12,)), [], []
    one = run(row, here(row.local, measure=measured.append))
    idle = [[not z.params for z in done.trained] for done in one]
    assert any(map(any, idle))
    assert all(map(all, idle)) == (keep < 0.01)
    for done, absent in zip(one, idle, strict=True):
        (hands,) = done.partition.hands.values()
        sizes = [len(hand) for hand in hands]
        assert absent == [size == 0 for size in sizes]
    apart = run(row, seated(seats_of(row), report=faults.append))
    assert_same_models(apart, one)
    assert faults == []


def few(row, work, k, workers):
    """A round in which only these workers have a network."""
    partition = row.sketch.sample(row.seed, k)
    submodels = [partition.select(row.x, i) if i in workers else ABSENT for i in range(4)]
    return work(k, partition, submodels)


def test_one_of_several_that_fails_alone_is_one_fault_and_no_divergence():
    row, faults = row_of(), []
    work = seated(seats_of(row, {1: in_round({0}, nan)}), report=faults.append)
    assert all(z is ABSENT for z in few(row, work, 0, {1}))
    assert {kind for _, _, kind in kinds(faults)} >= {"not finite", "evicted"}
    assert few(row, work, 1, {0})[0] is not ABSENT


def test_rounds_of_few_workers_set_the_deadline_too():
    row, faults = row_of(), []

    def hang(*_):
        LEAVING.wait()

    seats = seats_of(row, {1: in_round({1}, hang)}, comes_back=False)
    work = seated(seats, patience=IMPATIENT, report=faults.append)
    few(row, work, 0, {0, 1})
    began = time.monotonic()
    found = few(row, work, 1, {0, 1})
    assert time.monotonic() - began < IMPATIENT.first / 2
    assert (found[0] is not ABSENT, found[1] is ABSENT) == (True, True)
    assert (1, 1, "frozen") in kinds(faults)


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize(
    ("spoil", "kind"), [(nan, "not finite"), (infinite, "not finite"), (raises, "failed")]
)
def test_a_refused_answer_is_the_run_that_dropped_the_block_by_plan(name, spoil, kind):
    row, faults = row_of(method=name), []
    seats = seats_of(row, {1: in_round({2, 3}, spoil)})
    apart = run(row, seated(seats, report=faults.append))
    assert kinds(faults)[:2] == [(2, 1, kind), (3, 1, kind)]
    assert dropped(faults) == {(2, 1), (3, 1)}
    assert_same_models(apart, run(row, dropping(here(row.local), {(2, 1), (3, 1)})))


def test_a_failure_says_which_worker_round_and_where_in_the_code():
    row, faults = row_of(), []
    run(row, seated(seats_of(row, {2: in_round({1}, raises)}), report=faults.append))
    assert faults[0].reason.startswith("Traceback (most recent call last)")
    assert "seats_in_threads.py" in faults[0].reason
    shown = str(faults[0])
    assert shown.startswith("worker 2, round 1:\nTraceback")
    assert shown.endswith(
        "round 1: worker 2 failed; its block keeps its value (MemoryError: out of memory)"
    )
    assert faults[0].to_row()["reason"] == "MemoryError: out of memory"


@pytest.mark.parametrize("spoil", [nan, raises])
def test_the_third_fault_of_its_own_making_evicts_a_worker(spoil):
    row, faults = row_of(), []
    seats = seats_of(row, {1: in_round(range(100), spoil)})
    run(row, seated(seats, report=faults.append))
    assert [f.round for f in faults if f.kind == "evicted"] == [2]
    assert [f.round for f in faults if f.kind == "absent"] == [3, 4, 5]
    assert seats[1]._door.dismissals == [True]


def test_nan_on_every_worker_is_divergence():
    row = row_of()
    seats = seats_of(row, {i: in_round({3}, nan) for i in range(4)})
    with pytest.raises(DivergedError, match="every worker returned NaN or Inf in round 3"):
        run(row, seated(seats))


def test_an_exception_on_every_worker_is_the_work_s_own():
    row = row_of()
    seats = seats_of(row, {i: in_round({3}, raises) for i in range(4)})
    with pytest.raises(WorkerLostError, match=r"every worker in round 3: MemoryError: out of mem"):
        run(row, seated(seats))


def test_a_silent_worker_is_dropped_at_the_deadline_and_comes_back():
    row, faults = row_of(rounds=400), []

    def sleep(k, worker, submodel, local):
        LEAVING.wait(60)
        return local(k, worker, submodel)

    seats = seats_of(row, {1: in_round({2}, sleep)})
    apart = []
    work = seated(seats, patience=IMPATIENT, report=faults.append)
    for result in iterate(row, work):
        apart.append(result)
        if "joined" in [f.kind for f in faults]:
            break
    assert kinds(faults)[0] == (2, 1, "frozen")
    assert 0.4 < faults[0].seconds < 15  # 0.5 s, more on a busy machine; the worker sleeps 60
    plan = dropping(here(row.local), dropped(faults))
    assert_same_models(apart, run(row_of(rounds=len(apart)), plan)[: len(apart)])


def iterate(row, work):
    return rounds(row.x, row.sketch, work, row.merge, seed=row.seed, n_rounds=row.n_rounds)


def test_a_slow_worker_s_steps_count():
    row, faults = row_of(local_steps=40, rounds=2), []

    def slowly(local):
        class Slow:
            def __call__(self, k, worker, submodel):
                return local(k, worker, submodel)

            def until(self, stop):
                return local.until(lambda steps: time.sleep(0.08) or stop(steps))

        return Slow()

    patience = Patience(floor=2, first=2)
    seats = seats_of(row, {3: slowly})
    first, _ = run(row, seated(seats, patience=patience, report=faults.append))
    assert {(0, 3, "slow"), (1, 3, "slow")} <= set(kinds(faults))
    taken = first.trained[3].n_steps
    assert 1 < taken < 20
    assert max(z.n_steps for z in first.trained) == 40
    by_plan = row.local.until(lambda steps: steps == taken)(0, 3, first.submodels[3])
    assert all(
        (a == b).all() for a, b in zip(first.trained[3].tensors(), by_plan.tensors(), strict=True)
    )


def test_too_few_workers_end_the_run_and_are_named():
    row, faults = row_of(), []
    seats = seats_of(row, {i: in_round({1}, hang) for i in (0, 1, 3)}, comes_back=False)
    with pytest.raises(
        WorkerLostError,
        match=r"round 2 needs 2 of 4 workers and waited 0.3 s in vain. Missing are worker 0: its "
        r"thread is silent; worker 1: .*; worker 3: ",
    ):
        run(row, seated(seats, patience=IMPATIENT, report=faults.append))
    assert [(f.worker, f.reason) for f in faults if f.kind == "waiting"] == [
        (i, "1 of 4 workers are there, 2 needed") for i in (0, 1, 3)
    ]


def hang(k, worker, submodel, local):
    LEAVING.wait(60)
    return local(k, worker, submodel)


def test_a_round_from_which_nobody_came_back_is_repeated():
    row, faults = row_of(), []
    tries = []

    def once(k, worker, submodel, local):
        tries.append(worker)
        if tries.count(worker) == 1:
            LEAVING.wait(60)
        return local(k, worker, submodel)

    seats = seats_of(row, {i: in_round({2}, once) for i in range(4)})
    patience = Patience(floor=2.0, first=20, missing=20, least=4)  # of a busy machine
    apart = run(row, seated(seats, patience=patience, report=faults.append))
    assert {f.kind for f in faults} - {"waiting"} == {"frozen", "joined"}  # or all came at once
    assert {f.round for f in faults if f.kind == "frozen"} == {2}
    assert_same_models(apart, run(row, here(row.local)))


def test_a_worker_that_never_answers_is_not_sent_for_for_ever():
    row, faults = row_of(rounds=2000), []
    seats = seats_of(row, {1: in_round(range(1000), hang)})
    patience = Patience(floor=0.3, first=1, missing=5)
    work = seated(seats, patience=patience, report=faults.append)
    for _ in iterate(row, work):
        if len(seats[1]._door.dismissals) == 6:
            break
        time.sleep(0.05)
    assert [f.kind for f in faults if f.worker == 1].count("frozen") == 6
    assert seats[1]._door.dismissals == [False] * 5 + [True]


def test_three_seconds_are_the_least_and_five_minutes_the_first_deadline():
    patience = Patience()
    assert patience.deadline([]) == 300
    assert patience.deadline([0.1] * 5) == 3
    assert patience.deadline([1.0, 5.0, 2.0]) == 8
    assert [patience.enough(n) for n in (1, 2, 3, 4)] == [1, 1, 2, 2]
    assert SMALL.workers == 4


def test_a_worker_that_cuts_differently_says_what_it_expected():
    """Another job on the other side: refused by the worker, with both numbers, and the run ends."""
    row, other = row_of(), row_of(hidden=(40, 32))
    seats = seats_of(other)
    with pytest.raises(
        WorkerLostError, match=r"3 attempts: worker 0: FrameError: round 0 announces \d+ entries"
    ):
        run(row, seated(seats))


def leaves(link):
    link.receive_payload(link.receive_header(until=None), until=None)  # the job


def test_a_worker_that_left_before_its_first_round_is_named_and_replaced():
    row, faults = row_of(), []
    door = Threads(leaves)
    seats = seats_of(row)
    seats[2] = Remote(2, door)
    OPEN.append(seats[2])
    ready = seats[2].assign("{}", row.local)
    door.live = lambda link: serve(
        link, 2, lambda _: (templates(row.sketch, row.seed, row.x), row.local)
    )
    ready()
    apart = run(row, seated(seats, report=faults.append))
    assert kinds(faults)[0] == (0, 2, "not ready")
    assert faults[0].reason.endswith("closed the connection; its thread is silent")
    assert door.dismissals == [False]
    assert_same_models(apart, run(row, dropping(here(row.local), dropped(faults))))


def takes(link):
    leaves(link)
    link.send(Header(Verb.BUILDING), until=None)


@pytest.mark.parametrize(("says", "which"), [(leaves, "TAKING"), (takes, "SILENT")])
def test_a_worker_that_freezes_on_taking_its_job_is_waited_for_as_long_as_it_shows_life(
    says, which, monkeypatch
):
    def freezes(link):
        says(link)
        LEAVING.wait(20)

    monkeypatch.setattr(seats_of_workers, which, 0.5)
    row, faults, began = row_of(), [], time.monotonic()
    seats = seats_of(row)
    seats[2] = Remote(2, Threads(freezes, comes_back=False))
    OPEN.append(seats[2])
    seats[2].assign("{}", row.local)()
    assert time.monotonic() - began < 15
    run(row, seated(seats, report=faults.append))
    assert kinds(faults)[:2] == [(0, 2, "not ready"), (0, 2, "absent")]
    assert faults[0].reason == "silent for 0.5 s on being told its job; its thread is silent"


def test_a_worker_that_takes_long_to_build_its_job_and_shows_life_is_waited_for(monkeypatch):
    monkeypatch.setattr(seats_of_workers, "SILENT", 3.0)
    row = row_of()

    def build(_):
        time.sleep(3.5)
        return templates(row.sketch, row.seed, row.x), row.local

    seat = Remote(0, Threads(lambda link: serve(link, 0, build)))
    OPEN.append(seat)
    seat.assign("{}", row.local)()
    assert seat.present()
    assert not seat.left()


def test_where_nobody_stays_for_a_first_round_the_run_ends_at_once():
    row, faults = row_of(), []
    seats = [Remote(i, Threads(leaves)) for i in range(2)]
    OPEN.extend(seats)
    for ready in [seat.assign("{}", row.local) for seat in seats]:
        ready()
    with pytest.raises(
        WorkerLostError, match=r"round 0 needs 1 of 2 workers and waited \d.\d s in"
    ):
        run(row, seated(seats, report=faults.append))
    assert [f.kind for f in faults].count("not ready") == 2 * 6
    assert [seat._door.dismissals for seat in seats] == [[False] * 5 + [True]] * 2
