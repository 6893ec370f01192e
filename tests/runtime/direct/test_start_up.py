"""A rank that dies before all have met is named at once, whether the dead are replaced or not."""

import errno
import subprocess

import pytest

from subnetwork.algorithm import WorkerLostError
from subnetwork.runtime.direct import launched_ranks
from subnetwork.runtime.direct.ranks import _Children

DIES = """
import sys
from pathlib import Path
from subnetwork.runtime.direct import rank_here
if {comes}:
    rank_here(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
sys.exit("no such data")
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
    children = _Children(tmp_path, "dies", 2)
    children.replacing(True)
    children.start()
    assert children._noticed.wait(60)

    def refuses(*_args, **_named):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuses)
    named = r"rank 1 died .*no such data.* no process could be started in its seat: Resource temp"
    with pytest.raises(WorkerLostError, match=named):
        children.replace(1)
    children.end()
