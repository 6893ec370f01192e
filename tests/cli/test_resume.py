"""A run that ends early goes on: to the bit, with another n, from damage, on a full disk."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from in_process import command
from safetensors.torch import load_file

from subnetwork.record import repeatable

SPLIT = ["--hidden", "12", "--batch-size", "8", "--workers", "2", "--momentum", "0.5"]
SMALL = [*SPLIT, "--here"]


def train(*arguments, cwd):
    return command("train", *arguments, cwd=cwd)


def rows(folder):
    _, *lines, end = map(json.loads, (folder / "ist.jsonl").read_text().splitlines())
    assert end == {"end": "done"}
    wires = ("wire_down", "wire_up")  # 0 in one process
    return [{k: v for k, v in repeatable(line).items() if k not in wires} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run of 40 rounds in one go."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(*SMALL, "--rounds", 40, cwd=folder).returncode == 0
    return folder / "runs" / "train"


@pytest.mark.parametrize(
    ("sent", "where"),
    [
        (signal.SIGINT, SMALL),
        pytest.param(signal.SIGTERM, SMALL, marks=pytest.mark.slow),  # the same handler
        (signal.SIGKILL, SPLIT),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL of a run on processes"],
)
def test_a_run_that_was_stopped_goes_on_to_the_bit(sent, where, tmp_path, uninterrupted):
    run = [sys.executable, "-m", "subnetwork", "train", *where, "--rounds", "40"]
    process = subprocess.Popen(
        [*run, "--checkpoint-every", "2"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # a killed run leaves its secret's folder
    )
    folder = tmp_path / "runs" / "train.unfinished"
    deadline = time.monotonic() + 300
    while len(list(folder.glob("checkpoints/round-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(sent)
    started = time.monotonic()
    _, errors = process.communicate(timeout=300)
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # where others compute as well
    assert time.monotonic() - started < 10 * busy
    assert process.returncode == (-9 if sent == signal.SIGKILL else 130)
    assert "--resume" in errors or sent == signal.SIGKILL
    refused = train(*SMALL, "--rounds", 40, cwd=tmp_path)
    assert refused.returncode == 2
    assert "train.unfinished holds an unfinished run. Go on with --resume" in refused.stderr
    result = train("--resume", "--here", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    whole = tmp_path / "runs" / "train"
    assert rows(whole) == rows(uninterrupted)
    for name in ("model.safetensors", "checkpoints/round-00000040/shard-0-of-1.safetensors"):
        assert (whole / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["train"]


def test_another_number_of_workers_goes_on_with_state_by_coordinate(tmp_path):
    """Two workers, then three: round by round what `rounds` does from the same model."""
    from subnetwork.algorithm import rounds
    from subnetwork.experiments.resume import saved
    from subnetwork.methods import Training
    from subnetwork.methods.rows import method, task
    from subnetwork.runtime import here

    assert train(*SMALL, "--rounds", 3, cwd=tmp_path).returncode == 0
    found, _ = saved(tmp_path / "runs" / "train" / "checkpoints")
    run = Training(hidden=(12,), batch_size=8, workers=3, momentum=0.5, rounds=5)
    row = method(task(run))
    assert found.start.x.moments["momentum_buffer"]["0.weight"].abs().sum() > 0
    torch.set_num_threads(1)
    steps = rounds(
        found.start.x, row.sketch, here(row.local), row.merge, seed=row.seed, n_rounds=5, start=3
    )
    *_, last = steps
    result = train("--resume", "--workers", 3, "--rounds", 5, "--here", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    model = load_file(tmp_path / "runs" / "train" / "model.safetensors")
    for name, p in last.x.params.items():
        assert torch.equal(model[name], p), name
    recorded = rows(tmp_path / "runs" / "train")
    assert [row["samples"] for row in recorded] == [160, 320, 480, 720, 960]
    header = json.loads((tmp_path / "runs/train/ist.jsonl").read_text().splitlines()[0])
    assert header["resumed"] == [{"k": 3, "changed": {"workers": [2, 3], "rounds": [3, 5]}}]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, uninterrupted):
    flags = [*SMALL, "--rounds", 20, "--checkpoint-every", 10]
    assert train(*flags, cwd=tmp_path).returncode == 0
    shard = tmp_path / "runs/train/checkpoints/round-00000020/shard-0-of-1.safetensors"
    data = bytearray(shard.read_bytes())
    data[-7] ^= 4
    shard.write_bytes(data)
    result = train("--resume", "--rounds", 40, "--here", cwd=tmp_path)
    assert "skipped a damaged checkpoint" in result.stdout
    assert str(shard.relative_to(tmp_path)) in result.stdout
    model = (tmp_path / "runs/train/model.safetensors").read_bytes()
    assert model == (uninterrupted / "model.safetensors").read_bytes()


def test_what_makes_it_another_run_is_refused(tmp_path):
    assert "no run to go on with" in train("--resume", cwd=tmp_path).stderr
    train(*SMALL, "--rounds", 2, cwd=tmp_path)
    for flags, message in [
        ([], "is complete. Ask for more"),
        (["--rounds", 1], "has done 20 steps in 2 rounds already"),
        (["--rounds", 4, "--seed", 1], "seed=0, not 1"),
        (["--rounds", 4, "--hidden", 256], r"hidden=\(12,\), not \(256,\)"),  # the default, said
        (["--restart"], "--resume and --restart begin a run in two ways"),
    ]:
        result = train("--resume", *flags, cwd=tmp_path)
        assert result.returncode == 2
        assert re.search(message, result.stderr), result.stderr
    assert (tmp_path / "runs/train/model.safetensors").exists()


def test_fewer_steps_than_were_done_are_refused(tmp_path):
    train(*SMALL, "--rounds", 2, "--local-steps", 10, cwd=tmp_path)
    result = train("--resume", "--steps", 15, "--here", cwd=tmp_path)  # two rounds as well
    assert result.returncode == 2
    assert "done 20 steps in 2 rounds already, more than the 15" in " ".join(result.stderr.split())


def test_a_run_that_goes_on_as_another_is_that_one_when_it_is_killed_at_once(tmp_path, monkeypatch):
    """Before its first checkpoint; and the headers tell of each time that it went on."""
    from subnetwork.experiments import training

    def killed(*_):
        raise KeyboardInterrupt
        yield

    flags = ["--rounds", 4, "--step-size", 0.01, "--here"]
    for folder, stopped in (("whole", False), ("killed", True)):
        train(*SMALL, "--rounds", 2, "--out", folder, cwd=tmp_path)
        if stopped:
            monkeypatch.setattr(training, "train", killed)
            result = train("--resume", *flags, "--out", folder, cwd=tmp_path)
            assert result.returncode == 130
            monkeypatch.undo()
        again = ["--here"] if stopped else flags
        assert train("--resume", *again, "--out", folder, cwd=tmp_path).returncode == 0
    whole, killed_once = tmp_path / "whole", tmp_path / "killed"
    assert rows(whole) == rows(killed_once)
    model = "model.safetensors"
    assert (whole / model).read_bytes() == (killed_once / model).read_bytes()
    header = json.loads((killed_once / "ist.jsonl").read_text().splitlines()[0])
    assert (header["config"]["rounds"], header["config"]["step_size"]) == (4, 0.01)
    changed = {"rounds": [2, 4], "step_size": [0.2, 0.01]}
    assert header["resumed"] == [{"k": 2, "changed": changed}, {"k": 2, "changed": {}}]


def test_where_nothing_can_be_written_the_record_stays(tmp_path):
    train(*SMALL, "--rounds", 2, cwd=tmp_path)
    kept = (tmp_path / "runs/train/ist.jsonl").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for _ in range(2):  # the second time, it goes on with what the first has left
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
        try:
            result = train("--resume", "--rounds", 4, "--here", cwd=tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert result.returncode == 3, result.stderr
        assert "File too large; 2 rounds are kept; go on with" in result.stderr
    assert (tmp_path / "runs/train.unfinished/ist.jsonl").read_bytes() == kept
    assert train("--resume", "--rounds", 4, "--here", cwd=tmp_path).returncode == 0
    assert len(rows(tmp_path / "runs/train")) == 4


def test_a_test_loss_that_is_no_number_is_divergence(tmp_path, monkeypatch):
    from subnetwork.methods.rows import Task
    from subnetwork.nets.evaluate import Scores

    monkeypatch.setattr(Task, "scores", lambda *_: Scores(0.1, float("inf"), 9))
    result = train(*SMALL, "--rounds", 1, cwd=tmp_path)
    assert result.returncode == 3
    assert "test loss is no number any more after round 0" in " ".join(result.stderr.split())


def test_faults_after_the_last_row_stand_in_the_last_line(tmp_path, monkeypatch):
    from subnetwork.experiments import training
    from subnetwork.runtime.faults import Fault

    whole = training.train

    def interrupted(t, method, seats, start, faults):
        for progress in whole(t, method, seats, start, faults):
            yield progress
            faults.append(Fault(1, 0, "lost", 0.5, "it was ended by SIGKILL"))
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert train(*SMALL, "--rounds", 3, cwd=tmp_path).returncode == 130
    record = tmp_path / "runs/train.unfinished/ist.jsonl"
    *_, row, end = map(json.loads, record.read_text().splitlines())
    assert row["faults"] == []
    assert [(f["round"], f["worker"], f["kind"]) for f in end["faults"]] == [(1, 0, "lost")]


def test_other_workers_come_with_other_capacities(tmp_path):
    small = ["--hidden", "12", "--batch-size", "8", "--here"]
    flags = ["--method", "heterofl", "--workers", 2, "--capacities", 1, 0.5, "--rounds", 1]
    assert train(*small, *flags, cwd=tmp_path).returncode == 0
    more = ["--workers", 3, "--capacities", 1, 0.5, 0.25, "--rounds", 2]
    result = train("--resume", "--here", *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    header = json.loads((tmp_path / "runs/train/heterofl.jsonl").read_text().splitlines()[0])
    assert header["config"]["capacities"] == [1, 0.5, 0.25]


def test_the_law_of_the_cut_is_kept_and_another_one_is_refused(tmp_path, monkeypatch):
    from subnetwork.deals import Lazy, Perm
    from subnetwork.methods import rows as methods
    from subnetwork.nets import Layout, NetSketch

    assert train(*SMALL, "--rounds", 2, cwd=tmp_path).returncode == 0
    (header,) = (tmp_path / "runs/train/checkpoints").glob("round-00000002/header.json")
    law = {"deal": {"kind": "Perm", "n_workers": 2, "weights": None}, "width": 1}
    assert json.loads(header.read_text())["sketch"] == law
    layout = Layout({"units": 12}, {})
    assert NetSketch.from_json(layout, json.dumps(law)).deal == Perm(2)

    def lazy(t):
        return methods._with_local_steps(t, Lazy(t.run.workers, 3))

    def wide(t):
        row = methods.ist(t)
        return replace(row, sketch=replace(row.sketch, width=3))

    for other in (lazy, wide):
        monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "ist": other})
        refused = train("--resume", "--rounds", 4, "--here", cwd=tmp_path)
        assert refused.returncode == 2
        assert "cut by another law" in refused.stderr
        assert '"kind": "Perm"' in refused.stderr.replace("\n", " ")
        monkeypatch.undo()
    assert train("--resume", "--rounds", 4, "--here", cwd=tmp_path).returncode == 0


def test_a_rounded_wire_goes_on_through_a_coordinator_and_back():
    from subnetwork.experiments.resume import continued
    from subnetwork.methods import Training

    old = Training(exchange="direct", wire="int8")
    star = continued(old, Training(exchange="star"), ["exchange"])
    assert (star.exchange, star.wire) == ("star", "float32")
    asked = Training(exchange="direct", wire="bfloat16")
    assert continued(star, asked, ["exchange", "wire"]).wire == "bfloat16"


def test_rounds_that_are_asked_for_end_a_budget_of_steps():
    """Also where their number is that of the run so far, which a budget had kept from counting."""
    from subnetwork.experiments.resume import continued
    from subnetwork.methods import Training

    old = Training(rounds=30, steps=7)
    assert continued(old, Training(rounds=30), ["rounds"]) == Training(rounds=30)
    assert continued(old, Training(rounds=30, steps=9), ["rounds", "steps"]).steps == 9
    assert continued(old, Training(), ["out"]) == old


def test_training_goes_on_when_the_disk_is_full_and_the_last_checkpoint_stays(tmp_path):
    """The record fits, and a checkpoint of the first part; later files may not grow as far."""
    train(*SMALL, "--rounds", 2, cwd=tmp_path)
    shard = tmp_path / "runs/train/checkpoints/round-00000002/shard-0-of-1.safetensors"
    limit = shard.stat().st_size - 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        flags = ["--resume", "--rounds", 6, "--checkpoint-every", 1, "--here"]
        result = train(*flags, cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no checkpoint of round 3: File too large; the last is of round 2" in result.stdout
    assert "step   60" in result.stdout  # to its last round
    if result.returncode:  # the model itself did not fit either
        assert result.returncode == 3
        assert "2 rounds are kept; go on with" in result.stderr
        result = train("--resume", "--rounds", 6, "--here", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_pretrained_weights_are_reported_at_round_0(tmp_path):
    train(*SMALL, "--rounds", 5, cwd=tmp_path)
    before = rows(tmp_path / "runs/train")[-1]["accuracy"]
    weights = tmp_path / "runs/train/model.safetensors"
    torch.save({"state_dict": load_file(weights)}, tmp_path / "weights.pt")
    for file in (weights, "weights.pt"):
        result = train(*SMALL, "--rounds", 1, "--from", file, "--out", "next", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert f"the accuracy {before:.1%}" in result.stdout
        header = json.loads((tmp_path / "next/ist.jsonl").read_text().splitlines()[0])
        assert header["from"]["accuracy"] == before
    other = train("--rounds", 1, "--hidden", 16, "--from", weights, "--here", cwd=tmp_path)
    assert other.returncode == 2
    assert "0.weight has shape (12, 64) there, (16, 64) here" in other.stderr
    (tmp_path / "bad.pt").write_bytes(b"not a pickle")
    assert "is no state_dict" in train(*SMALL, "--from", "bad.pt", cwd=tmp_path).stderr


def test_a_record_that_cannot_be_begun_leaves_the_earlier_one(tmp_path):
    from subnetwork.record import read, writing

    path, said = tmp_path / "ist.jsonl", {"kind": "train", "name": "ist", "config": {}}
    with writing(path, **said, rows=[{"k": 0}]) as write:
        write({"k": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"), writing(path, **said):
            pytest.fail("there is no record to write to")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [row["k"] for row in read(path).rows] == [0, 1]
    assert list(tmp_path.iterdir()) == [path]
