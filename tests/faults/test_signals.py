"""Real worker processes, real signals at random times: what the run does, to the bit."""

import os
import random
import signal
import threading
import time
from itertools import pairwise

import pytest

from seats_in_threads import assert_same_models, row_of
from subnetwork.algorithm import rounds
from subnetwork.methods import Training
from subnetwork.methods.worker import MODULE
from subnetwork.runtime import Patience, dropped, dropping, here, launched, seated
from worker_processes import alive, children

FIVE_TIMES = [0, *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(1, 5))]
RUN = {
    "momentum": 0.5,
    "hidden": (12, 9),
    "workers": 4,
    "rounds": 3000,
    "local_steps": 2,
    "batch_size": 8,
}
QUICK = Patience(floor=3.0, factor=4, first=120.0)


@pytest.fixture(scope="module")
def seats():
    with launched(4, MODULE) as started:
        yield started


def run_until(seats, row, job, faults, *, signals, done, patience=QUICK):
    """Rounds until `done(faults)`, and six more.

    `signals` are (seconds after the first round, process ids, signal).
    """
    for ready in [seat.assign(job, row.local) for seat in seats]:
        ready()
    work = seated(seats, patience=patience, report=faults.append)
    run, left = [], 6
    for one in rounds(row.x, row.sketch, work, row.merge, seed=row.seed, n_rounds=3000):
        run.append(one)
        if one.k == 0:
            timers = [threading.Timer(at, send, (pids, number)) for at, pids, number in signals]
            for timer in timers:
                timer.start()
        left -= done(faults)
        if not left:
            break
        if faults:  # rounds that only wait for the new worker, each of which is done again by plan
            time.sleep(0.05)
    for timer in timers:
        timer.join()
    return run


def job_of(**changes):
    return Training(**RUN | changes).to_json()


def planned(row, n_rounds, faults):
    """The one-process run in which the faults' blocks are dropped by plan."""
    work = dropping(here(row.local), dropped(faults))
    return list(rounds(row.x, row.sketch, work, row.merge, seed=row.seed, n_rounds=n_rounds))


def send(pids, number):
    for pid in pids:
        os.kill(pid, number)


def rejoined(faults):
    return "joined" in [fault.kind for fault in faults]


METHODS_OF_SEEDS = ["ist", "diloco", "local_sgd", "synchronous_sgd", "ist"]


@pytest.mark.parametrize("seed", FIVE_TIMES)
def test_a_killed_worker_is_the_run_that_dropped_its_block_by_plan(seats, seed):
    """Exact recovery, and nobody waits: the others' round ends, a new worker takes the seat."""
    words = random.Random(seed)
    changes = RUN | {"method": METHODS_OF_SEEDS[seed], "seed": seed, "momentum": 0.5 * (seed % 2)}
    row, faults = row_of(**changes), []
    victim = words.randrange(4)
    pid = children()[victim]
    kill = (words.uniform(0.0, 0.5), [pid], signal.SIGKILL)
    apart = run_until(seats, row, job_of(**changes), faults, signals=[kill], done=rejoined)
    assert {fault.worker for fault in faults} == {victim}
    assert faults[0].kind == "lost"
    assert faults[0].seconds < 2  # no deadline was waited for
    assert_same_models(apart, planned(row, len(apart), faults))
    assert children()[victim] != pid
    assert not alive(pid)


@pytest.mark.parametrize("seed", FIVE_TIMES)
def test_a_frozen_worker_costs_one_deadline_and_is_replaced(seats, seed):
    words = random.Random(seed)
    row, faults = row_of(**RUN), []
    victim = words.randrange(4)
    pid = children()[victim]
    stop = (words.uniform(0.0, 0.5), [pid], signal.SIGSTOP)
    apart = run_until(seats, row, job_of(), faults, signals=[stop], done=rejoined)
    first = next(fault for fault in faults if fault.kind != "slow")
    assert (first.worker, first.kind) == (victim, "frozen")
    assert [fault.kind for fault in faults].count("frozen") == 1
    assert 2.5 < first.seconds < 6  # the deadline; a busy machine adds, and starts it late
    assert_same_models(apart, planned(row, len(apart), faults))
    assert not alive(pid)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(5))
def test_a_worker_stopped_for_less_than_the_deadline_is_no_fault(seats, seed):
    row, faults = row_of(**RUN), []
    pid = children()[seed % 4]
    signals = [(0.2, [pid], signal.SIGSTOP), (0.8, [pid], signal.SIGCONT)]
    stopped = []

    def done(_):
        stopped.append(time.monotonic())
        return stopped[-1] - stopped[0] > 1.5

    patience = Patience(floor=10)
    apart = run_until(seats, row, job_of(), faults, signals=signals, done=done, patience=patience)
    assert max(b - a for a, b in pairwise(stopped)) > 0.4  # all waited for it
    assert faults == []
    assert children()[seed % 4] == pid
    assert_same_models(apart, planned(row, len(apart), faults))


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(5))
def test_all_workers_killed_at_once_are_waited_for_and_no_round_is_lost(seats, seed):
    row, faults = row_of(**RUN), []
    pids = children()
    kill = (0.1 * seed, pids, signal.SIGKILL)
    apart = run_until(seats, row, job_of(), faults, signals=[kill], done=rejoined)
    assert {"lost", "waiting", "joined"} <= {fault.kind for fault in faults}
    assert all(any(z.params for z in one.trained) for one in apart)
    assert_same_models(apart, planned(row, len(apart), faults))
