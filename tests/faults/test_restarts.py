"""torchrun starts its processes again: every attempt meets under a prefix of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from dataclasses import replace
from pathlib import Path
from seats_in_threads import row_of
from subnetwork.algorithm import rounds
from subnetwork.runtime import place_under_torchrun, seated
from subnetwork.runtime.serve import templates

attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
row = row_of(workers=2, rounds=4)

def local(k, worker, submodel):
    if attempt < int(sys.argv[2]) and (k, worker) == (2, attempt % 2):
        os.kill(os.getpid(), 9)
    return replace(submodel, loss=0.0, n_steps=1)  # nothing to learn, nothing to import

place = place_under_torchrun()
if place.rank:
    sys.exit(place.serve(lambda _: (templates(row.sketch, row.seed, row.x), local)))
with place.seats() as seats:
    (Path(sys.argv[1]) / f"attempt{attempt}").touch()  # all ranks have met
    for ready in [seat.assign("{}", local) for seat in seats]:
        ready()
    for one in rounds(row.x, row.sketch, seated(seats), row.merge, seed=row.seed, n_rounds=4):
        pass
"""


@pytest.mark.faults
def test_five_of_five_restarts_meet(tmp_path):
    all_meet(5, tmp_path)


@pytest.mark.slow
def test_twenty_of_twenty_restarts_meet(tmp_path):
    all_meet(20, tmp_path)


def all_meet(restarts, tmp_path):
    """In turns rank 0 and rank 1 are killed in round 2, and torchrun starts both again."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "met").mkdir()
    launch = ["--standalone", "--nproc-per-node", "2", "--monitor-interval", "0.1"]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", *launch),
            *("--max-restarts", str(restarts), str(tmp_path / "script.py")),
            *(str(tmp_path / "met"), str(restarts)),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "met").iterdir())) == restarts + 1
