"""A rank that dies before all have met is named at once, whether the dead are replaced or not."""

import pytest

from subnetwork.algorithm import WorkerLostError
from subnetwork.runtime.direct import launched_ranks

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
