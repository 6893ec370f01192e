"""A running run that cannot have the workers that it is asked for goes on as it was."""

import errno
import re
import resource
from contextlib import contextmanager, nullcontext

import pytest
from in_process import command
from scaled_runs import NET, SMALL, Plan, read, same, trained


@pytest.mark.parametrize(
    ("flags", "workers", "why"),
    [
        (["--workers", 2], 13, "--hidden 12 gives 12 units on axis .* for --workers 13"),
        (["--workers", 2], 1000, "batch_size=8 does not fit a shard of 1 rows"),
        (["--workers", 2], 0, "workers is a whole number from 1 on, not 0"),
        (["--workers", 2], 10**20, "A run is scaled to at most 1024 workers"),
        (["--method", "narrow", "--workers", 1], 2, "narrow is one network .* not by 2"),
        (
            ["--method", "heterofl", "--workers", 2, "--capacities", 1, 0.5],
            3,
            "There are 2 capacities for --wor",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason_and_changes_nothing(
    flags, workers, why, tmp_path
):
    flags = [*NET, *flags, "--rounds", 3, "--here"]
    done, told = trained({0: [workers]}, *flags, "--out", "asked", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ((well, line),) = told.lines
    assert not well
    assert re.match(rf"asked goes on with \d workers? as before, not with {workers}: {why}", line)
    assert "\n" not in line
    assert line in done.stdout
    assert trained({}, *flags, "--out", "plain", cwd=tmp_path)[0].returncode == 0
    same(tmp_path / "asked", tmp_path / "plain")
    header, _, faults = read(tmp_path / "asked")
    assert "resumed" not in header
    assert not faults


def test_the_number_that_stands_and_the_last_round_begin_no_part(tmp_path):
    done, told = trained({0: [2, 2], 2: [3]}, *SMALL, "--rounds", 3, "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told.begun == [(0, 2)]
    assert told.lines[:2] == [(True, "runs/train has 2 workers already")] * 2
    (last,) = told.lines[2:]
    assert last == (
        False,
        "runs/train goes on with 2 workers as before, not with 3: All 3 rounds are done.",
    )


def test_under_torchrun_it_is_refused(tmp_path, monkeypatch):
    from subnetwork.cli import parts, train

    @contextmanager
    def way(*_, **__):
        yield parts.Way(lambda _: nullcontext(None), torchrun=True)

    monkeypatch.setattr(train, "_way", way)
    done, told = trained({0: [3]}, *SMALL, "--rounds", 2, "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [n for n, _ in told.seen] == [2, 2]
    ((well, line),) = told.lines
    assert not well
    assert line.endswith(
        "not with 3: torchrun started its processes, and a rank is a worker. End the run, and "
        "start 3 processes with --resume."
    )


def test_while_rows_wait_for_space_no_part_begins(tmp_path, monkeypatch):
    from subnetwork.cli import train

    class Full(Plan):
        def row(self, row):
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, limit[1]) if row["k"] == 0 else limit)
            super().row(row)

    told, limit = Full({1: [3], 2: [3]}), resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(train, "loggers", lambda _: [told])
    try:
        done = command("train", *SMALL, "--rounds", 4, "--here", cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert done.returncode == 0, done.stderr
    assert told.lines[0] == (
        False,
        "runs/train goes on with 2 workers as before, not with 3: the disk is full, so that rows "
        "wait to be written.",
    )
    assert [n for n, _ in told.seen] == [2, 2, 2, 3]
    assert [row["k"] for row in read(tmp_path / "runs/train")[1]] == [0, 1, 2, 3]


@pytest.mark.parametrize("what", ["disk", "workers", "data"])
def test_what_fails_on_the_way_leaves_the_run_as_it_was(what, tmp_path, monkeypatch):
    from subnetwork.algorithm import WorkerLostError
    from subnetwork.methods import rows
    from subnetwork.nets import checkpoint
    from subnetwork.runtime import Crew

    flags, full, more, load = [*SMALL, "--rounds", 3], checkpoint.save, Crew.at_least, rows.task

    def save(folder, k, *rest):
        if k == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return full(folder, k, *rest)

    def at_least(crew, n):
        if n == 3:
            raise WorkerLostError("worker 2 did not come up: no process could be started")
        more(crew, n)

    def task(run):
        if run.workers == 3:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "digits.csv")
        return load(run)

    patches = {
        "disk": (checkpoint, "save", save, "the disk is full, so that there is no checkpoint"),
        "workers": (Crew, "at_least", at_least, "worker 2 did not come up: no process"),
        "data": (rows, "task", task, "No such file or directory"),
    }
    owner, name, instead, why = patches[what]
    monkeypatch.setattr(owner, name, instead)
    done, told = trained({0: [3]}, *flags, *["--here"] * (what != "workers"), cwd=tmp_path)
    monkeypatch.undo()
    assert done.returncode == 0, done.stderr
    assert [n for n, _ in told.seen] == [2, 2, 2]
    ((well, line),) = told.lines
    assert not well
    assert f"not with 3: {why}" in line
    assert trained({}, *flags, "--here", "--out", "plain", cwd=tmp_path)[0].returncode == 0
    same(tmp_path / "runs/train", tmp_path / "plain")
    kinds = [fault["kind"] for fault in read(tmp_path / "runs/train")[2]]
    assert kinds == ["stale checkpoint"] * (what == "disk")
