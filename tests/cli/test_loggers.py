"""Loggers: told every row, refused before a run begins, and never able to harm it."""

import contextlib
import io
import json
import re
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from subnetwork.cli import main
from subnetwork.loggers import logged
from subnetwork.loggers.tensorboard import TensorBoard
from subnetwork.record import repeatable

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-logger.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SMALL = ["--hidden", "12", "--batch-size", "8", "--workers", "2", "--here"]


def train(*arguments, cwd, rounds=3):
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.chdir(cwd), redirect_stdout(out), redirect_stderr(err):
            status = main(["train", *SMALL, "--rounds", str(rounds), *map(str, arguments)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return status, err.getvalue()


def rows(cwd):
    _, *lines, end = map(json.loads, (cwd / "runs/train/ist.jsonl").read_text().splitlines())
    assert end == {"end": "done"}
    return lines


def test_the_logger_of_the_page_is_told_every_row_and_is_short(tmp_path):
    assert len([line for line in EXAMPLES[0].splitlines() if line.strip()]) < 20
    (tmp_path / "curve.py").write_text(EXAMPLES[0])
    status, err = train("--log", "curve.py:Curve", cwd=tmp_path)
    assert (status, err) == (0, "")
    told = [line.split(",") for line in (tmp_path / "curve.csv").read_text().splitlines()]
    assert [(int(k), float(accuracy)) for k, _, accuracy in told] == [
        (row["k"], row["accuracy"]) for row in rows(tmp_path)
    ]
    assert float(told[-1][1]) == pytest.approx(rows(tmp_path)[-1]["payload"] / 1e6, abs=1e-3)


def test_the_loop_of_the_page_runs(tmp_path):
    with contextlib.chdir(tmp_path):
        exec(EXAMPLES[0] + EXAMPLES[1], {})
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == 3


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The rows of the run without loggers."""
    folder = tmp_path_factory.mktemp("plain")
    assert train(cwd=folder)[0] == 0
    return list(map(repeatable, rows(folder)))


@pytest.mark.parametrize("place", ["begin", "row", "end"])
@pytest.mark.parametrize("error", ["ValueError('no\\nway')", "SystemExit('no')"])
def test_a_logger_that_raises_costs_one_line_and_the_run_is_the_same(place, error, tmp_path, plain):
    """It also changes the row that it is given, and draws random numbers."""
    (tmp_path / "bad.py").write_text(
        "import torch\n"
        "class Bad:\n"
        "    def begin(self, folder, config, k): self.do('begin', config)\n"
        "    def row(self, row): self.do('row', row)\n"
        "    def end(self, reason): self.do('end', {})\n"
        "    def do(self, place, told):\n"
        "        told.clear(); torch.rand(3)\n"
        f"        if place == {place!r}: raise {error}\n"
    )
    status, err = train("--log", "bad.py:Bad", cwd=tmp_path)
    assert status == 0
    (line,) = err.splitlines()
    assert f"the logger Bad failed in {place} ({error.split('(')[0]}: no" in line
    assert "training goes on" in line
    assert list(map(repeatable, rows(tmp_path))) == plain


def test_a_logger_hears_why_a_run_ended_early():
    heard = []

    class Ears:
        def begin(self, *told):
            heard.append(told)

        def row(self, row):
            heard.append(row)

        def end(self, reason):
            heard.append(reason)

    with pytest.raises(KeyboardInterrupt):
        with logged([Ears()], Path(), {"seed": 1}, 7) as tell:
            tell({"k": 7})
            raise KeyboardInterrupt("interrupted after 8 rounds")
    assert heard == [(Path(), {"seed": 1}, 7), {"k": 7}, "interrupted after 8 rounds"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandb", "no logger 'wandb'. Known is: tensorboard; or write file.py:NAME"),
        ("none.py:Curve", "There is no file none.py"),
        ("some.py:Nothing", "some.py has no function 'Nothing'. Write one that .* a logger"),
        ("some.py:Half", "some.py:Half makes a Half without begin and end"),
        ("some.py:Broken", "some.py cannot be run: RuntimeError: no key"),
    ],
)
def test_mistakes_are_refused_before_the_run_begins(name, message, tmp_path):
    (tmp_path / "some.py").write_text(
        "class Half:\n    def row(self, row): ...\n"
        "def Broken():\n    raise RuntimeError('no key')\n"
    )
    status, err = train("--log", name, cwd=tmp_path)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_tensorboard_that_is_not_installed_is_said_in_one_line(tmp_path):
    status, err = train("--log", "tensorboard", cwd=tmp_path)
    assert status == 2
    assert "pip install 'subnetwork[trackers]'" in err
    assert not (tmp_path / "runs").exists()


def test_tensorboard_gets_a_curve_for_each_number_and_worker(tmp_path, monkeypatch):
    """Against a writer that writes down what it is told."""
    told = []

    class SummaryWriter:
        def __init__(self, place, purge_step):
            told.append((place, purge_step))

        def add_text(self, name, text, k):
            told.append((name, text.splitlines()[-1], k))

        def add_scalar(self, name, value, k):
            told.append((name, value, k))

        def flush(self):
            told.append("flushed")

        def close(self):
            told.append("closed")

    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    with logged([TensorBoard()], tmp_path, {"method": "ist"}, 4) as tell:
        tell({"k": 4, "loss": 0.5, "bytes_up": [8, 4]})
    assert told == [
        (str(tmp_path / "tensorboard"), 4),
        ("config", "| method | ist |", 4),
        *(("loss", 0.5, 4), ("bytes_up/0", 8, 4), ("bytes_up/1", 4, 4)),
        *("flushed", "closed"),
    ]


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_a_run_wrote_and_a_longer_run_goes_on_with_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train("--log", "tensorboard", cwd=tmp_path)[0] == 0
    assert train("--log", "tensorboard", "--resume", rounds=5, cwd=tmp_path)[0] == 0
    events = EventAccumulator(str(tmp_path / "runs/train/tensorboard")).Reload()
    points = [(point.step, point.value) for point in events.Scalars("accuracy")]
    assert points == [(row["k"], pytest.approx(row["accuracy"])) for row in rows(tmp_path)]
    assert "wire_up/1" in events.Tags()["scalars"]
