"""Real signals to the ranks of `train --exchange direct`: it ends in seconds, says why, goes on."""

import json
import os
import random
import re
import signal
import time

import pytest
from attacked import (
    EACH,
    MANY,
    UNFINISHED,
    count,
    errors,
    faults,
    here,
    kept_rounds,
    newest,
    rounds_done,
    rows,
    said,
    same_model,
    seconds_until,
    started,
)

from worker_processes import all_gone, descendants

pytestmark = pytest.mark.faults
SMALL = ["--hidden", "12", "--batch-size", "8", "--workers", "3", "--momentum", "0.5"]
DIRECT = [*SMALL, "--exchange", "direct", *MANY]
SOONER = """
import sys
from subnetwork.cli import main
from subnetwork.runtime.direct import ranks

ranks.FROZEN = 4.0
sys.exit(main(sys.argv[1:]))
"""


def running(*flags, cwd):
    return started(*flags, cwd=cwd, program=("-c", SOONER))


def ranks(pid):
    """Process ids of ranks 1 and 2."""
    named = ((name, pids[0]) for name, pids in descendants(pid).items() if name[:5] == "rank ")
    found = {int(name.split()[1]): first for name, first in named}
    assert sorted(found) == [1, 2]
    return found


def in_swing(folder, done, process):
    """Wait until a run has done more rounds than that, and a second at most."""
    seconds_until(lambda: newest(folder) > done + 1, process)
    time.sleep(random.random())


def ended(process, within, cwd):
    """The exit status, and the one error of the run, which its record ends with too."""
    began = time.monotonic()
    status = process.wait(timeout=90)
    assert time.monotonic() - began < within
    *before, line = errors(cwd).splitlines()
    assert all(re.match(r"subnetwork: round \d+: worker \d died; ", each) for each in before)
    assert "go on with: subnetwork train" in line
    last = json.loads((cwd / UNFINISHED / "ist.jsonl").read_text().splitlines()[-1])
    assert ("died" if status == 3 else "interrupted") in last["end"]
    return status, line


ONE_PROCESS = ["--exchange", "star", "--here"]


def to_the_end(folder, cwd, flags=ONE_PROCESS):
    """Three more rounds: to the bit the run in one process that met no fault."""
    rounds = ["--rounds", kept_rounds(folder) + 3]
    assert here("train", "--resume", *flags, *rounds, cwd=cwd) == 0
    assert here("train", *SMALL, "--here", *rounds, "--out", "here", cwd=cwd) == 0
    whole = cwd / "runs/train"
    assert same_model(whole, cwd / "here")
    assert [row["k"] for row in rows(whole / "ist.jsonl")] == list(range(rounds[1]))
    return faults(whole / "ist.jsonl")


def test_a_rank_that_is_killed_is_named_and_the_run_goes_on_to_the_bit_five_times(tmp_path):
    folder, flags, done = tmp_path / UNFINISHED, DIRECT, 0
    for victim in [2, 1, 1, 2, 2]:
        with running(*flags, *EACH, cwd=tmp_path) as process:
            in_swing(folder, done, process)
            pids = ranks(process.pid)
            os.kill(pids[victim], signal.SIGKILL)
            status, line = ended(process, 30, tmp_path)  # of a busy machine
        assert status == 3
        assert f"rank {victim} died (process {pids[victim]} was ended by SIGKILL)" in line
        (kept,) = re.findall(r"(\d+) rounds are kept; go on with: subnetwork train", line)
        assert all_gone(pids.values(), 10)
        before, done = done, int(kept)
        assert kept_rounds(folder) == done > before
        flags = ["--resume"]
    assert to_the_end(folder, tmp_path) == []


@pytest.mark.parametrize(
    ("sent", "how"),
    [
        (signal.SIGKILL, "was ended by SIGKILL"),
        (signal.SIGSTOP, "was silent for 4 s, and was ended"),
    ],
)
def test_with_replicas_a_rank_that_is_killed_or_frozen_is_replaced_to_the_bit_five_times(
    sent, how, tmp_path
):
    """Two that die at once end the run, as one does without replicas."""
    folder, victims = tmp_path / UNFINISHED, [1, 2, 2, 1, 2]
    record = folder / "ist.jsonl"
    with running(*DIRECT, "--replicas", 1, "--checkpoint-every", 5, cwd=tmp_path) as process:
        seconds_until(lambda: newest(folder), process)
        for number, victim in enumerate(victims):
            time.sleep(random.random())
            pid = ranks(process.pid)[victim]
            os.kill(pid, sent)
            seconds_until(lambda: count(record, "rebuilt") > number, process)  # noqa: B023
            assert f"rank {victim} died (process {pid} {how})" in said(tmp_path)
            assert all_gone([pid], 10)
            repeated = rounds_done(record)
            seconds_until(lambda: rounds_done(record) > repeated + 5, process)  # noqa: B023
        pids = ranks(process.pid)
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        status, line = ended(process, 60, tmp_path)
    assert status == 3
    assert "was ended by SIGKILL" in line
    assert all_gone(pids.values(), 10)
    found = to_the_end(folder, tmp_path, flags=[])  # by direct hand-over, with replicas
    assert [(fault["worker"], fault["kind"]) for fault in found] == [
        (v, "rebuilt") for v in victims
    ]
    assert all(fault["seconds"] > 0 for fault in found)


def freeze_and_end(process, pids):
    os.kill(pids[1], signal.SIGSTOP)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)


def test_a_run_that_is_told_to_end_keeps_its_rounds_and_leaves_no_rank(tmp_path):
    """Told by one who wants it, by a terminal that is closed, and while a rank is frozen."""
    folder, flags, done = tmp_path / UNFINISHED, DIRECT, 0
    orders = [
        lambda process, _: process.send_signal(signal.SIGINT),
        lambda process, _: os.killpg(process.pid, signal.SIGTERM),
        lambda process, _: os.killpg(process.pid, signal.SIGHUP),
        freeze_and_end,
        lambda process, _: process.kill(),
    ]
    for order in orders:
        with running(*flags, *EACH, cwd=tmp_path) as process:
            in_swing(folder, done, process)
            pids = ranks(process.pid)
            order(process, pids)
            if order is orders[-1]:
                assert process.wait() == -signal.SIGKILL
            else:
                status, line = ended(process, 40 if order is freeze_and_end else 30, tmp_path)
                assert status == 130
                assert "interrupted; " in line
                (kept,) = re.findall(r"(\d+) rounds are kept; go on with", line)
                assert kept_rounds(folder) == int(kept)
            assert all_gone(pids.values(), 10)
        done = kept_rounds(folder)
        flags = ["--resume"]
    assert to_the_end(folder, tmp_path) == []
