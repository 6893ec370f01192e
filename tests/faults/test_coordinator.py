"""The coordinator dies, is told to end, or is gone: what workers do, and how the run goes on."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from attacked import (
    EACH,
    MANY,
    UNFINISHED,
    as_planned,
    changed,
    count,
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

from subnetwork.experiments.resume import saved
from worker_processes import all_gone, children

SMALL = ["--hidden", "12", "--batch-size", "8", "--momentum", "0.5", "--workers", "2"]
RANKS = """
import os, sys
import torch.distributed as dist
from subnetwork.runtime import torchrun
torchrun.JOIN = 1.0
pids = {}
for number in range(6):
    pids[number] = os.fork()
    if not pids[number]:
        place = torchrun.Place(number, 6, dist.FileStore(sys.argv[1], 6), None)
        if number:
            os._exit(place.serve(lambda job: None))
        with place.seats():
            print("up", flush=True)
            sys.stdin.read()
        os._exit(0)
print(pids[0], flush=True)
print([os.waitstatus_to_exitcode(os.waitpid(pids[n], 0)[1]) for n in range(6)])
"""


@pytest.mark.faults
def test_five_killed_coordinators_leave_no_orphan_and_no_round_is_lost_or_doubled(tmp_path):
    words, folder = random.Random(9), tmp_path / UNFINISHED
    record, flags, done = folder / "ist.jsonl", [*SMALL, *MANY], 0
    for life in range(5):
        with started(*flags, *EACH, cwd=tmp_path) as run:
            before = done + (done > 0)
            pause = seconds_until(lambda: rounds_done(record) > before, run)  # noqa: B023
            print(f"from the start to the first new round {pause:.1f} s")  # noqa: T201
            assert pause < 30  # others start beside it here; `make chaos` holds it to 5 s
            seconds_until(lambda: newest(folder) > done + 1, run)  # noqa: B023
            time.sleep(words.uniform(0.0, 0.4))
            workers = children(run.pid)
            run.kill()
            assert run.wait() == -signal.SIGKILL
        assert len(workers) == 2
        assert all_gone(workers, 5)
        before, done = done, rounds_done(record)
        assert done > before, f"nothing was done in life {life}"
        assert done - kept_rounds(folder) <= 1  # a checkpoint a round: the last one is repeated
        flags = ["--resume"]
    with started("--resume", "--rounds", done + 20, cwd=tmp_path) as run:
        assert run.wait(timeout=120) == 0, said(tmp_path)
    whole = tmp_path / "runs" / "train"
    assert [row["k"] for row in rows(whole / "ist.jsonl")] == list(range(done + 20))
    assert here("train", *SMALL, "--here", "--rounds", done + 20, "--out", "h", cwd=tmp_path) == 0
    assert same_model(whole, tmp_path / "h")


def in_writing(folder):
    """Whether a checkpoint is being written; one that is being taken away is none."""
    return any(path.suffix != ".gone" for path in folder.glob("checkpoints/.round-*"))


def stopped_in_a_checkpoint(process, folder):
    """Stop the process while it writes a checkpoint."""

    def writing():
        return in_writing(folder)

    def caught():
        if not writing():
            return False
        process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{process.pid}/stat")
        seconds_until(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T")
        if not writing():
            process.send_signal(signal.SIGCONT)
        return writing()

    seconds_until(caught, process, every=0.0005)


def damaged(path, words):
    """A bit of a file of a checkpoint is another one."""
    file = words.choice(sorted(path.iterdir()))
    data = bytearray(file.read_bytes())
    data[words.randrange(len(data))] ^= 1 << words.randrange(8)
    file.write_bytes(data)


@pytest.mark.faults
def test_five_kills_in_a_checkpoint_and_five_damaged_ones_cost_no_round_that_was_kept(tmp_path):
    words, folder = random.Random(11), tmp_path / UNFINISHED
    record, flags, done = folder / "ist.jsonl", [*SMALL, *MANY], 0
    for life in range(5):
        with started(*flags, *EACH, cwd=tmp_path) as run:
            seconds_until(lambda: newest(folder) > done + 2, run)  # noqa: B023
            assert ("skipped a damaged checkpoint" in said(tmp_path)) == (life > 0)
            time.sleep(words.uniform(0.0, 0.2))
            stopped_in_a_checkpoint(run, folder)
            run.kill()
            assert run.wait() == -signal.SIGKILL
        assert in_writing(folder)
        done = rounds_done(record)
        kept, damage = saved(folder / "checkpoints")
        assert not damage
        assert done - kept.start.k == 1  # the row is there, and its checkpoint is not
        damaged(kept.path, words)
        before, damage = saved(folder / "checkpoints")
        assert len(damage) == 1
        assert kept.path.name in damage[0]
        assert before.start.k == kept.start.k - 1
        flags = ["--resume"]
    rounds = ["--rounds", done + 3]
    assert here("train", "--resume", "--here", *rounds, cwd=tmp_path) == 0
    whole = tmp_path / "runs" / "train"
    assert [row["k"] for row in rows(whole / "ist.jsonl")] == list(range(done + 3))
    assert here("train", *SMALL, "--here", *rounds, "--out", "h", cwd=tmp_path) == 0
    assert same_model(whole, tmp_path / "h")


def limit_files(pid, n_bytes):
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (n_bytes, most))


def full_disk(process, record):
    """No file of the process can grow until it has missed a checkpoint; then it writes one again.

    Returns how many rounds it has kept.
    """
    before, folder = count(record, "stale checkpoint"), record.parent

    def missed():
        limit_files(process.pid, 512)
        time.sleep(0.2)
        limit_files(process.pid, resource.RLIM_INFINITY)
        time.sleep(0.1)
        return count(record, "stale checkpoint") > before

    seconds_until(missed, process)
    kept = newest(folder)
    seconds_until(lambda: newest(folder) > kept, process)
    return newest(folder)


@pytest.mark.faults
def test_five_full_disks_and_five_ends_and_other_workers_are_the_run_by_plan(tmp_path, monkeypatch):
    """Told to end it leaves a checkpoint and no worker, and goes on with another number of them."""
    words, folder = random.Random(14), tmp_path / UNFINISHED
    record, flags, n, done = folder / "ist.jsonl", [*SMALL, *MANY], 2, 0
    ends = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM]
    planned = []
    for sent, after in zip(ends, [3, 1, 4, 2, 3], strict=True):
        with started(*flags, *EACH, cwd=tmp_path) as run:
            seconds_until(lambda: newest(folder) > done, run)  # noqa: B023
            kept = full_disk(run, record)
            time.sleep(words.uniform(0.0, 0.2))
            workers = children(run.pid)
            began = time.monotonic()
            run.send_signal(sent)
            assert run.wait(timeout=30) == 130
            assert time.monotonic() - began < 10
        said_kept = re.search(
            r"(\d+) rounds are kept; go on with: subnetwork train --resume", said(tmp_path)
        )
        assert len(workers) == n
        assert all_gone(workers, 1)
        done = kept_rounds(folder)
        assert kept <= done == int(said_kept[1])
        assert rounds_done(record) - done <= 1  # where it ends as it has written a row
        flags, n = ["--resume", "--workers", after], after
        planned.append((done, n))
    assert count(record, "stale checkpoint") >= 5
    assert here("train", *flags, "--here", "--rounds", done + 3, cwd=tmp_path) == 0
    whole = tmp_path / "runs" / "train"
    assert changed(whole) == planned
    assert [row["k"] for row in rows(whole / "ist.jsonl")] == list(range(done + 3))
    assert same_model(whole, as_planned(SMALL, planned, done + 3, tmp_path, monkeypatch))


def test_five_ranks_whose_coordinator_is_gone_leave_with_status_3(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, str(tmp_path / "ranks.py"), str(tmp_path / "store")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        lines = {process.stdout.readline(), process.stdout.readline()}
        (coordinator,) = lines - {"up\n"}
        os.kill(int(coordinator), signal.SIGKILL)
        statuses, _ = process.communicate(timeout=200)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert statuses == "[-9, 3, 3, 3, 3, 3]\n"
