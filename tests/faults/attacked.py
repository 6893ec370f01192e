"""A training of the command line that is attacked: its start, its record as it grows, its end.

One run takes several faults, one after another: to start a run costs more than any fault does.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from subnetwork.cli import main
from subnetwork.experiments.resume import saved
from subnetwork.nursery import die_with_parent

MANY = ["--rounds", "1000000"]
EACH = ["--checkpoint-every", "1"]
UNFINISHED = "runs/train.unfinished"
END = 1 << 16  # bytes of a record that hold its last row for certain
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def started(*flags, cwd, program=("-m", "subnetwork")):
    """A process of the command, which is gone when the block is left; `said` has its words."""
    words, mistakes = (cwd / "said").open("w"), (cwd / "errors").open("w")
    process = subprocess.Popen(
        [sys.executable, *program, "train", *map(str, flags)],
        cwd=cwd,
        stdout=words,
        stderr=mistakes,
        env=os.environ | {"TMPDIR": str(cwd)},  # a killed run leaves its secret's folder
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - where the tests are killed, it is too
    )
    words.close()
    mistakes.close()
    process.words = lambda: said(cwd)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(cwd):
    """What the command has said since it was started last, its errors after the rest."""
    return (cwd / "said").read_text() + errors(cwd)


def errors(cwd):
    """What it has said on stderr."""
    return (cwd / "errors").read_text()


def here(*arguments, cwd):
    """A command in this process, whose signal handlers are as before when it ends; its status."""
    handlers = {number: signal.getsignal(number) for number in ENDS}
    try:
        with contextlib.chdir(cwd):
            return main([str(argument) for argument in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def seconds_until(condition, run=None, limit=120, every=0.02):
    """How long it took until a condition held, which is looked at so often, while `run` lives."""
    began = time.monotonic()
    while not condition():
        words = f"...{run.words()[-2000:]}" if run else ""
        assert run is None or run.poll() is None, f"it has ended: {words}"
        assert time.monotonic() - began < limit, f"not in {limit} s: {words}"
        time.sleep(every)
    return time.monotonic() - began


def rows(record):
    """The rows that are whole."""
    lines = [json.loads(line) for line in record.read_text().split("\n")[:-1]]
    return [line for line in lines if "k" in line]


def faults(record):
    """All faults that the record tells of, in its order."""
    return [fault for row in rows(record) for fault in row["faults"]]


def count(record, kind):
    """How often the record tells of a kind of fault."""
    return record.read_text().count(f'"kind": "{kind}"')


def rounds_done(record):
    """How many rounds the record tells of at its end; 0 where there is none yet."""
    if not record.exists():
        return 0
    with record.open("rb") as file:
        file.seek(max(0, record.stat().st_size - END))
        lines = file.read().split(b"\n")[:-1]
    last = [line for line in lines if line.startswith(b'{"k"')][-1:]
    return json.loads(last[0])["k"] + 1 if last else 0


def kept_rounds(folder):
    """How many rounds the newest checkpoint holds; all checkpoints are sound."""
    kept, damage = saved(folder / "checkpoints")
    assert not damage
    return kept.start.k


def newest(folder):
    """The number in the name of the newest checkpoint; 0 where there is none."""
    return max((int(p.name[6:14]) for p in folder.glob("checkpoints/round-*")), default=0)


def same_model(one, other):
    """Whether two runs ended with the same model, to the bit."""
    models = [(at / "model.safetensors").read_bytes() for at in (one, other)]
    return models[0] == models[1]


def changed(folder):
    """Where the number of workers changed, and to which."""
    header = json.loads((folder / "ist.jsonl").read_text().splitlines()[0])
    changes = [(each["k"], each["changed"].get("workers")) for each in header["resumed"]]
    return [(k, n[1]) for k, n in changes if n is not None]


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


def as_planned(flags, changes, rounds, cwd, monkeypatch):
    """The same run in one process, ended and resumed where workers changed; its folder."""
    from subnetwork.cli import train

    place = ["--here", "--out", "planned"]
    for k, n in changes:
        monkeypatch.setattr(train, "loggers", lambda _, k=k: [Stops(k)])
        long = MANY if flags[0] != "--resume" else []
        assert here("train", *flags, *long, *place, cwd=cwd) == 130
        flags = ["--resume", "--workers", n]
    monkeypatch.undo()
    assert here("train", *flags, "--rounds", rounds, *place, cwd=cwd) == 0
    return cwd / "planned"
