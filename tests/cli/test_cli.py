"""The command as a stranger uses it: one line for a mistake, its status, nothing left behind."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from in_process import command

from worker_processes import children

SMALL = ["--hidden", "12", "--batch-size", "8", "--workers", "2"]
QUICK = [*SMALL, "--rounds", "2"]
ENDLESS = [*SMALL, "--rounds", "100000"]


def mistake(result, status=2):
    """The one line that a mistake costs."""
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("subnetwork: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--method", "dist"], "no method 'dist'. Known are: ist"),
        (["train", "--data", "digit"], "no data set 'digit'. Known are: digits"),
        (["train", "--step-size", "-1"], "step_size is a positive number, not -1.0"),
        (["train", "--hidden", "3"], "--hidden 3 gives 3 units on axis hidden.0 for --workers 4"),
        (["train", "--period", "5"], "--period does nothing with --method ist, only with"),
        (["train", "--steps", "9", "--rounds", "2"], "--rounds does nothing beside --steps 9"),
        (["train", "--host", "127.0.0.1"], "--host does nothing without torchrun"),
        (["train", "--batch-size", "999"], "Use a batch size from 1 to 359"),
        (["train", "--rounds", "many"], 'unable to convert "many" into int'),
        (["train", "--batch-size", "1"], "batch_size is 2 or more with norm=batch, not 1"),
        (["train", "--batch-size", "1", "--model", "resnet"], "2 or more with model=resnet, not 1"),
        (["train", "--batch-size", "0", "--norm", "none"], "whole number from 1 on, not 0"),
        (["train", "--round", "3"], "Unknown option"),
        (["train", "--clip-updates", "inf"], "clip_updates is a multiple above 1"),
        (["train", "--config", "none.toml"], "cannot read flags from --config none.toml"),
        (["train", "--out", "/proc/run"], "cannot write to /proc/run"),
        (["train", "--seed", "1.9"], "--seed is a whole number, not 1.9"),
        (["train", "--seed", "-1"], "seed is a whole number from 0 to 2**64 - 1, not -1"),
        (["train", "--seed", 2**64], "seed is a whole number from 0 to 2**64 - 1"),
        (["lab", "run", "--threads", "0"], "threads is a whole number from 1 on, not 0"),
        (["train", "--out", "x" * 300], "Choose a folder that can be written to"),
        (["trian"], "Unknown command"),
        (["lab", "run", "interpolate"], "no experiment 'interpolate'"),
        (["lab", "run", "--problem", "iris"], "no problem 'iris'"),
        (["lab", "run", "--step-size", "-0.1"], "step_size=-0.1"),
        (["lab", "run", "--step-size", "0.9"], "0.333"),
        (["lab", "run", "--step-size", "1e-300"], "moves x by less than double precision"),
        (["lab", "run", "interpolation", "--step-size", "1e-300"], "Use step_size="),
        (["lab", "run", "--problem", "trig", "--workers", "4"], "n_workers=4"),
        (["report", "nowhere"], "no folder nowhere"),
        (["report", "."], "holds no records"),
    ],
)
def test_a_mistake_costs_one_line_and_status_2(arguments, message, tmp_path):
    assert message in mistake(command(*arguments, cwd=tmp_path))
    assert not list(tmp_path.glob("runs/*"))


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    (tmp_path / "run.toml").write_text("rounds = 3\nworkers = 2\nhidden = [12]\nbatch-size = 8\n")
    command("train", "--config", "run.toml", "--rounds", "1", "--here", cwd=tmp_path)
    header, *rows = (tmp_path / "runs" / "train" / "ist.jsonl").read_text().splitlines()
    config = json.loads(header)["config"]
    assert (config["rounds"], config["workers"], config["local_steps"]) == (1, 2, 10)
    assert json.loads(rows[-1]) == {"end": "done"}
    (tmp_path / "run.toml").write_text("rounds = 3\nhidden = [12]\nbatch-size = 8\nresume = true\n")
    flags = ("--steps", "4", "--restart", "--workers", "2", "--here")
    command("train", "--config", "run.toml", *flags, cwd=tmp_path)  # it says how long the run is
    header, *_ = (tmp_path / "runs" / "train" / "ist.jsonl").read_text().splitlines()
    assert json.loads(header)["config"]["steps"] == 4
    (tmp_path / "run.toml").write_text('hidden = [12]\nfrom = "weights.safetensors"\n')
    for denied in ("--no-resume", "--no-restart"):  # says nothing about where to begin
        line = mistake(command("train", "--config", "run.toml", denied, "--here", cwd=tmp_path))
        assert "weights.safetensors" in line
    (tmp_path / "run.toml").write_text("rounds = 3\nhidden = [12]\nbatch-size = 8\nresume = true\n")
    both = ("--steps", "4", "--rounds", "3")  # typed: the file has no part in it
    line = mistake(command("train", "--config", "run.toml", *both, cwd=tmp_path))
    assert line.endswith("Leave one of them out.")
    for text, message in {
        "steps = 4\nrounds = 3": "out. --rounds and --steps: as --config run.toml has it.",
        "period = 4": "or choose another method. --period: as --config run.toml has it.",
        "batch-size = 1": "wants two rows. --batch-size: as --config run.toml has it.",
        "round = 3": "round",
        "rounds = 2.5": "whole number, not 2.5",
        "[train]\nrounds = 3": "holds the table [train]",
        "rounds = ": "cannot read flags from --config run.toml",
    }.items():
        (tmp_path / "run.toml").write_text(text)
        assert message in mistake(command("train", "--config", "run.toml", cwd=tmp_path))


@pytest.mark.parametrize("flags", [["--norm", "none"], ["--norm", "layer"], ["--model", "relu"]])
def test_a_batch_of_one_row_trains_where_nothing_normalises_over_rows(flags, tmp_path):
    small = ["--hidden", "12", "--workers", "2", "--rounds", "2", "--batch-size", "1"]
    result = command("train", *small, *flags, "--here", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    _, first, *_ = (tmp_path / "runs" / "train" / "ist.jsonl").read_text().splitlines()
    assert json.loads(first)["samples"] == 2 * 10  # a row a step of each worker


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("all of it")
    line = mistake(command("train", *QUICK, "--here", "--out", "thesis", cwd=tmp_path))
    assert "thesis holds chapter.tex, which no run wrote" in line
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "all of it"


def test_a_run_with_notes_beside_it_is_not_replaced(tmp_path):
    command("train", *QUICK, "--here", cwd=tmp_path)
    (tmp_path / "runs" / "train" / "notes.md").write_text("mine")
    line = mistake(command("train", *QUICK, "--here", cwd=tmp_path))
    assert "holds notes.md, which no run wrote" in line
    assert (tmp_path / "runs" / "train" / "notes.md").read_text() == "mine"


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for _ in range(2):
        assert command("train", *QUICK, "--here", "--out", "link", cwd=tmp_path).returncode == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.safetensors").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"real", "link"}


def test_an_earlier_run_is_replaced_only_by_a_complete_one(tmp_path):
    said = command("train", *QUICK, "--here", cwd=tmp_path).stdout.splitlines()
    assert said[0] == "ist of mlp on digits: 2 workers in this process"
    assert re.match(r"ist +step   10  training loss \d\.\d{4}  accuracy ", said[1])
    first = (tmp_path / "runs" / "train" / "ist.jsonl").read_text()
    mistake(command("train", *QUICK, "--here", "--momentum", "2", cwd=tmp_path))
    assert (tmp_path / "runs" / "train" / "ist.jsonl").read_text() == first
    command("train", *QUICK, "--here", "--method", "local_sgd", cwd=tmp_path)
    assert [p.name for p in (tmp_path / "runs" / "train").glob("*.jsonl")] == ["local_sgd.jsonl"]
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["train"]


@pytest.fixture
def endless(tmp_path):
    """A run on two worker processes that has done its first steps, and will not end by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "subnetwork", "train", *ENDLESS],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == "ist of mlp on digits: starting 2 workers\n"
        line = process.stdout.readline()
        assert "step" in line, line or process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_worker_costs_its_block_and_the_command_goes_on_until_it_is_told_to_end(
    endless, tmp_path
):
    workers = children(endless.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    record, deadline = tmp_path / "runs/train.unfinished/ist.jsonl", time.monotonic() + 60
    while '"kind": "lost"' not in record.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert '"kind": "lost"' in record.read_text()
    assert endless.poll() is None
    endless.send_signal(signal.SIGTERM)
    _, errors = endless.communicate(timeout=60)
    assert endless.returncode == 130
    lost, *again, last = errors.splitlines()
    assert all(re.search(r"round \d+: worker 1 is there again", line) for line in again)
    assert "worker 1 is lost; its block keeps its value" in lost
    assert re.fullmatch(
        r"subnetwork: interrupted; (1 round is|\d+ rounds are) kept; "
        r"go on with: subnetwork train --resume",
        last,
    )
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["train.unfinished"]
    assert not list(tmp_path.glob("subnetwork-*"))
    time.sleep(0.1)
    assert str(tmp_path) not in subprocess.check_output(["ps", "axe"], text=True)


def test_a_run_whose_rounds_are_done_is_not_called_interrupted(tmp_path, monkeypatch):
    from subnetwork.cli import folder
    from subnetwork.nets import tensorfile

    put = folder._put

    def ctrl_c(*there):
        if len(there) == 2 and there[0].name.endswith(".unfinished"):
            put(*there)
        raise KeyboardInterrupt

    for module, stage, flags, message in [
        (tensorfile, "write_tensors", QUICK, "write the model with: subnetwork train --resume"),
        (folder, "_put", ["--resume"], "and the run is complete in runs/train"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(module, stage, ctrl_c)
            line = mistake(command("train", *flags, "--here", cwd=tmp_path), 130)
        assert line.startswith("subnetwork: all 2 rounds are done")
        assert line.endswith(message)
        assert (tmp_path / "runs/train/model.safetensors").exists() == (stage == "_put")


def test_a_full_disk_is_a_failure_in_one_line_and_leaves_nothing(tmp_path):
    """No file may grow beyond 2,000 bytes: what a disk that fills up does to a run."""

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        result = command("train", *QUICK, "--here", cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "nothing was written" in mistake(result, status=3)
    assert not list((tmp_path / "runs").iterdir())


def test_a_round_that_nobody_answered_has_no_training_loss(capsys):
    from subnetwork.cli.console import Output
    from subnetwork.cli.live import showing

    row = {"steps": 1, "loss": None, "accuracy": 0.5, "payload": 0, "samples": 8, "seconds": 1.0}
    with showing(Output(), "ist", 1) as show:
        show(row)
    assert "training loss none" in capsys.readouterr().out


def test_a_row_without_a_test_shows_the_last_one_and_its_step(capsys):
    from subnetwork.cli.console import Output
    from subnetwork.cli.live import showing

    row = {"loss": 0.5, "payload": 0, "samples": 8, "seconds": 1.0}
    with showing(Output(), "ist", 3) as show:
        for steps, accuracy in ((1, None), (2, 0.5), (3, None)):
            show(row | {"steps": steps, "accuracy": accuracy})
    shown = re.findall(r"accuracy +(.*?) +payload", capsys.readouterr().out)
    assert shown == ["none", "50.0%", "50.0% (step 2)"]


def test_test_every_zero_rows_is_refused(tmp_path):
    line = mistake(command("train", *QUICK, "--here", "--test-every", 0, cwd=tmp_path))
    assert "test_every is a whole number from 1 on, not 0" in line


def test_a_run_that_diverges_is_a_failure(tmp_path):
    line = mistake(command("train", *QUICK, "--here", "--step-size", 1e10, cwd=tmp_path), status=3)
    assert "ist diverged" in line
    assert "smaller --step-size" in line
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["train", *QUICK, "--here"], 0), (["train", "--no-such-flag"], 2), (["--version"], 0)],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_words_that_find_no_space_end_no_run(arguments, status, unbuffered, tmp_path):
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "subnetwork", *arguments],
            check=False,
            cwd=tmp_path,
            stdout=full,
            stderr=full,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert run.returncode == status
    assert (tmp_path / "runs/train/model.safetensors").exists() == ("--here" in arguments)


@pytest.mark.parametrize("arguments", [["lab", "list"], ["--help"], ["lab", "run", "--help"]])
def test_a_closed_pipe_is_no_verdict(arguments, monkeypatch):
    """As under `| head -1`: nobody reads what is printed, and Python must not say so at its end."""
    from subnetwork.cli import main

    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(arguments) == 141
        pipe.write("what was left in the buffer")
        pipe.flush()


def test_two_hidden_layers_are_two_numbers(tmp_path):
    command("train", "--here", "--rounds", 1, "--hidden", 12, 9, cwd=tmp_path)
    header = json.loads((tmp_path / "runs" / "train" / "ist.jsonl").read_text().splitlines()[0])
    assert header["config"]["hidden"] == [12, 9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1}\n', "lacks ['kind', 'name', 'config']"),
        ('{"schema": 2}\n', "not a record of schema 1"),
        ("{nonsense\n", "line 1 is not JSON"),
        ("[1]\n", "not a JSON object"),
        (b"\xff\xfe\x00\n", "is not text"),
    ],
)
def test_a_damaged_record_is_named(text, message, tmp_path):
    path = tmp_path / "ist.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = mistake(command("report", ".", cwd=tmp_path))
    assert message in line
    assert "ist.jsonl" in line
    assert not (tmp_path / "report.html").exists()


