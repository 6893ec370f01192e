"""`subnetwork plan` as a stranger uses it."""

import re
import signal
from functools import partial

import pytest

import subnetwork
from subnetwork.cli import main
from subnetwork.deals import Lazy, Perm
from subnetwork.nets import SGD, Adam
from subnetwork.nets.models import MODELS
from subnetwork.runtime.costs import Pace

MODEL = """
import torch
from torch import nn
from sizes import HIDDEN

def build():
    return nn.Sequential(nn.Linear(8, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3)), torch.ones(4, 8)

def nothing():
    return build()[0]

def broken():
    return 1 / 0

HEADS = 3
"""
QUICK = ["--calibration", "0.2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sizes.py").write_text("HIDDEN = 48\n")
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "torn.py").write_text("def build(:\n")
    (tmp_path / "away.py").write_text("import nonesuch\n")
    return tmp_path


@pytest.fixture
def command(folder, capsys):  # noqa: ARG001 - it runs there
    """Run the command in this process; status, standard output, standard error."""
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in ends]

    def run(*arguments):
        status = main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    yield run
    for number, handler in zip(ends, before, strict=True):
        signal.signal(number, handler)


def test_without_a_bandwidth_it_prints_the_plan_and_its_table(command):
    status, out, error = command("plan", "mine.py:build", "--workers", 3)
    assert status == 0, error
    assert "0.hidden(48)" in out
    assert "one of 3" in out
    assert "bytes per round, each way" in out
    assert "Local SGD" not in out


@pytest.mark.parametrize("name", MODELS)
def test_every_built_in_network_is_planned_for_four_workers_by_its_name(name, command, monkeypatch):
    cut = partial(subnetwork.decompose, verify=False)  # proved in the tests of decompose
    monkeypatch.setattr("subnetwork.decompose", cut)
    status, out, error = command("plan", name, "--workers", 4)
    assert status == 0, error
    (line,) = (line for line in out.splitlines() if line.startswith("parameters"))
    assert float(line.split()[-1]) < 0.3


def test_with_a_bandwidth_it_predicts_rounds_and_says_whether_ist_pays(command, monkeypatch):
    pace = Pace(step_whole=2e-3, step_part=5e-4, handling=1e-4, averaging=1e-5)
    monkeypatch.setattr("subnetwork.runtime.calibration.calibrate", lambda *_, **__: pace)
    flags = ["--workers", 3, "--bandwidth", "1mbit", "--latency", "20ms", "--steps", 5, *QUICK]
    status, out, error = command("plan", "mine.py:build", *flags)
    assert status == 0, error
    assert "a round of 5 local steps, 3 workers, a core each, 1mbit, 20 ms" in out
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert {"IST, direct", "IST, coordinator", "Local SGD", "DiLoCo", "DDP"} <= set(lines)
    # 2 (n-1)/n of 579 float32 entries
    assert "3.09 kB" in lines["Local SGD"]
    assert "times the steps of Local SGD for the same accuracy" in out


@pytest.mark.parametrize(("workers", "warned"), [(24, False), (25, True)])
def test_parts_of_a_single_unit_are_said_to_take_more_steps(workers, warned, command, monkeypatch):
    """Of 48 units, 24 workers have two each."""
    pace = Pace(step_whole=2e-3, step_part=5e-4)
    monkeypatch.setattr("subnetwork.runtime.calibration.calibrate", lambda *_, **__: pace)
    flags = ["--workers", workers, "--bandwidth", "1mbit"]
    status, out, error = command("plan", "mine.py:build", *flags)
    assert status == 0, error
    words = "A worker has a single unit, or none, of 0.hidden (48 units). Parts so narrow"
    assert (words in out) == warned


