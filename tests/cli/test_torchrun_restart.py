"""torchrun starts the command's ranks again, and the run goes on from its last checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROUNDS, BEFORE = 300, 10


def rows_of(record):
    """How many there are so far."""
    with suppress(OSError):
        return max(0, record.read_bytes().count(b"\n") - 1)
    return 0


def process_of(rank, agent):
    """The process that torchrun has started for a rank."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
            words = status.with_name("environ").read_bytes().split(b"\0")
            if parent == agent and f"RANK={rank}".encode() in words:
                found.append(int(status.parent.name))
    (process,) = found
    return process


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["star", "direct"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_whose_rank_is_killed_goes_on_when_torchrun_starts_all_again(
    rank, exchange, tmp_path
):
    launch = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    flags = ["--hidden", "12", "--batch-size", "8", "--rounds", str(ROUNDS), "--out", "run"]
    flags += ["--checkpoint-every", "1", "--exchange", exchange]
    record = tmp_path / "run.unfinished" / "ist.jsonl"
    run = [sys.executable, "-m", "torch.distributed.run", *launch, "--monitor-interval", "0.1"]
    with (tmp_path / "said").open("w") as said:
        agent = subprocess.Popen(
            [*run, "-m", "subnetwork", "train", *flags], cwd=tmp_path, stdout=said, stderr=said
        )
    try:
        until = time.monotonic() + 300
        while rows_of(record) < BEFORE and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(process_of(rank, agent.pid), signal.SIGKILL)
        status = agent.wait(timeout=300)
    finally:
        agent.terminate()
        agent.wait()
    words = (tmp_path / "said").read_text()
    assert status == 0, words
    header, *rows, end = map(json.loads, (tmp_path / "run/ist.jsonl").read_text().splitlines())
    (resumed,) = header["resumed"]
    assert BEFORE - 1 <= resumed["k"] < ROUNDS
    assert resumed["changed"] == {}
    assert f"goes on after round {resumed['k']} of {ROUNDS}" in words
    assert [row["k"] for row in rows] == list(range(ROUNDS))
    assert end == {"end": "done"}
    assert (tmp_path / "run/model.safetensors").exists()
    assert not record.parent.exists()
