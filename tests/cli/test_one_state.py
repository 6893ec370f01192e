"""What is kept of a run is of one round: model, last row and record, whatever interrupts."""

import errno
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import command

from subnetwork import record as records
from subnetwork.experiments import resume, training
from subnetwork.experiments.leader import Leader
from subnetwork.methods import Training
from subnetwork.methods.rows import method, task
from subnetwork.nets import checkpoint
from subnetwork.record import repeatable
from subnetwork.runtime.direct.timing import Took

SMALL = ["--hidden", "12", "--batch-size", "8", "--workers", "2", "--here"]
CLIPPED = [*SMALL, "--clip-updates", "10"]
BY_STEP = [*SMALL, "--method", "synchronous_sgd"]  # rows of several rounds


def train(*arguments, cwd):
    return command("train", *arguments, cwd=cwd)


def rows(folder):
    (path,) = folder.glob("*.jsonl")
    _, *lines, end = map(json.loads, path.read_text().splitlines())
    assert end == {"end": "done"}
    return [repeatable(line) for line in lines]


def stopped_at(row, reason, monkeypatch, *, before):
    """Have the record's writing of a row fail, before the row is in the file or after."""
    whole, written = training.writing, []

    @contextmanager
    def writing(path, **words):
        with whole(path, **words) as write:

            def stopping(one):
                written.append(one)
                if len(written) == row and before:
                    raise reason
                write(one)
                if len(written) == row:
                    raise reason

            yield stopping

    monkeypatch.setattr(training, "writing", writing)


@pytest.mark.parametrize("flags", [CLIPPED, BY_STEP], ids=["clipped", "rows of several rounds"])
@pytest.mark.parametrize(
    ("reason", "before"),
    [(KeyboardInterrupt(), False), (OSError(errno.EIO, os.strerror(errno.EIO)), True)],
    ids=["Ctrl-C after it", "an error of the disk"],
)
def test_what_comes_between_a_row_and_its_model_counts_no_round_twice(
    flags, reason, before, tmp_path, monkeypatch
):
    assert train(*flags, "--rounds", 5, "--out", "whole", cwd=tmp_path).returncode == 0
    with monkeypatch.context() as patch:
        stopped_at(3, reason, patch, before=before)
        stopped = train(*flags, "--rounds", 5, cwd=tmp_path)
        assert stopped.returncode == (2 if before else 130), stopped.stderr
    found, _ = checkpoint.newest(tmp_path / "runs/train.unfinished/checkpoints")
    assert found.header["row"]["k"] == found.k - 1
    assert found.header["row"]["steps"] == 20
    assert train("--resume", "--here", cwd=tmp_path).returncode == 0
    assert rows(tmp_path / "runs/train") == rows(tmp_path / "whole")


def test_a_checkpoint_whose_row_is_of_another_round_is_refused(tmp_path):
    assert train(*SMALL, "--rounds", 2, "--checkpoint-every", 1, cwd=tmp_path).returncode == 0
    folder = tmp_path / "runs/train/checkpoints"
    found, _ = checkpoint.newest(folder)
    ahead = {**found.header, "row": {**found.header["row"], "k": 2, "steps": 30}}
    damaged = checkpoint.retell(found, folder, ahead)
    refused = train("--resume", "--rounds", 4, "--here", cwd=tmp_path)
    assert refused.returncode == 2
    line = "it comes before round 2, but its last row is of round 2, not 1. Remove it"
    assert line in " ".join(refused.stderr.split())
    for path in (damaged, found.path):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    gone_on = train("--resume", "--rounds", 4, "--here", cwd=tmp_path)
    assert gone_on.returncode == 0, gone_on.stderr
    assert "goes on after round 1 of 4" in gone_on.stdout  # the advice is good


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_rows_that_a_loss_of_power_took_are_told_of(lost, tmp_path):
    assert train(*SMALL, "--rounds", 3, cwd=tmp_path).returncode == 0
    record = tmp_path / "runs/train/ist.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join(lines[: 4 - lost]))
    done = train("--resume", "--rounds", 4, "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = (
        f"runs/train/ist.jsonl has lost its rows from round {3 - lost} on; the checkpoint is after"
    )
    assert (line in done.stdout) == (lost > 0)
    assert "has lost" in done.stdout or not lost
    assert [row["k"] for row in rows(tmp_path / "runs/train")] == [*range(3 - lost), 3]