def test_an_unexpected_error_is_one_line_and_status_3():
    from subnetwork.cli import app

    line, status = app._verdict(ZeroDivisionError("division by zero"))
    assert status == 3
    assert "unexpected ZeroDivisionError" in line
    assert "SUBNETWORK_TRACEBACK=1" in line


def test_memory_that_torch_does_not_get_is_no_defect():
    from subnetwork.cli import app

    with pytest.raises(RuntimeError) as short:
        torch.empty(1 << 60, dtype=torch.uint8)
    line, status = app._verdict(short.value)
    assert status == 3
    assert line.startswith("not enough memory: torch can't allocate memory: you tried to allocate")
    assert "--exchange direct" in line


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory: the system has none"),
        (MemoryError(), "not enough memory: the system has none to give. Ask for less"),
        (MemoryError("no 4.2 MB"), "not enough memory: no 4.2 MB. Ask for less: fewer rounds"),
        (RuntimeError("can't start new thread"), "the system can't start a new thread: memory is"),
    ],
)
def test_memory_that_the_system_does_not_give_is_no_defect(error, why):
    from subnetwork.cli import app

    line, status = app._verdict(error)
    assert status == 3
    assert line.startswith(why)
    assert "Ask for less" in line


def test_verify_prints_a_line_a_claim_and_ends_by_their_verdicts(tmp_path, monkeypatch):
    """The claims themselves are those of `tests/theory/test_experiments.py`."""
    from subnetwork.experiments import verify
    from subnetwork.experiments.outcome import Outcome, equal

    wrong = equal("printed", "(13)", 1.0, 2.0)
    rows = [equal("holds", "(5)", 3.0, 3.0), Outcome("does not speak", "(19)", 1.0, None, "silent")]
    for last, status, standing in [(wrong.with_correction("twice", True), 0, 2), (wrong, 1, 1)]:
        monkeypatch.setattr(verify, "verify", lambda seed, last=last: [*rows, last][: seed and 3])
        result = command("lab", "verify", "--seed", 7, cwd=tmp_path)
        assert result.returncode == status
        assert f"{standing} of 3 statements hold" in result.stdout
        assert all(f"({number})" in result.stdout for number in (5, 13, 19))


