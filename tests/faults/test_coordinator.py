"""The coordinator dies, is told to end, or is gone: what workers do, and how the run goes on."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from subnetwork.experiments.resume import saved
from worker_processes import all_gone, children

ROUNDS = 100
SMALL = ["--hidden", "12", "--batch-size", "8", "--workers", "2", "--momentum", "0.5"]
COMMAND = [sys.executable, "-m", "subnetwork", "train"]
RANK = """
import sys
import torch.distributed as dist
from subnetwork.runtime import torchrun
torchrun.JOIN = 1.0
place = torchrun.Place(int(sys.argv[1]), 2, dist.FileStore(sys.argv[2], 2), None)
if place.rank:
    sys.exit(place.serve(lambda job: None))
with place.seats():
    print("up", flush=True)
    sys.stdin.read()
"""


def started(*flags, cwd):
    return subprocess.Popen(
        [*COMMAND, *flags], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def rows(record):
    """The rows that are whole."""
    lines = [json.loads(line) for line in record.read_text().split("\n")[:-1]]
    return [line for line in lines if "k" in line]


def seconds_until(condition, limit=300):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit
        time.sleep(0.005)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    command = [*COMMAND, *SMALL, "--rounds", str(ROUNDS), "--here"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "runs" / "train"


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(5))
def test_a_killed_coordinator_leaves_no_orphan_and_no_round_is_lost_or_doubled(
    seed, tmp_path, uninterrupted
):
    folder = tmp_path / "runs" / "train.unfinished"
    record = folder / "ist.jsonl"
    run = started(*SMALL, "--rounds", str(ROUNDS), "--checkpoint-every", "1", cwd=tmp_path)
    fresh = seconds_until(lambda: record.exists() and rows(record))
    seconds_until(lambda: len(list(folder.glob("checkpoints/round-*"))) > 1)
    time.sleep(random.Random(seed).uniform(0.0, 0.4))
    workers = children(run.pid)
    run.kill()
    run.communicate()
    assert len(workers) == 2
    assert all_gone(workers, 5)
    kept, damage = saved(folder / "checkpoints")
    assert not damage
    done = rows(record)[-1]["k"] + 1
    assert done - kept.start.k <= 1  # a checkpoint a round: at most the last one is repeated
    run = started("--resume", cwd=tmp_path)
    pause = seconds_until(lambda: rows(record)[-1]["k"] >= kept.start.k)
    pause = max(pause, seconds_until(lambda: rows(record)[-1]["k"] > done) + pause)
    print(f"restart to the first new round {pause:.1f} s, fresh start {fresh:.1f} s")  # noqa: T201
    assert pause < max(5.0, 1.5 * fresh)  # a busy machine starts slowly
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    whole = tmp_path / "runs" / "train"
    assert [row["k"] for row in rows(whole / "ist.jsonl")] == list(range(ROUNDS))
    assert (whole / "model.safetensors").read_bytes() == (
        uninterrupted / "model.safetensors"
    ).read_bytes()


@pytest.mark.faults
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_end_leaves_a_checkpoint_and_no_worker(sent, tmp_path):
    folder = tmp_path / "runs" / "train.unfinished"
    run = started(*SMALL, "--rounds", "100000", "--checkpoint-every", "1", cwd=tmp_path)
    seconds_until(lambda: len(list(folder.glob("checkpoints/round-*"))) > 1)
    workers = children(run.pid)
    began = time.monotonic()
    run.send_signal(sent)
    _, errors = run.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert run.returncode == 130
    assert "rounds are kept; go on with: subnetwork train --resume" in errors
    assert len(workers) == 2
    assert all_gone(workers, 1)
    kept, _ = saved(folder / "checkpoints")
    assert kept.start.k == rows(folder / "ist.jsonl")[-1]["k"] + 1


def test_a_rank_whose_coordinator_is_gone_leaves_with_status_3(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, str(tmp_path / "rank.py")]
    store = str(tmp_path / "store")
    rank = subprocess.Popen([*command, "1", store])
    coordinator = subprocess.Popen(
        [*command, "0", store], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert coordinator.stdout.readline() == "up\n"
    coordinator.kill()
    coordinator.communicate()
    assert rank.wait(timeout=200) == 3
