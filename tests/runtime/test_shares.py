"""Shares by measured speed: a slow worker gets less, and the record says enough to do it again."""

import socket
import time
from dataclasses import replace

import pytest
import torch

from seats_in_threads import SMALL, leave_all, run, seats_of
from subnetwork.algorithm import rounds
from subnetwork.experiments.resume import Start
from subnetwork.experiments.training import train
from subnetwork.methods.rows import method, task
from subnetwork.runtime import here
from subnetwork.runtime.serve import serve, templates, with_shares
from subnetwork.runtime.shares import PERIOD, Shares, reweighed
from subnetwork.runtime.wire import Header, Link, Verb, text_payload

RUN = replace(SMALL, hidden=(32,), rounds=2 * PERIOD + 1, shares="measured")


@pytest.fixture(autouse=True)
def _leaving():
    yield
    leave_all()


def slow(local):
    """A worker that needs ten times as long, on a machine as busy as it may be."""

    def work(k, worker, submodel):
        began = time.monotonic()
        trained = local(k, worker, submodel)
        time.sleep(9 * (time.monotonic() - began))
        return trained

    return work


def test_a_slow_worker_gets_less_and_the_record_says_how_to_do_it_again():
    t = task(RUN)
    row = method(t)
    torch.set_num_threads(1)
    done = list(train(t, row, seats_of(row, {3: slow})))
    weights = [tuple(one.row["weights"]) for one in done]
    assert weights[0] == (8, 8, 8, 8)
    assert [len(set(weights[i : i + PERIOD])) for i in (0, PERIOD)] == [1, 1]
    assert weights[-1][3] == min(weights[-1]) < 8
    assert done[-1].row["bytes_down"][3] < done[0].row["bytes_down"][3]
    assert not [fault for one in done for fault in one.row["faults"]]
    x = row.x
    for k, of_round in enumerate(weights):
        sketch = with_shares(row.sketch, of_round)
        (again,) = rounds(
            x, sketch, here(row.local), row.merge, seed=row.seed, n_rounds=k + 1, start=k
        )
        x = again.x
    assert all(torch.equal(x.params[name], p) for name, p in done[-1].x.params.items())


def test_a_run_that_goes_on_keeps_its_shares():
    t = task(RUN)
    row = method(t)
    start = Start(lambda: row.x, 9, {"weights": [10, 9, 8, 5]})
    first = next(train(t, row, None, start))
    assert first.row["weights"] == [10, 9, 8, 5]
    other = next(train(t, row, None, replace(start, row={"weights": [8, 8]})))  # of another n
    assert other.row["weights"] == [8, 8, 8, 8]


def test_shares_come_to_rest_where_all_take_equally_long():
    """Speeds 1, 1, 2, 4; a step costs the share times a constant, or its square."""
    power = [1.0, 1.0, 2.0, 4.0]
    for exponent in (1, 2):
        weights = (8, 8, 8, 8)
        for _ in range(8):
            speeds = [p / w**exponent for p, w in zip(power, weights, strict=True)]
            weights = reweighed(weights, speeds, 1000)
        speeds = [p / w**exponent for p, w in zip(power, weights, strict=True)]
        assert max(speeds) / min(speeds) < 1.6  # 4 times at first; weights are whole numbers


def test_everybody_keeps_a_unit_and_who_was_away_its_share():
    for size in (4, 5, 9, 100):
        found = reweighed((8, 8, 8, 8), (1.0, 1e4, 1e4, 1e4), size)
        assert size * min(found) >= sum(found)
    kept = reweighed((8, 8), (None, 5.0), 100)
    assert kept == (8, 8)
    shares = Shares((8, 8), 100)
    row = {"worker_steps": [0, 10], "compute_seconds": [0.0, 1.0]}
    for _ in range(PERIOD):
        shares.told(row)
    assert shares.weights == (8, 8)


def test_only_a_permutation_has_shares():
    with pytest.raises(ValueError, match="diloco deals otherwise. Use --shares equal"):
        method(task(replace(RUN, method="diloco")))
    with pytest.raises(ValueError, match="--shares measured changes them"):
        method(task(replace(RUN, compile=True)))
    row = method(task(replace(RUN, method="local_sgd", shares="equal")))
    with pytest.raises(ValueError, match="Full deals otherwise"):
        with_shares(row.sketch, (1, 2, 3, 4))


@pytest.mark.parametrize("text", ["", "[1, 2]", "[0, 1, 1, 1]", '"x"', "[1e999, 1, 1, 1]"])
def test_shares_that_are_none_end_a_worker_s_loop_with_a_word_why(text):
    row = method(task(RUN))
    ours, theirs = map(Link, socket.socketpair())
    until = time.monotonic() + 10
    for verb, said in ((Verb.JOB, "{}"), (Verb.SHARES, text)):
        payload = text_payload(said) if said else None
        ours.send(Header(verb, length=len(said)), payload, until=until)
    ours.socket.shutdown(socket.SHUT_WR)
    build = lambda _: (templates(row.sketch, row.seed, row.x), row.local)  # noqa: E731
    assert not serve(theirs, 0, build)
    assert ours.receive_header(until=until).verb == Verb.BUILDING
    assert ours.receive_header(until=until).verb == Verb.READY
    assert ours.receive_header(until=until).verb == Verb.FAILED
    ours.close()


def test_equal_shares_are_said_to_nobody():
    row = method(task(replace(RUN, rounds=3, shares="equal")))
    t = task(replace(RUN, rounds=3, shares="equal"))
    done = list(train(t, row, seats_of(row)))
    assert "weights" not in done[0].row
    apart = run(row, here(row.local))
    assert torch.equal(done[-1].x.params["0.weight"], apart[-1].x.params["0.weight"])
