"""evaluate, export and watch: on a complete run, an unfinished one, and a checkpoint."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from types import SimpleNamespace

import in_process
import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from subnetwork.cli.console import Output
from subnetwork.cli.folder import holding, resumable
from subnetwork.experiments import stored
from subnetwork.experiments.stored import write_stored
from subnetwork.methods import Training
from subnetwork.methods.rows import task
from subnetwork.record import writing


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


def test_the_model_of_a_complete_run_is_exported_without_being_there(cwd, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the model is built")

    for name in ("fill", "runnable", "merged"):
        monkeypatch.setattr(stored, name, never)
    assert write_stored(cwd / "runs/train", tmp_path / "a") == cwd / "runs/train/model.safetensors"
    assert (tmp_path / "a").read_bytes() == (cwd / "runs/train/model.safetensors").read_bytes()
    with pytest.raises(AssertionError, match="the model is built"):
        write_stored(cwd / "runs/train/checkpoints/round-00000004", tmp_path / "b")


def test_a_model_that_is_damaged_or_anothers_is_refused_in_one_line(cwd, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(cwd / "runs/train", run)
    model = run / "model.safetensors"
    whole, tensors = model.read_bytes(), load_file(model)
    lacks = {name: t for name, t in tensors.items() if name != "1.running_mean"}
    for content, fault in [
        (whole[: len(whole) // 2], "is no state_dict that can be read safely"),
        (whole[:3], "is no state_dict that can be read safely"),
        (b"", "is no state_dict that can be read safely"),
        (whole[:9] + b"\xff" + whole[10:], "is no state_dict that can be read safely"),
        (save(lacks), "does not fit the network: it lacks 1.running_mean and has nothing"),
        (save(tensors | {"9.bias": torch.ones(1)}), "lacks nothing and has 9.bias beside"),
        (save(tensors | {"0.bias": torch.ones(13)}), "0.bias has shape (13,) there, (12,) here"),
        (save(tensors | {"0.bias": torch.ones(12).long()}), "0.bias is torch.int64 there"),
    ]:
        model.write_bytes(content)
        for arguments in (["evaluate", run], ["export", run, "--to", tmp_path / "new"]):
            status, out, err = command(*arguments, cwd=tmp_path)
            assert (status, out, len(err.splitlines())) == (2, "", 1), err
            assert fault in err
            assert f"Name a checkpoint of the run, such as {run}/checkpoints/round-" in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    found = command("evaluate", run / "checkpoints" / "round-00000004", cwd=tmp_path)
    assert found[0] == 0, found[2]  # the advice is good


ALL = ("watch", "report", "evaluate")


@pytest.mark.parametrize(
    ("header", "row", "fault", "readers"),
    [
        ({"config": [1]}, {}, "line 1 has a list as config, not an object", ALL),
        ({}, {"k": None}, "line 2 lacks k, the number of its round", ALL),
        ({}, {"k": "0"}, "line 2 lacks k, the number of its round", ALL),
        ({}, {"bytes_down": "x"}, "a record in run is damaged: ", ("watch", "report")),
        ({}, {"faults": 3}, "a record in run is damaged: ", ("watch",)),
        ({"machine": [1]}, {}, "a record in run is damaged: ", ("report",)),
        ({"config": {"workers": "two"}}, {}, "it has workers='two', which is no", ("evaluate",)),
        ({"config": {"hidden": ["a"]}}, {}, "it has hidden=['a'], which is no", ("evaluate",)),
        ({"config": {"workers": 0}}, {}, "workers is a whole number from 1 on", ("evaluate",)),
    ],
)
def test_a_record_that_is_damaged_in_form_is_refused(header, row, fault, readers, cwd, tmp_path):
    shutil.copytree(cwd / "runs/train", tmp_path / "run")
    path = tmp_path / "run" / "ist.jsonl"
    first, second, *more = path.read_text().splitlines()
    changed = [json.dumps(json.loads(first) | header), json.dumps(json.loads(second) | row)]
    path.write_text("\n".join([*changed, *more]) + "\n")
    for reader in readers:
        status, out, err = command(reader, "run", cwd=tmp_path)
        assert (status, out, len(err.splitlines())) == (2, "", 1), err
        assert fault in err
        assert "un again" in err


def test_a_line_that_no_reader_of_json_takes_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    for line in ("[" * 100_000, "9" * 10_000):
        (tmp_path / "run" / "ist.jsonl").write_text(f"{line}\n")
        for reader in ALL:
            status, _, err = command(reader, "run", cwd=tmp_path)
            assert (status, "ist.jsonl, line 1 is not JSON" in err) == (2, True), err


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
    line = next(line for line in out.splitlines() if line.startswith("1 ")).split()
    assert line[2] == line[3] == f"{total / 1e6:.2f}"
    assert set("\n".join(out.splitlines()[1:3]).split()) == {
        *("worker", "steps/s", "down", "up", "wire", "compute", "exchange", "wait", "memory"),
        *("faults", "MB", "s"),
    }


def a_row(k, **changes):
    shared = [1e6, 2e6]
    of_two = ("bytes_down", "bytes_up", "wire_down", "wire_up", "compute_seconds")
    of_two += ("exchange_seconds", "wait_seconds")
    row = {"k": k, "steps": 10 * (k + 1), "worker_steps": [10, 10], "peak_bytes": [3e8, 4e8]}
    return row | dict.fromkeys(of_two, shared) | {"seconds": k + 1.0, "faults": []} | changes


def watched(folder):
    """What `watch` shows of a record, and the lines of its workers as words."""
    status, out, err = command("watch", "run", cwd=folder)
    assert status == 0, err
    return out, [line.split() for line in out.splitlines() if line[:2] in ("0 ", "1 ")]


def test_watch_on_a_terminal_follows_the_run_and_ends_with_it(tmp_path, monkeypatch):
    """A row comes while it sleeps, the run ends while it sleeps again, and moves to its place."""
    module, run = sys.modules["subnetwork.cli.watch"], ExitStack()
    config = {"workers": 2, "rounds": 2, "local_steps": 10}
    seen = []

    def sleep(seconds):
        assert seconds >= module.EVERY
        seen.append(seconds)
        if len(seen) == 1:
            write(a_row(1, accuracy=0.75))
        else:
            run.close()

    clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "Output", lambda: Output(force_terminal=True, width=120))
    with run:
        held = run.enter_context(holding(tmp_path / "run"))
        folder = run.enter_context(resumable(held, resume=False, restart=False))
        path = folder / "ist.jsonl"
        write = run.enter_context(writing(path, kind="train", name="ist", config=config))
        write(a_row(0))
        status, out, err = command("watch", "run", cwd=tmp_path)
    assert (status, err, len(seen)) == (0, "", 2)
    first, second, third = (f"round {k} of 2  step {10 * k}" for k in (1, 2, 2))
    at = [out.index(first), out.index(second), out.rindex(third)]
    assert at == sorted(set(at)), "shown once after the first row, twice after the second"
    assert "running" in out[: at[1]]
    assert "running" in out[at[1] : at[2]]
    assert "complete" in out[at[2] :]
    assert not folder.exists()


def test_watch_says_of_which_step_an_accuracy_is(tmp_path):
    (tmp_path / "run").mkdir()
    config = {"workers": 2, "rounds": 9, "local_steps": 10}
    for accuracies, shown in (
        ((None, None), ""),
        ((0.5, None), "  accuracy 50.0% (step 10)  "),
        ((0.5, 0.75), "  accuracy 75.0%  "),
    ):
        with writing(tmp_path / "run/ist.jsonl", kind="train", name="ist", config=config) as write:
            for k, accuracy in enumerate(accuracies):
                write(a_row(k, accuracy=accuracy))
        out, _ = watched(tmp_path)
        assert shown in out
        assert ("accuracy" in out) == bool(shown)


def test_watch_shows_the_pace_the_memory_and_the_faults_of_each_worker(tmp_path):
    (tmp_path / "run").mkdir()
    fault = {"round": 2, "worker": 1, "kind": "lost", "reason": "gone"}
    config = {"workers": 2, "rounds": 9, "local_steps": 10}
    path = tmp_path / "run" / "ist.jsonl"
    with writing(path, kind="train", name="ist", config=config) as write:
        write(a_row(0))
        write(a_row(1))
        write(a_row(2, worker_steps=[10, 0], faults=[fault, fault | {"kind": "joined"}]))
    out, (first, second) = watched(tmp_path)
    assert "round 3 of 9" in out
    assert "round 2: worker 1: lost (gone)" in out
    assert first == ["0", "10", "3.00", "3.00", "6.00", "3000000.0", *["3000000.0"] * 2, "300", "0"]
    assert second[1:3] == ["5", "6.00"]  # in the 2 s from the first row to the last
    assert second[-2:] == ["400", "1"]


def test_watch_takes_a_line_that_is_being_written(tmp_path):
    """Cut anywhere, also inside of a letter of two bytes; and before there is a row."""
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "ist.jsonl"
    with writing(path, kind="train", name="ist", config={"workers": 2}) as write:
        write(a_row(0))
        write(a_row(1, faults=[{"round": 1, "worker": 0, "kind": "failed", "reason": "é"}]))
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    for end in (header, header + 9, whole.index("é".encode()) + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        out, workers = watched(tmp_path)
        assert "its process is gone" in out
        assert ("no row yet" in out) == (not workers)


def test_a_rate_is_that_of_the_rows_with_as_many_workers_as_now():
    from subnetwork.cli.watch import _rate

    two = [{"seconds": s, "worker_steps": [10, 10]} for s in (1.0, 2.0, 3.0)]
    three = [{"seconds": s, "worker_steps": [10, 10, 8]} for s in (5.0, 7.0)]
    assert [_rate(two, worker) for worker in (0, 1)] == ["10", "10"]
    assert [_rate(two + three, worker) for worker in (0, 2)] == ["5", "4"]
    assert _rate(two + three[:1], 2) == "4"
    assert _rate(two[:1], 0) == "10"


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
