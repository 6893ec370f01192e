"""evaluate, export and watch: on a complete run, an unfinished one, and a checkpoint."""

import json
import subprocess
import sys
import time

import in_process
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from subnetwork.methods import Training
from subnetwork.methods.rows import task


def command(*arguments, cwd):
    result = in_process.command(*arguments, cwd=cwd)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    """Where a run of 4 rounds lies, with checkpoints after rounds 3 and 4."""
    folder = tmp_path_factory.mktemp("run")
    flags = ["--hidden", 12, "--batch-size", 8, "--workers", 2, "--rounds", 4, "--here"]
    status, *_ = command("train", *flags, "--checkpoint-every", 1, cwd=folder)
    assert status == 0
    return folder


def last_row(cwd):
    return json.loads((cwd / "runs/train/ist.jsonl").read_text().splitlines()[-2])


def test_evaluate_gives_the_accuracy_that_the_run_recorded(cwd):
    for run in ("runs/train", "runs/train/checkpoints/round-00000004"):
        status, out, err = command("evaluate", run, "--as-json", cwd=cwd)
        assert status == 0, err
        found = json.loads(out)
        assert found["accuracy"] == last_row(cwd)["accuracy"]
        assert found["targets"] == 359
    earlier = command("evaluate", "runs/train/checkpoints/round-00000003", cwd=cwd)[1]
    row = json.loads((cwd / "runs/train/ist.jsonl").read_text().splitlines()[-3])
    assert f"accuracy {row['accuracy']:.2%}, test loss {row['test_loss']:.4f}" in earlier


def test_a_narrow_run_is_tested_as_the_narrow_network_that_it_is(tmp_path):
    flags = ["--hidden", 16, "--batch-size", 8, "--workers", 1, "--share", 4, "--rounds", 2]
    assert command("train", "--method", "narrow", *flags, "--here", cwd=tmp_path)[0] == 0
    status, out, err = command("evaluate", "--as-json", cwd=tmp_path)
    assert status == 0, err
    row = json.loads((tmp_path / "runs/train/narrow.jsonl").read_text().splitlines()[-2])
    assert json.loads(out)["accuracy"] == row["accuracy"]
    assert json.loads(out)["measure"] == "test"


def test_what_is_exported_loads_into_a_plain_module(cwd):
    for run, file in (("runs/train", "a"), ("runs/train/checkpoints/round-00000004", "b")):
        status, _, err = command("export", run, "--to", f"{file}.safetensors", cwd=cwd)
        assert status == 0, err
        plain = nn.Sequential(
            nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)
        ).eval()
        plain.load_state_dict(load_file(cwd / f"{file}.safetensors"))
        data = task(Training(hidden=(12,), workers=2, batch_size=8)).data
        with torch.no_grad():
            right = plain(data.test_inputs).argmax(1) == data.test_targets
        assert float(right.double().mean()) == last_row(cwd)["accuracy"]
    status, _, err = command("export", "runs/train", "--to", "a.safetensors", cwd=cwd)
    assert status == 2
    assert "is there already" in err
    assert command("export", "--to", "a.safetensors", "--overwrite", cwd=cwd)[0] == 0
    assert "wrote model.safetensors from runs/train/" in command("export", cwd=cwd)[1]
    assert (cwd / "model.safetensors").read_bytes() == (cwd / "a.safetensors").read_bytes()
    assert not list(cwd.glob(".*"))


def test_mistakes_are_named(cwd):
    for arguments, message in [
        (["evaluate", "nowhere"], "no run in nowhere"),
        (["watch", "nowhere"], "no run in nowhere"),
        (["export", "--to", "."], "is a folder"),
        (["evaluate", "runs"], "holds 0 training runs"),
    ]:
        status, _, err = command(*arguments, cwd=cwd)
        assert (status, message in err) == (2, True), err


def test_watch_prints_one_table_of_a_complete_run_and_ends(cwd):
    status, out, _ = command("watch", cwd=cwd)
    assert status == 0
    assert "step 40" in out
    assert "complete" in out
    total = sum(
        row["bytes_down"][1]
        for row in map(json.loads, (cwd / "runs/train/ist.jsonl").read_text().splitlines()[1:-1])
    )
    line = next(line for line in out.splitlines() if line.startswith("1 "))
    assert f"{total / 1e6:.2f} MB" in line


def test_watch_tells_a_running_process_from_one_that_is_gone(tmp_path):
    flags = ["--hidden", "12", "--batch-size", "8", "--workers", "2", "--rounds", "99999", "--here"]
    process = subprocess.Popen(
        [sys.executable, "-m", "subnetwork", "train", *flags, "--checkpoint-every", "1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    folder = tmp_path / "runs" / "train.unfinished"
    try:
        deadline = time.monotonic() + 300
        while not list(folder.glob("checkpoints/round-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "running" in command("watch", cwd=tmp_path)[1]
        status, _, err = command("train", "--resume", "--here", cwd=tmp_path)
        assert status == 2
        assert "being written by another process" in err
    finally:
        process.kill()
        process.wait()
    assert "its process is gone" in command("watch", cwd=tmp_path)[1]
    assert command("evaluate", cwd=tmp_path)[0] == 0  # from its newest checkpoint
