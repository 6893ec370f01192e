"""A rank that dies before all have met is named at once, whether the dead are replaced or not."""

import pytest

from subnetwork.algorithm import WorkerLostError
from subnetwork.nursery import nursery
from subnetwork.runtime.direct import launched_ranks, ranks

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
        assert children._known.wait(60)
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
