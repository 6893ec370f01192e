"""A running run takes more workers or fewer: to the bit what an end and --resume would do."""

import errno
import json
import os
import re
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from in_process import command
from scaled_runs import NET, SMALL, Plan, processes, read, same, trained

from worker_processes import descendants


def resumed(k, before, after, flags, cwd, out):
    """The run that was interrupted before round k and went on with other workers."""
    flags = [*flags, "--here", "--out", out]
    stopped, _ = trained({k - 1: ["stop"]}, *flags, "--workers", before, cwd=cwd)
    assert stopped.returncode == 130
    assert f"{k} rounds are kept" in stopped.stderr or k == 1
    done = command("train", "--resume", "--here", "--workers", after, "--out", out, cwd=cwd)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("before", "after", "k", "flags"),
    [
        (2, 3, 3, ["--momentum", "0.5"]),
        (4, 1, 2, ["--optimizer", "adam", "--step-size", "0.01"]),
        (2, 5, 2, ["--method", "diloco"]),
        (3, 2, 20, ["--method", "synchronous_sgd"]),  # ten rounds a row
        (2, 4, 2, ["--clip-updates", "2"]),
        (2, 4, 3, ["--method", "lazy_ist", "--local-steps", "3", "--steps", "14"]),
    ],
)
def test_it_goes_on_as_an_interrupted_run_does_that_is_resumed(before, after, k, flags, tmp_path):
    flags = [*NET, *flags, *([] if "--steps" in flags else ["--rounds", 5])]
    done, told = trained(
        {k - 1: [after]}, *flags, "--here", "--workers", before, "--out", "scaled", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    resumed(k, before, after, flags, tmp_path, "resumed")
    one, other = tmp_path / "scaled", tmp_path / "resumed"
    same(one, other)
    (header, rows, faults), (there, _, _) = read(one), read(other)
    assert (
        header["resumed"] == there["resumed"] == [{"k": k, "changed": {"workers": [before, after]}}]
    )
    assert header["config"]["workers"] == after
    reason = f"from {before} to {after} worker{'s' * (after > 1)}"
    change = {"k": k, "kind": "scaled", "from": before, "to": after, "reason": reason}
    assert [f for f in faults if f["kind"] == "scaled"] == [change]
    assert [len(row["bytes_up"]) for row in rows] == [
        before if row["k"] < k else after for row in rows
    ]
    n_rounds = 50 if "synchronous_sgd" in flags else 5
    (heard,) = told.lines
    named = f"{after} worker{'s' * (after > 1)}"
    line = f"scaled goes on with {named} instead of {before} after round {k} of {n_rounds}"
    assert heard == (True, line)
    assert line in done.stdout
    assert told.begun == [(0, before), (k, after)]
    assert told.ended == [f"goes on with {named}", "done"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed", "scaled"]
    left = {"checkpoints", "model.safetensors", f"{header['name']}.jsonl"}
    assert {path.name for path in one.iterdir()} == left


def test_on_processes_workers_come_and_leave_and_those_that_stay_are_the_same(tmp_path):
    pids, held = [], []

    def looks():
        pids.append(descendants().get("worker 0"))
        held.append((len(list(Path("/proc/self/fd").iterdir())), threading.active_count()))
        return processes()

    plan = {0: [4], 2: [1], 3: [4], 4: [1], 5: [4]}
    done, told = trained(plan, *SMALL, "--rounds", 7, cwd=tmp_path, looks=looks)
    assert done.returncode == 0, done.stderr
    names = [f"worker {i}" for i in range(4)]
    assert told.seen == [(n, names[:n]) for n in (2, 4, 4, 1, 4, 1, 4)]
    assert len(set(map(str, pids))) == 1
    assert held[1] == held[2] == held[4] == held[6]  # nothing is left of those that were sent away
    here, _ = trained(plan, *SMALL, "--rounds", 7, "--here", "--out", "here", cwd=tmp_path)
    assert here.returncode == 0
    same(tmp_path / "runs/train", tmp_path / "here")
    assert not processes()


@pytest.mark.parametrize("frozen", ["worker 0", "worker 2"])  # one that stays, one that leaves
def test_a_worker_that_freezes_before_the_change_holds_it_up_for_seconds(
    frozen, tmp_path, monkeypatch
):
    from subnetwork.runtime import seats

    monkeypatch.setattr(seats, "JOB_SECONDS", 45.0)  # where it was waited for
    times = []

    def looks():
        times.append(time.monotonic())
        if len(times) == 2:
            os.kill(descendants()[frozen][0], signal.SIGSTOP)

    flags = [*NET, "--workers", 3, "--momentum", "0.5", "--rounds", 5]
    done, told = trained({1: [2]}, *flags, cwd=tmp_path, looks=looks)
    assert done.returncode == 0, done.stderr
    assert [n for n, _ in told.seen] == [3, 3, 2, 2, 2]
    assert times[2] - times[1] < 30
    _, _, faults = read(tmp_path / "runs/train")
    found = [fault for fault in faults if fault["kind"] == "not ready"]
    assert [fault["worker"] for fault in found] == ([0] if frozen == "worker 0" else [])
    assert all("silent for 3 s" in fault["reason"] for fault in found)
    assert not processes()


class Full(Plan):
    """The disk is full from the end of the first part until the row of a round was told."""

    def __init__(self, plan, until):
        super().__init__(plan)
        self.until, self.before = until, resource.getrlimit(resource.RLIMIT_FSIZE)

    def row(self, row):
        super().row(row)
        if row["k"] == self.until:
            self.free()

    def end(self, reason):
        super().end(reason)
        if len(self.ended) == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, self.before[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def on_a_full_disk(until, *flags, cwd):
    from subnetwork.cli import train

    told, before = Full({1: [3]}, until), train.loggers
    train.loggers = lambda _: [told]
    try:
        return command("train", *flags, cwd=cwd), told
    finally:
        told.free()
        train.loggers = before


STALE = "the checkpoint of round 2 does not say yet how the run goes on: File too large"


def test_a_disk_that_is_full_when_a_part_begins_does_not_end_the_run(tmp_path):
    flags = [*SMALL, "--rounds", 6, "--here"]
    done, told = on_a_full_disk(3, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told.begun == [(0, 2), (2, 3)]
    assert "runs/train goes on with 3 workers instead of 2 after round 2 of 6" in done.stdout
    assert f"{STALE}; training goes on" in done.stdout
    assert trained({1: [3]}, *flags, "--out", "plain", cwd=tmp_path)[0].returncode == 0
    same(tmp_path / "runs/train", tmp_path / "plain")
    assert read(tmp_path / "runs/train")[0]["config"]["workers"] == 3
    first, second = read(tmp_path / "runs/train")[2]
    assert first["kind"] == "scaled"
    assert second == {"k": 2, "kind": "stale checkpoint", "reason": STALE}
    left = {"checkpoints", "model.safetensors", "ist.jsonl"}
    assert {path.name for path in (tmp_path / "runs/train").iterdir()} == left


def test_a_disk_that_is_full_when_other_ranks_begin_does_not_end_the_run(tmp_path, monkeypatch):
    from subnetwork.nets import checkpoint

    def full(*_):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(checkpoint, "retell", full)
    flags = [*SMALL, "--rounds", 3, "--exchange", "direct"]
    done, told = trained({0: [1]}, *flags, cwd=tmp_path)  # it is heard before the row is written
    assert done.returncode == 0, done.stderr
    assert told.begun == [(0, 2), (2, 1)]
    _, second = read(tmp_path / "runs/train")[2]
    assert second == {"k": 2, "kind": "stale checkpoint", "reason": STALE}


def test_where_the_disk_stays_full_the_rounds_before_the_part_are_kept(tmp_path):
    flags = [*SMALL, "--rounds", 6, "--here"]
    done, told = on_a_full_disk(None, *flags, cwd=tmp_path)
    assert len(told.seen) == 6  # it trains on
    assert done.returncode == 3
    assert "File too large; 2 rounds are kept; go on with" in done.stderr
    folder = tmp_path / "runs/train.unfinished"
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "ist.jsonl"}
    ks = [json.loads(line).get("k") for line in (folder / "ist.jsonl").read_text().splitlines()]
    assert ks[1:3] == [0, 1]
    assert command("train", "--resume", "--here", "--workers", 3, cwd=tmp_path).returncode == 0
    assert trained({1: [3]}, *flags, "--out", "plain", cwd=tmp_path)[0].returncode == 0
    same(tmp_path / "runs/train", tmp_path / "plain")


@pytest.mark.parametrize("replicas", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_in_direct_hand_over_other_ranks_go_on(replicas, tmp_path):
    flags = [*SMALL, "--rounds", 4, "--exchange", "direct", "--replicas", replicas]
    # a request is heard when all ranks have done a round, before its row is written
    done, told = trained({0: [3, 1]}, *flags, cwd=tmp_path, looks=processes)
    assert done.returncode == 0, done.stderr
    counts = (2, 2, 3, 3 if replicas else 1)  # one rank has nobody for its replica
    assert told.seen == [(n, [f"rank {i}" for i in range(1, n)]) for n in counts]
    last = "--replicas 1 lets ranks go on" if replicas else "goes on with 1 worker instead of 3"
    assert last in told.lines[1][1]
    plan = {1: [3]} if replicas else {1: [3, 1]}
    star, _ = trained(plan, *SMALL, "--rounds", 4, "--here", "--out", "here", cwd=tmp_path)
    assert star.returncode == 0
    models = [tmp_path / at / "model.safetensors" for at in ("runs/train", "here")]
    assert models[0].read_bytes() == models[1].read_bytes()
    header, rows, _ = read(tmp_path / "runs/train")
    assert [row["k"] for row in rows] == [0, 1, 2, 3]
    assert header["resumed"][0] == {"k": 2, "changed": {"workers": [2, 3]}}


def test_between_two_parts_the_record_has_no_last_line_and_watch_says_running(tmp_path):
    ends = []

    class Looks(Plan):
        def end(self, reason):
            super().end(reason)
            ends.append((self.last.get("k"), command("watch", cwd=tmp_path).stdout))

    from subnetwork.cli import train

    before = train.loggers
    train.loggers = lambda _: [Looks({1: [3]})]
    try:
        assert command("train", *SMALL, "--rounds", 3, "--here", cwd=tmp_path).returncode == 0
    finally:
        train.loggers = before
    (k, said), (_, after) = ends
    assert k == 1
    assert "running" in said
    assert "round 2: scaled (from 2 to 3 workers)" in after
    assert re.search(r"^2 +\d", after, re.MULTILINE)  # the third worker has a line


def test_a_logger_that_failed_is_not_begun_again(tmp_path, monkeypatch):
    from subnetwork.cli import train

    class Fails(Plan):
        def row(self, row):
            raise RuntimeError(f"no space for round {row['k']}")

    fails, asks = Fails({}), Plan({1: [3]})
    monkeypatch.setattr(train, "loggers", lambda _: [fails, asks])
    done = command("train", *SMALL, "--rounds", 3, "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (fails.begun, asks.begun) == ([(0, 2)], [(0, 2), (2, 3)])
    assert done.stderr.count("failed in row") == 1


@pytest.mark.parametrize("at", ["fitting", "ready", "go_on", "begin"])
def test_an_interrupt_during_the_change_keeps_the_rounds(at, tmp_path, monkeypatch):
    """Whatever the run is then, it goes on as it."""
    from subnetwork.cli import parts
    from subnetwork.experiments.resume import Keeper

    def interrupted(*_):
        raise KeyboardInterrupt

    begin = Keeper.begin

    def begun(keeper, law):
        found = begin(keeper, law)
        if keeper.kept:
            raise KeyboardInterrupt
        return found

    where, name = {
        "fitting": (parts.Scaling, "_fitting"),
        "ready": (parts.Scaling, "leaves"),
        "go_on": (Keeper, "go_on"),
        "begin": (Keeper, "begin"),
    }[at]
    monkeypatch.setattr(where, name, begun if at == "begin" else interrupted)
    flags = [*SMALL, "--rounds", 4, "--here"]
    done, told = trained({1: [3]}, *flags, cwd=tmp_path)
    monkeypatch.undo()
    assert done.returncode == 130
    assert "interrupted; 2 rounds are kept; go on with: subnetwork train --resume" in done.stderr
    assert not told.lines
    assert not (tmp_path / "runs/train.unfinished/scale").exists()
    record = (tmp_path / "runs/train.unfinished/ist.jsonl").read_text()
    assert record.endswith('\n{"end": "interrupted after 2 rounds"}\n')
    assert command("train", "--resume", "--here", cwd=tmp_path).returncode == 0
    plan = {1: [3]} if at == "begin" else {}
    assert trained(plan, *flags, "--out", "whole", cwd=tmp_path)[0].returncode == 0
    same(tmp_path / "runs/train", tmp_path / "whole")


def test_an_interrupt_after_the_last_word_of_ranks_ends_the_run(tmp_path, monkeypatch):
    """They are asked for interrupts once a round, and end with the part."""
    from subnetwork.cli import parts

    leaves = parts.Scaling.leaves

    def interrupted(scaling, kept):
        os.kill(os.getpid(), signal.SIGTERM)
        return leaves(scaling, kept)

    monkeypatch.setattr(parts.Scaling, "leaves", interrupted)
    flags = [*SMALL, "--rounds", 4, "--exchange", "direct"]
    done, _ = trained({0: [3]}, *flags, cwd=tmp_path)
    assert done.returncode == 130
    assert "interrupted; 2 rounds are kept; go on with: subnetwork train --resume" in done.stderr
    assert not processes()
