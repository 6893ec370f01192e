"""Real signals while a run takes other workers: its rounds are kept, nothing of it is left."""

import os
import random
import re
import signal
import time

import pytest
from attacked import (
    EACH,
    MANY,
    UNFINISHED,
    as_planned,
    changed,
    count,
    here,
    kept_rounds,
    newest,
    rounds_done,
    rows,
    said,
    same_model,
    seconds_until,
    started,
)

from subnetwork.cli.requests import ask
from worker_processes import all_gone, descendants

SMALL = ["--hidden", "12", "--batch-size", "8", "--momentum", "0.5"]
FIRST_SEED = [
    pytest.param(0, marks=pytest.mark.faults),
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4)),
]


class Asks:
    """A logger that asks for workers after a round."""

    def __init__(self, k, workers):
        self.k, self.workers = k, workers

    def __deepcopy__(self, memo):
        return self

    def begin(self, folder, _config, _k):
        self.place = folder / "scale"

    def row(self, row):
        if row["k"] == self.k:
            ask(self.place, self.workers)

    def end(self, reason):
        pass


@pytest.mark.parametrize("exchange", ["star", "direct"])
@pytest.mark.parametrize("seed", FIRST_SEED)
def test_five_changes_and_five_signals_cost_no_round_that_was_kept(
    seed, exchange, tmp_path, monkeypatch
):
    """Signals come within a second of the request, three of them when the change is done.

    The run is the one that was interrupted where the workers changed, if they did.
    """
    words, folder, done = random.Random(f"{seed} {exchange}"), tmp_path / UNFINISHED, 0
    small, record = [*SMALL, "--workers", "2"], folder / "ist.jsonl"
    flags = [*small, *MANY, "--exchange", exchange]
    for number, n in enumerate([4, 3, 5, 2, 4]):  # never what it is
        sent, completed = words.choice([signal.SIGTERM, signal.SIGKILL]), number % 2 == 0
        with started(*flags, *EACH, cwd=tmp_path) as process:
            seconds_until(lambda: newest(folder) > done)  # noqa: B023
            changes = count(record, "scaled")
            asked = ask(folder / "scale", n)
            seconds_until(lambda: not asked.path.exists())  # noqa: B023
            if completed:
                seconds_until(lambda: count(record, "scaled") > changes)  # noqa: B023
            time.sleep(words.random())
            pids = [pid for found in descendants(process.pid).values() for pid in found]
            process.send_signal(sent)
            assert process.wait(timeout=300) == (130 if sent == signal.SIGTERM else -9)
        assert all_gone(pids, 20), said(tmp_path)
        done = kept_rounds(folder)
        assert rounds_done(record) - done <= 1
        flags = ["--resume"]
    rounds = done + 3
    star = ["--exchange", "star", "--here", "--rounds", rounds]
    assert here("train", "--resume", *star, cwd=tmp_path) == 0
    whole = tmp_path / "runs/train"
    assert [row["k"] for row in rows(whole / "ist.jsonl")] == list(range(rounds))
    changes = changed(whole)
    assert len(changes) >= 3
    assert same_model(whole, as_planned(small, changes, rounds, tmp_path, monkeypatch))


DIES = """
import os, signal, sys
from subnetwork.experiments import direct, rank
from subnetwork.runtime.direct import place

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
            place.meet = dies
    if n == "3" and number == "0" and at in ("leaving", "leaving last"):
        if own == "1":
            direct.tell = leaving(dies)
        elif at == "leaving last":  # which heard all the others
            direct.tell = leaving(leaves)
    return rank.main(arguments)
"""


@pytest.mark.slow
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
    status = here("train", *SMALL, *direct, cwd=tmp_path)
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
        assert here("train", "--resume", "--exchange", "star", "--here", cwd=tmp_path) == 0
    n = changed(tmp_path / "runs/train")
    assert n == ([] if at == "start" else [(2, 4)])