@pytest.mark.parametrize(
    ("flags", "given", "moments"),
    [
        ((), {}, SGD(1).moments),
        (("--period", 5, "--wire", "int8"), {"deal": Lazy(3, 5), "wire": "int8"}, SGD(1).moments),
        (("--moments", 1), {}, SGD(1, momentum=0.9).moments),
        (("--moments", 2), {}, Adam(1).moments),
        (("--outer",), {"outer": True}, SGD(1).moments),
    ],
)
def test_what_is_measured_is_what_is_asked_for(flags, given, moments, command, monkeypatch):
    asked = {}

    def calibrated(_, n_workers, **given):
        asked.update(given, n_workers=n_workers)
        return Pace(step_whole=2e-3, step_part=5e-4)

    monkeypatch.setattr("subnetwork.runtime.calibration.calibrate", calibrated)
    status, _, error = command(
        "plan", "mine.py:build", "--workers", 3, "--bandwidth", "1mbit", *flags, *QUICK
    )
    assert status == 0, error
    assert asked.pop("optimizer").moments == moments
    usual = {"deal": Perm(3), "wire": "float32", "outer": False}
    assert asked == {"n_workers": 3, "budget": 0.2, "beside": 0, **usual, **given}


@pytest.mark.parametrize(
    ("workers", "cores", "here", "beside"),
    [
        (4, 2, 2, 3),  # on this machine
        (4, 4, 2, 1),  # a core each, of a larger one
        (8, 2, 4, 7),
        (4, 8, 1, 0),  # a machine of one core has nobody beside
        (48, 4, 4, 7),  # as many as are played
        (4, 1e-310, 2, 3),
    ],
)
def test_workers_who_share_cores_are_measured_beside_each_other(
    workers, cores, here, beside, command, monkeypatch
):
    asked = []

    def calibrated(*_, beside, **__):
        asked.append(beside)
        return Pace(step_whole=2e-3, step_part=5e-4)

    monkeypatch.setattr("subnetwork.runtime.calibration.calibrate", calibrated)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(here))
    flags = ["--workers", workers, "--bandwidth", "1mbit", "--cores", cores, *QUICK]
    status, out, error = command("plan", "mine.py:build", *flags)
    assert status == (0 if cores >= 1 else 2), error  # where no number is large enough
    assert asked == [beside]
    assert (f"beside {beside} other" in out) == (beside > 0)
    assert ("measured alone" in out) == (beside == 0)


def test_no_more_workers_are_played_than_have_memory(command, monkeypatch):
    """579 entries and two moments: ten times 6,948 bytes a process, and activations."""
    asked = []

    def calibrated(*_, beside, **__):
        asked.append(beside)
        return Pace(step_whole=2e-3, step_part=5e-4)

    monkeypatch.setattr("subnetwork.runtime.calibration.calibrate", calibrated)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(2))
    flags = ["--workers", 3, "--bandwidth", "1mbit", "--cores", 2, "--moments", 2, *QUICK]
    for n_free, beside in ((76_000 * 3, 2), (76_000 * 2, 1), (1000, 0)):
        monkeypatch.setattr("subnetwork.runtime.measured.free_memory", lambda n=n_free: n)
        status, out, error = command("plan", "mine.py:build", *flags)
        assert (status, asked.pop()) == (0, beside), error
        said = f"measured beside {beside}, not 2: each needs about 7"
        assert (said in out) == (beside < 2)


def test_it_says_plainly_when_ist_does_not_pay(command, monkeypatch):
    """A tiny model, merged after each step: cutting it takes longer than training it."""
    pace = Pace(step_whole=2e-4, step_part=1.5e-4, handling=1e-3, averaging=1e-5)
    monkeypatch.setattr("subnetwork.runtime.calibration.calibrate", lambda *_, **__: pace)
    status, out, error = command(
        "plan", "mine.py:build", "--bandwidth", "100gbit", "--steps", 1, *QUICK
    )
    assert status == 0, error
    assert "IST does not pay here: a round takes" in out


