"""The same command under torchrun gives the same model as one process."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from subnetwork.cli import main

SBATCH = Path(__file__).parents[2] / "examples" / "slurm.sbatch"
SRUN = """#!/bin/bash
# what SLURM does, on one host: one step for each node, or one for --ntasks=1
[[ "$*" == *hostname* ]] && { echo "127.0.0.1 "; exit; }
for node in 0 1; do SLURM_NODEID=$node "$@" & done
wait -n && wait -n
"""


def test_torchrun_equals_one_process_bit_for_bit(tmp_path):
    flags = ["--rounds", "2", "--hidden", "12", "--batch-size", "8"]
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    subprocess.run(
        [sys.executable, "-m", *launch, "-m", "subnetwork", "train", *flags, "--out", "apart"],
        cwd=tmp_path,
        check=True,
        timeout=300,
        capture_output=True,
    )
    here = ["train", *flags, "--workers", "3", "--here", "--out", "together"]
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with contextlib.chdir(tmp_path):  # in this process, since torch takes seconds to import
        assert main(here) == 0
    for number, handler in handlers.items():
        signal.signal(number, handler)
    apart = (tmp_path / "apart" / "model.safetensors").read_bytes()
    assert apart == (tmp_path / "together" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_example_for_slurm_trains_over_its_nodes_and_goes_on_when_it_is_started_again(tmp_path):
    """Two nodes of one rank each, played by this host."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/bash\necho node0; echo node1\n"}.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    path = f"{stubs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_JOB_ID": "7"}
    flags = ["--hidden", "12", "--batch-size", "8", "--checkpoint-every", "1"]

    def submitted(*more):
        done = subprocess.run(
            ["bash", SBATCH, *flags, *more],
            cwd=tmp_path,
            env=os.environ | slurm | {"PATH": path, "OUT": "run"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    submitted("--rounds", "2")
    (tmp_path / "run").rename(tmp_path / "run.unfinished")  # as a job that was stopped leaves it
    assert "goes on after round 2 of 3" in submitted("--rounds", "3")
    assert '"workers": 2' in (tmp_path / "run" / "ist.jsonl").read_text()