def test_the_step_size_that_a_message_advises_works(tmp_path):
    flags = ["lab", "run", "interpolation", "--problem", "trig", "--rounds", 5, "--seeds", 5]
    line = mistake(command(*flags, "--step-size", 0.5, cwd=tmp_path))
    advised = re.search(r"Use step_size=([\d.e-]+) or less", line)
    assert command(*flags, "--step-size", advised[1], cwd=tmp_path).returncode == 0


def test_a_small_step_size_ends_soon(tmp_path):
    flags = ["--problem", "trig", "--rounds", 5, "--seeds", 5, "--step-size", 1e-6]
    assert command("lab", "run", *flags, cwd=tmp_path).returncode == 0


def test_lab_run_writes_a_record_and_a_page(tmp_path):
    flags = ["--problem", "trig", "--rounds", "20", "--seeds", "20", "--out", "lab"]
    result = command("lab", "run", "interpolation", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout
    assert {p.name for p in (tmp_path / "lab").iterdir()} == {
        "interpolation.jsonl",
        "claims.jsonl",
        "report.html",
    }


@pytest.mark.parametrize(
    "arguments", [["-c", "import subnetwork"], ["-m", "subnetwork", "lab", "--help"]]
)
def test_starting_imports_nothing_heavy(arguments, tmp_path):
    """What takes long to import waits for the command that needs it."""
    heavy = ("torch", "numba", "scipy", "sklearn", "matplotlib", "jinja2", "safetensors")
    command = [sys.executable, "-X", "importtime", *arguments]
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stderr
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines()}
    assert "subnetwork.deals" in imported
    assert imported.isdisjoint(heavy)
