"""Real signals while a run takes other workers: its rounds are kept, nothing of it is left."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from subnetwork.cli import main
from subnetwork.cli.requests import ask
from worker_processes import all_gone, descendants

pytestmark = pytest.mark.faults
SMALL = ["--hidden", "12", "--batch-size", "8", "--momentum", "0.5"]


def command(*arguments, cwd):
    """In this process; signal handlers are as before when it ends."""
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in ends}
    try:
        with contextlib.chdir(cwd):
            return main([str(argument) for argument in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Stops:
    """A logger that ends the run before a round."""

    def __init__(self, k):
        self.k = k

    def __deepcopy__(self, memo):
        return self

    def begin(self, folder, config, k):
        pass

    def row(self, row):
        if row["k"] + 1 == self.k:
            raise KeyboardInterrupt

    def end(self, reason):
        pass


class Asks(Stops):
    """A logger that asks for workers after a round."""

    def __init__(self, k, workers):
        super().__init__(k)
        self.workers = workers

    def begin(self, folder, _config, _k):
        self.place = folder / "scale"

    def row(self, row):
        if row["k"] == self.k:
            ask(self.place, self.workers)


@pytest.mark.parametrize("exchange", ["star", "direct"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("seed", range(4))
def test_a_signal_during_the_change_costs_no_round_that_was_kept(
    seed, sent, exchange, tmp_path, monkeypatch
):
    """Resumed, it is the run that was interrupted where the workers changed, if they did."""
    flags = [*SMALL, "--workers", "2", "--rounds", "100000", "--exchange", exchange]
    process = subprocess.Popen(
        [sys.executable, "-m", "subnetwork", "train", *flags, "--checkpoint-every", "1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # a killed run leaves its secret's folder
    )
    folder, until = tmp_path / "runs/train.unfinished", time.monotonic() + 300
    while not list(folder.glob("checkpoints/round-*")) and time.monotonic() < until:
        time.sleep(0.01)
    asked = ask(folder / "scale", 4)
    while asked.path.exists() and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(random.Random(f"{seed} {sent}").random())
    pids = [pid for found in descendants(process.pid).values() for pid in found]
    process.send_signal(sent)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == (130 if sent == signal.SIGTERM else -9), errors
    assert all_gone(pids, 20)
    kept = max(int(path.name[6:14]) for path in folder.glob("checkpoints/round-*"))
    rounds = ["--rounds", kept + 3]
    star = ["--exchange", "star", "--here"]
    assert command("train", "--resume", *star, *rounds, cwd=tmp_path) == 0
    changes = changed(tmp_path / "runs/train")
    as_planned(changes, rounds, tmp_path, monkeypatch)
    models = [tmp_path / at / "model.safetensors" for at in ("runs/train", "planned")]
    assert models[0].read_bytes() == models[1].read_bytes()


def changed(folder: Path):
    """Where the number of workers changed, and to which."""
    header = json.loads((folder / "ist.jsonl").read_text().splitlines()[0])
    changes = [(each["k"], each["changed"].get("workers")) for each in header["resumed"]]
    return [(k, n[1]) for k, n in changes if n is not None]


def as_planned(changes, rounds, cwd, monkeypatch):
    """The same run in one process, ended and resumed where workers changed."""
    from subnetwork.cli import train

    here, flags = ["--here", "--out", "planned"], [*SMALL, "--workers", "2"]
    for k, n in changes:
        monkeypatch.setattr(train, "loggers", lambda _, k=k: [Stops(k)])
        long = ["--rounds", 100000] if flags[0] != "--resume" else []
        assert command("train", *flags, *long, *here, cwd=cwd) == 130
        flags = ["--resume", "--workers", n]
    monkeypatch.undo()
    assert command("train", *flags, *rounds, *here, cwd=cwd) == 0


DIES = """
import os, signal, sys
from subnetwork.experiments import direct, rank
from subnetwork.runtime.direct import ranks

tell = direct.tell

def dies(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def leaving(instead):
    def told(links, own, n, words):
        return instead() if "leaves" in words else tell(links, own, n, words)
    return told

def leaves():
    raise direct._LeftError

def main(arguments):
    at, (_, own, n, number) = os.environ["DIES"], arguments
    if (own, n) == ("1", "4"):
        if at == "start":
            dies()
        if at == "here":
            direct.task = dies
        if at == "meeting":
            ranks.meet = dies
    if n == "3" and number == "0" and at in ("leaving", "leaving last"):
        if own == "1":
            direct.tell = leaving(dies)
        elif at == "leaving last":  # which heard all the others
            direct.tell = leaving(leaves)
    return rank.main(arguments)
"""


@pytest.mark.parametrize("replicas", [0, 1])
@pytest.mark.parametrize("at", ["start", "here", "meeting", "leaving", "leaving last"])
def test_a_rank_that_dies_during_the_change_is_named_or_the_run_goes_on(
    at, replicas, tmp_path, monkeypatch, capfd
):
    from subnetwork.cli import train
    from subnetwork.experiments import rank

    (tmp_path / "dies.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("DIES", at)
    monkeypatch.setattr(train, "RANKS", "dies")
    monkeypatch.setattr(rank, "MODULE", "dies")
    monkeypatch.setattr(train, "loggers", lambda _: [Asks(0, 4)])
    direct = ["--workers", 3, "--exchange", "direct", "--replicas", replicas, "--rounds", 4]
    began = time.monotonic()
    status = command("train", *SMALL, *direct, cwd=tmp_path)
    errors = capfd.readouterr().err
    assert time.monotonic() - began < 200
    assert "Traceback" not in errors
    assert not [name for name in descendants() if name.startswith("rank ")]
    if at.startswith("leaving"):  # what the run goes on from is there
        assert status == 0, errors
    else:
        assert status == 3, errors
        assert re.search(
            r"rank 1 died \(process \d+ was ended by SIGKILL\).* 2 rounds are k", errors
        )
        record = (tmp_path / "runs/train.unfinished/ist.jsonl").read_text()
        assert '{"end": "rank 1 died' in record.splitlines()[-1]
        monkeypatch.undo()
        assert command("train", "--resume", "--exchange", "star", "--here", cwd=tmp_path) == 0
    n = changed(tmp_path / "runs/train")
    assert n == ([] if at == "start" else [(2, 4)])
