"""A rank that dies before all have met is named at once, whether the dead are replaced or not."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import torch.distributed as dist

from subnetwork.algorithm import WorkerLostError
from subnetwork.nursery import nursery
from subnetwork.runtime.direct import Rank, launched_ranks, place, ranks
from subnetwork.runtime.handshake import sealed

DIES = """
from pathlib import Path
from subnetwork.runtime.direct import rank_here

def main(arguments):
    folder, rank, n_workers, _ = arguments
    if {comes}:
        rank_here(Path(folder), int(rank), int(n_workers))
    return "no such data"
"""


@pytest.mark.parametrize(("comes", "replaces"), [(False, True), (True, True), (True, False)])
def test_a_rank_that_dies_before_the_others_meet_it_is_named(
    comes, replaces, tmp_path, monkeypatch
):
    (tmp_path / "dies.py").write_text(DIES.format(comes=comes))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        pytest.raises(WorkerLostError, match=r"rank 1 died \(.*no such data"),
        launched_ranks(2, "dies", replaces=replaces) as rank,
    ):
        rank.links()


def test_a_seat_that_no_process_can_be_started_in_ends_the_run_by_name(tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text(DIES.format(comes=False))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with nursery() as births, nursery(forks=False) as others:
        children = ranks._Children(births, tmp_path, "dies", 2)
        children.replacing(True)
        children.start()
        assert children._noticed.wait(60)
        children._births, children._folder = others, tmp_path / "gone"  # no log can be opened there
        assert children.replace(1).startswith("rank 1 died")
        named = "rank 1 died (no process could be started: No such file or directory)."
        until = time.monotonic() + 60
        while children._dead is None and time.monotonic() < until:
            time.sleep(0.01)
        assert children.fate() == named
        children.end()


STOPS = """
import os, signal
from pathlib import Path
from subnetwork.runtime.direct import rank_here

def main(arguments):
    folder, rank, n_workers, number = map(str, arguments)
    rank_here(Path(folder), int(rank), int(n_workers))
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.parametrize("replaces", [True, False])
def test_a_rank_that_is_frozen_is_ended_and_named(replaces, tmp_path, monkeypatch):
    (tmp_path / "stops.py").write_text(STOPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(ranks, "FROZEN", 0.6)
    with nursery() as births:
        children = ranks._Children(births, tmp_path, "stops", 2)
        children.replacing(replaces)
        children.start()
        assert children._noticed.wait(60)
        first = children._processes[1]
        words = f"rank 1 died (process {first.pid} was silent for 0.6 s, and was ended)"
        if replaces:
            assert children.replace(1) == words
            assert children._processes[1] is not first
        else:
            assert children.fate() == f"{words}."
        children.end()


def test_ranks_that_announce_themselves_and_do_not_come_are_named(monkeypatch):
    """Also where gloo waits for one that died after it had announced itself."""
    store = dist.HashStore()
    store.set("here/0/1", "")
    monkeypatch.setattr(place, "CONNECTING", timedelta(seconds=0.5))
    for fate, named in (("rank 1 died.", "rank 1 died."), (None, "rank 0 did not meet the others")):
        first = Rank(0, 2, store, "127.0.0.1", lambda fate=fate: fate, owns=True)
        with pytest.raises(WorkerLostError, match=named):
            first.links()


def test_in_an_open_store_the_word_of_rank_0_is_proved_to_each_rank():
    store, secret = dist.HashStore(), bytes(range(32))
    first, *others = (Rank(i, 3, store, None, secret=lambda: secret) for i in range(3))
    with ThreadPoolExecutor(3) as pool:
        heard = [pool.submit(other.job) for other in others]
        first.give("train this")
        assert [each.result(60) for each in heard] == ["train this"] * 2


def test_a_rank_that_does_not_believe_is_named_to_rank_0_before_anyone_meets():
    store = dist.HashStore()
    first, other = (Rank(i, 2, store, None, secret=lambda i=i: bytes([i] * 32)) for i in range(2))
    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(other.job)
        with pytest.raises(WorkerLostError, match="rank 1 does not believe rank 0"):
            first.give("train this")
        with pytest.raises(ValueError, match="does not prove that it knows the run's secret"):
            heard.result(60)


def test_an_interrupt_is_heard_while_a_rank_has_not_said_that_it_believes():
    store = dist.HashStore()
    store.set("nonce/1", "0" * 64)
    stop = iter([True])
    first = Rank(0, 2, store, None, secret=lambda: bytes(32), stop=lambda: next(stop))
    with pytest.raises(KeyboardInterrupt):
        first.give("train this")
    assert store.check(["job/1"])


@pytest.mark.parametrize("word", ["noise", "of another nonce", "of another secret", ""])
def test_what_a_stranger_writes_in_the_name_of_rank_0_is_not_done(word):
    """Also what rank 0 itself said in an earlier run."""
    store, secret = dist.HashStore(), bytes(range(32))
    store.set(
        "job/1",
        {
            "noise": "x" * 100,
            "of another nonce": sealed(secret, ("/1", "0" * 64), "write there"),
            "of another secret": sealed(bytes(32), ("/1", "0" * 64), "write there"),
            "": "",
        }[word],
    )
    with pytest.raises(ValueError, match="does not prove that it knows the run's secret"):
        Rank(1, 2, store, None, secret=lambda: secret).job()


def test_a_rank_that_does_not_ask_is_named_and_an_interrupt_is_heard(monkeypatch):
    monkeypatch.setattr(place, "MEETING", timedelta(seconds=0.1))
    first = Rank(0, 2, dist.HashStore(), None, secret=lambda: bytes(32))
    with pytest.raises(WorkerLostError, match="rank 1 did not ask rank 0 for the run"):
        first.give("train this")
    with pytest.raises(KeyboardInterrupt):
        replace(first, stop=lambda: True).give("train this")


def test_a_death_that_could_be_mended_is_still_told_where_it_cannot(tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text(DIES.format(comes=False))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with nursery() as births:
        children = ranks._Children(births, tmp_path, "dies", 2)
        children.replacing(True)
        children.start()
        assert children._noticed.wait(60)
        assert children.fate().startswith("rank 1 died (process ")
        assert children._dead is None
        children.end()
