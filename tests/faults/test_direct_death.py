"""Real signals to the ranks of `train --exchange direct`: it ends in seconds, says why, goes on."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worker_processes import descendants

pytestmark = pytest.mark.faults
SMALL = ["--hidden", "12", "--batch-size", "8", "--workers", "3", "--momentum", "0.5"]


SOONER = """
import sys
from subnetwork.cli import main
from subnetwork.runtime.direct import ranks

ranks.FROZEN = 4.0
sys.exit(main(sys.argv[1:]))
"""


def command(*flags):
    return [sys.executable, "-c", SOONER, "train", *map(str, flags)]


def children(pid):
    """Process ids of ranks 1 and 2."""
    named = ((name, pids[0]) for name, pids in descendants(pid).items() if name[:5] == "rank ")
    return {int(name.split()[1]): first for name, first in named}


def gone(pids, seconds=10.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = [Path(f"/proc/{pid}/stat") for pid in pids]
        if not any(s.exists() and s.read_text().split(") ")[1][0] != "Z" for s in states):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def run(tmp_path):
    """A run in full swing, with a checkpoint."""
    yield from running(tmp_path, "--rounds", 100_000, "--checkpoint-every", 1)


def running(tmp_path, *flags):
    process = subprocess.Popen(
        command(*SMALL, "--exchange", "direct", *flags),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 300
    kept = tmp_path / "runs/train.unfinished/checkpoints"
    while not list(kept.glob("round-*")) and time.monotonic() < until:
        time.sleep(0.05)
    ranks = children(process.pid)
    assert sorted(ranks) == [1, 2]
    time.sleep(random.random())
    yield process, ranks
    process.kill()
    process.communicate()


def ended(process, within):
    started = time.monotonic()
    _, errors = process.communicate(timeout=90)
    assert time.monotonic() - started < within
    assert errors.count("\n") == 1, errors
    return errors


def test_a_rank_that_is_killed_is_named_and_the_run_goes_on_to_the_bit(run, tmp_path):
    process, ranks = run
    os.kill(ranks[2], signal.SIGKILL)
    errors = ended(process, within=30)  # of a busy machine
    assert process.returncode == 3
    assert f"rank 2 died (process {ranks[2]} was ended by SIGKILL)" in errors
    (kept,) = re.findall(r"(\d+) rounds? (?:is|are) kept; go on with: subnetwork train", errors)
    assert gone(ranks.values())
    rounds = int(kept) + 1
    for flags in (["--resume"], [*SMALL, "--here", "--out", "here"]):
        subprocess.run(command(*flags, "--rounds", rounds), cwd=tmp_path, check=True)
    models = [tmp_path / at / "model.safetensors" for at in ("runs/train", "here")]
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.fixture
def lasting(tmp_path):
    """A run with replicas, in full swing."""
    yield from running(tmp_path, "--replicas", 1, "--rounds", 150, "--checkpoint-every", 5)


@pytest.mark.parametrize(
    ("sent", "how"),
    [
        (signal.SIGKILL, "was ended by SIGKILL"),
        (signal.SIGSTOP, "was silent for 4 s, and was ended"),
    ],
)
def test_with_replicas_a_rank_that_is_killed_or_frozen_is_replaced_to_the_bit(
    sent, how, lasting, tmp_path
):
    process, ranks = lasting
    os.kill(ranks[1], sent)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"rank 1 died (process {ranks[1]} {how})" in errors
    subprocess.run(
        command(*SMALL, "--here", "--rounds", 150, "--out", "here"), cwd=tmp_path, check=True
    )
    models = [tmp_path / at / "model.safetensors" for at in ("runs/train", "here")]
    assert models[0].read_bytes() == models[1].read_bytes()
    _, *rows, end = map(json.loads, (tmp_path / "runs/train/ist.jsonl").read_text().splitlines())
    assert end == {"end": "done"}
    assert [row["k"] for row in rows] == list(range(150))
    (fault,) = [fault for row in rows for fault in row["faults"]]
    assert (fault["worker"], fault["kind"]) == (1, "rebuilt")
    assert fault["seconds"] > 0
    assert gone(ranks.values())


def test_with_replicas_two_deaths_at_once_end_the_run_as_one_does_without(lasting):
    process, ranks = lasting
    for pid in ranks.values():
        os.kill(pid, signal.SIGKILL)
    errors = ended(process, within=60)
    assert process.returncode == 3
    assert "was ended by SIGKILL" in errors
    assert "kept; go on with: subnetwork train --resume" in errors
    assert gone(ranks.values())


def test_no_rank_outlives_the_command(run):
    process, ranks = run
    process.kill()
    assert gone(ranks.values())


def test_an_interrupt_ends_the_round_and_keeps_it(run):
    process, ranks = run
    process.send_signal(signal.SIGINT)
    assert "interrupted; " in ended(process, within=30)
    assert process.returncode == 130
    assert gone(ranks.values())


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_of_all_processes_keeps_the_rounds(sent, run):
    """As a terminal that is closed, or a supervisor, sends it."""
    process, ranks = run
    os.killpg(process.pid, sent)
    errors = ended(process, within=30)
    assert process.returncode == 130
    assert int(re.findall(r"(\d+) rounds are kept; go on with", errors)[0]) > 1
    assert gone(ranks.values())


def test_an_interrupt_gets_through_to_a_run_whose_rank_is_frozen(run):
    process, ranks = run
    os.kill(ranks[1], signal.SIGSTOP)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert "kept; go on with: subnetwork train --resume" in ended(process, within=40)
    assert process.returncode == 130
    assert gone(ranks.values())