def test_a_record_that_is_gone_is_told_of(tmp_path):
    assert train(*SMALL, "--rounds", 2, cwd=tmp_path).returncode == 0
    (tmp_path / "runs/train/ist.jsonl").unlink()
    done = train("--resume", "--rounds", 3, "--here", cwd=tmp_path)
    assert "has lost its rows from round 0 on; the checkpoint is after 2 rounds" in done.stdout


@pytest.mark.parametrize("exchange", ["star", "direct"])
def test_the_rows_are_on_disk_before_the_checkpoint_is_there(exchange, tmp_path, monkeypatch):
    """As the system is asked for it: what was forced, and what is renamed into its place."""
    happened, sync, rename = [], os.fsync, Path.rename

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name == "ist.jsonl":
            happened.append(len(records.read(path).rows))
        sync(descriptor)

    def renamed(path, target):
        if target.name.startswith("round-"):
            happened.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    where = ["--exchange", "direct"] if exchange == "direct" else ["--here"]
    flags = [*SMALL[:-1], *where, "--rounds", 3, "--checkpoint-every", 1]
    result = train(*flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert happened == [1, "round-00000001", 2, "round-00000002", 3, "round-00000003"]


def test_a_record_that_cannot_be_forced_for_lack_of_space_costs_the_checkpoint(
    tmp_path, monkeypatch
):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(resume, "force", full)
    result = train(*SMALL, "--rounds", 2, "--checkpoint-every", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "no checkpoint of round 1: No space left on device; there is none" in result.stdout


def test_a_record_that_is_not_there_need_not_be_forced(tmp_path):
    records.force(tmp_path / "ist.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loss", [1.7e308, -1.7e308])
def test_losses_whose_sum_is_too_large_end_no_run(loss, tmp_path, monkeypatch):
    """A liar may send any finite number."""
    whole = training.here

    def lying(local, *, measure):
        work = whole(local, measure=measure)
        return lambda *asked: [replace(z, loss=loss) for z in work(*asked)]

    monkeypatch.setattr(training, "here", lying)
    result = train(*SMALL, "--rounds", 2, "--checkpoint-every", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [row["loss"] for row in rows(tmp_path / "runs/train")] == [loss, loss]


FINITE = partial(st.floats, allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE(min_value=-1e300, max_value=1e300), min_size=1, max_size=9))
def test_a_mean_of_losses_is_their_sum_by_their_number_to_the_bit(losses):
    assert training.mean_loss(losses) == sum(losses) / len(losses)


@given(st.lists(FINITE(), min_size=1, max_size=9))
def test_a_mean_of_finite_losses_is_finite(losses):
    assert abs(training.mean_loss(losses)) < float("inf")


def test_the_mean_of_the_largest_numbers_is_the_largest():
    for n in range(1, 60):
        assert training.mean_loss([sys.float_info.max] * n) == sys.float_info.max


def test_losses_of_ranks_whose_sum_is_too_large_are_noted():
    t = task(Training(hidden=(12,), batch_size=8, workers=2, exchange="direct"))
    row = method(t)
    edges = resume.Edges(lambda _: None)
    leader = Leader(t, row, resume.Start(lambda: row.x), None, edges)
    words = {"loss": 1.7e308, "sent": 0, "received": 0, "wire": [0, 0], "peak": 0}
    leader.note(0, [words | {"took": astuple(Took())}] * 2, None, 0.0)
    assert leader.row["loss"] == 1.7e308
