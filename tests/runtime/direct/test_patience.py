"""How long ranks wait for the slowest one, what they say in the end, and which signals matter."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from datetime import timedelta
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from subnetwork.algorithm import WorkerLostError
from subnetwork.experiments.direct import Job, follow
from subnetwork.methods import Training
from subnetwork.runtime.direct import Rank, launched_ranks, over, place, rank_here, ranks
from subnetwork.runtime.direct.links import Post, whole

TEN_MINUTES, DAY = timedelta(minutes=10), timedelta(days=1)
LOOPBACK, FAR = "127.0.0.1", "10.177.0.1"


class Group:
    """What waits of it is noted; a rank that is waited for in vain is so at once."""

    def __init__(self):
        self.waited = []

    def send(self, *_):
        return self

    recv = send

    def wait(self, limit):
        self.waited.append(limit)
        raise RuntimeError("Timed out waiting")


def exchanged(links):
    word = torch.zeros(1, dtype=torch.uint8)
    links(Post([[], [word]], whole([0, 1])))


@pytest.mark.parametrize("patience", [None, timedelta(hours=3)])
def test_the_slowest_rank_is_waited_for_as_long_as_is_said(patience):
    group = Group()
    links = over(group, 0) if patience is None else over(group, 0, patience)
    with pytest.raises(WorkerLostError, match="rank 1 did not answer rank 0: Timed out waiting"):
        exchanged(links)
    assert group.waited == [patience or TEN_MINUTES]


def seen(rank, monkeypatch):
    """How long a rank's links wait for the others."""
    group = Group()
    monkeypatch.setattr(place, "meet", lambda *_, **__: group)
    with pytest.raises(WorkerLostError):
        exchanged(replace(rank, ready=lambda: None).links())
    return group.waited


def test_where_rank_0_owns_the_processes_a_slow_rank_ends_no_run(tmp_path, monkeypatch):
    """The watch over them sees who is dead or frozen."""
    with launched_ranks(1, "nothing") as first:
        assert seen(replace(first, n_workers=2, fate=lambda: None), monkeypatch) == [DAY]
    (tmp_path / "run").mkdir()
    other = rank_here(tmp_path / "run", 1, 2)
    assert other.patience == DAY
    assert other.patient(5.0).patience == DAY
    shutil.rmtree(tmp_path / "run")  # it shows there that it lives


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        (300.0, TEN_MINUTES),
        (4_000.0, timedelta(seconds=4_000)),
        (1e300, DAY),
    ],
)
def test_under_torchrun_the_run_says_how_long(asked, waits, monkeypatch):
    class SeenError(Exception):
        pass

    def links(self):
        raise SeenError(self.patience)

    monkeypatch.setattr(Rank, "links", links)
    run = Training(hidden=(4,), workers=2, batch_size=8, exchange="direct", patience=asked)
    with pytest.raises(SeenError) as found:
        follow(Rank(1, 2, dist.HashStore(), LOOPBACK), Job(run, Mock(), None).to_json())
    assert found.value.args == (waits,)


@pytest.mark.parametrize(("host", "told"), [(LOOPBACK, False), (None, False), (FAR, True)])
def test_ranks_of_several_hosts_are_told_of_ports_where_they_do_not_meet(host, told, monkeypatch):
    """Later they have reached each other: something else is wrong."""
    hint = " Check that hosts reach each other on any TCP port."

    def fails(*_, **__):
        raise WorkerLostError("rank 0 did not meet the others: no route.")

    monkeypatch.setattr(place, "meet", fails)
    first = Rank(0, 2, dist.HashStore(), host)
    with pytest.raises(WorkerLostError) as found:
        first.links()
    assert str(found.value) == f"rank 0 did not meet the others: no route.{hint * told}"
    monkeypatch.setattr(place, "meet", lambda *_, **__: Group())
    with pytest.raises(WorkerLostError) as found:
        exchanged(first.links())
    assert str(found.value) == "rank 1 did not answer rank 0: Timed out waiting."
    with pytest.raises(WorkerLostError, match=r"^rank 1 died\.$"):
        exchanged(replace(first, fate=lambda: "rank 1 died.").links())


@pytest.fixture
def handled():
    """Handlers for signals of this process that do nothing."""
    numbers = (signal.SIGUSR1, signal.SIGALRM, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize(
    ("sent", "ended"),
    [
        ([signal.SIGUSR1] * 3, False),
        ([signal.SIGALRM], False),
        ([signal.SIGUSR1, signal.SIGTERM], True),
        ([signal.SIGTERM, signal.SIGUSR1], True),
    ],
)
def test_only_what_ends_a_run_ends_its_ranks_after_the_grace(sent, ended, monkeypatch):
    """A library may have handlers of its own, of a timer or of its children."""
    monkeypatch.setattr(ranks, "GRACE", 0.1)
    killed, process = threading.Event(), Mock()
    process.kill = killed.set
    with ranks._grace(Mock(_processes={1: process})):
        for number in sent:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        assert killed.wait(5.0 if ended else 0.5) == ended
