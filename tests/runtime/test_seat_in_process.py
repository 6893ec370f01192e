"""Worker 0 under torchrun sits in the coordinator's process: its faults are like others'."""

import time

import pytest

from seats_in_threads import (
    assert_same_models,
    in_round,
    kinds,
    leave_all,
    raises,
    row_of,
    run,
    seats_of,
)
from subnetwork.algorithm import WorkerLostError
from subnetwork.nets import ABSENT
from subnetwork.nets.local import LocalSteps
from subnetwork.runtime import Patience, dropped, dropping, here, seated
from subnetwork.runtime.in_process import InProcess


@pytest.fixture(autouse=True)
def _leaving():
    yield
    leave_all()


def seats_with(row, own):
    """Seats of which the first one is this process, with another local work."""
    seats = seats_of(row)
    seats[0].leave()
    seats[0] = InProcess(0)
    seats[0].assign("{}", own)()
    return seats


def test_it_is_the_one_process_run():
    row, faults = row_of(), []
    apart = run(row, seated(seats_with(row, row.local), report=faults.append))
    assert_same_models(apart, run(row, here(row.local)))
    assert faults == []


def test_an_exception_of_its_local_work_drops_its_block_of_that_round():
    row, faults = row_of(), []
    own = in_round({1, 3}, raises)(row.local)
    apart = run(row, seated(seats_with(row, own), report=faults.append))
    assert kinds(faults) == [(1, 0, "failed"), (3, 0, "failed")]
    assert faults[0].reason.endswith("MemoryError: out of memory\n")
    plan = dropping(here(row.local), dropped(faults))
    assert_same_models(apart, run(row, plan))


def test_its_third_fault_is_its_last_and_the_run_goes_on():
    row, faults = row_of(), []
    apart = run(
        row, seated(seats_with(row, in_round(range(9), raises)(row.local)), report=faults.append)
    )
    assert [f.kind for f in faults[:4]] == ["failed", "failed", "failed", "evicted"]
    assert {f.kind for f in faults[4:]} == {"absent"}
    assert all(done.trained[0] is ABSENT for done in apart)


def test_where_all_fail_it_is_the_work():
    row = row_of(workers=1)
    with pytest.raises(WorkerLostError, match="failed on every worker in round 0: MemoryError"):
        run(row, seated(seats_with(row, raises)))


def test_a_slow_one_stops_between_its_steps_at_the_deadline():
    """Three quarters of half a second, and steps of a tenth: not all of 20; those taken count."""
    row, faults = row_of(local_steps=20, rounds=1), []
    took = []

    class Slow:
        def __init__(self, local):
            self.local = local

        def __call__(self, k, worker, submodel):
            return self.local(k, worker, submodel)

        def until(self, stop):
            def slower(n):
                time.sleep(0.1)
                took.append(n)
                return stop(n)

            return self.local.until(slower)

    assert isinstance(row.local, LocalSteps)
    patience = Patience(floor=0.5, factor=4, first=0.5, missing=0.3)
    (done,) = run(
        row, seated(seats_with(row, Slow(row.local)), patience=patience, report=faults.append)
    )
    assert kinds(faults) == [(0, 0, "slow")]
    assert 0 < done.trained[0].n_steps < 20
    assert faults[0].reason == f"stopped after {done.trained[0].n_steps} local steps"