def test_the_verdict_says_what_the_exchange_that_is_the_default_comes_to(command, monkeypatch):
    """On a slow link the coordinator's, which carries all parts one after another, makes it."""
    pace = Pace(step_whole=2e-2, step_part=5e-3)
    monkeypatch.setattr("subnetwork.runtime.calibration.calibrate", lambda *_, **__: pace)
    for workers, cores in ((2, 2), (8, 8)):
        flags = ["--workers", workers, "--cores", cores, "--bandwidth", "1mbit", *QUICK]
        status, out, error = command("plan", "mine.py:build", *flags)
        assert status == 0, error
        said = re.search(r"fewer than ([0-9.]+) times .* coordinator, the default, (.*)\.", out)
        assert said, out
        assert said[2] == "it does not pay" or float(said[2].split()[2]) < float(said[1])


def test_the_link_of_one_machine_is_measured(command):
    flags = ["--workers", 2, "--bandwidth", "loopback", "--cores", 2, *QUICK]
    status, out, error = command("plan", "mine.py:build", *flags)
    assert status == 0, error
    assert re.search(r"2 cores for all, [0-9.]+[mg]bit", out)  # of a busy machine too


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lstm"], "no model 'lstm'. Known are: mlp, relu, resnet, gpt, gcn, sage, gat; or write"),
        (["mine.py"], "write mine.py:build for a function of your own"),
        (["theirs.py:build"], "no file theirs.py"),
        (["mine.py:make"], "mine.py has no function 'make'"),
        (["mine.py:HEADS"], "mine.py has no function 'HEADS'"),
        (["mine.py:nothing"], "returned Sequential, not (model, example_batch)"),
        (
            ["mine.py:broken"],
            "mine.py cannot be run: ZeroDivisionError: division by zero (line 13)",
        ),
        (["torn.py:build"], "torn.py cannot be run: SyntaxError"),
        (["away.py:build"], "away.py cannot be run: ModuleNotFoundError: No module named 'nones"),
        (["mlp", "--bandwidth", "100mb"], "'100mb' is not a rate"),
        (["mlp", "--bandwidth", "0mbit"], "'0mbit' is not a rate"),
        (["mlp", "--bandwidth", "1gbit", "--latency", "20"], "'20' is not a time"),
        (["mlp", "--bandwidth", f"0.{299 * '0'}1bit"], "bits per second is no network. Use 1 or"),
        (["mlp", "--bandwidth", f"{400 * '9'}bit"], "9bit' is not a rate"),
        (["mlp", "--bandwidth", "1gbit", "--latency", f"1{300 * '0'}s"], "0 to 86400 seconds"),
        (["mlp", "--bandwidth", "1gbit", "--latency", f"{400 * '9'}s"], "9s' is not a time"),
        (
            ["mlp", "--bandwidth", "1gbit", "--steps", f"1{400 * '0'}"],
            "1,000,000,000,000 local steps at most",
        ),
        (["mlp", "--latency", "20ms"], "--latency without --bandwidth"),
        (["mlp", "--bandwidth", "loopback", "--latency", "20ms"], "--latency does nothing beside"),
        (["mlp", "--steps", "20"], "--steps without --bandwidth predicts nothing"),
        (["mlp", "--bandwidth", "1gbit", "--wire", "int4"], "no wire 'int4'"),
        (["mlp", "--bandwidth", "1gbit", "--workers", "1"], "two workers or more"),
        (["mlp", "--bandwidth", "1gbit", "--calibration", "0"], "--calibration is a positive"),
        (["mlp", "--bandwidth", "1gbit", "--calibration", "inf"], "--calibration is a positive"),
        (["mlp", "--bandwidth", "1gbit", "--moments", "-3"], "--moments is 0 (SGD), 1"),
        (["mine.py:build", "--workers", "49"], "48 units for n_workers=49"),
        (["mine.py:build", "--workers", "0"], "workers"),
        ([], "requires an argument"),
    ],
)
def test_a_mistake_costs_one_line_and_status_2(arguments, message, command):
    status, out, error = command("plan", *arguments)
    assert (status, out) == (2, ""), error
    assert len(error.strip().splitlines()) == 1, error
    assert message in error
