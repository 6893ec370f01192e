"""Runs that are asked for other workers by a plan, and what they left."""

import json
import re

from in_process import command

from subnetwork.cli.requests import answer_to, ask
from subnetwork.record import repeatable
from worker_processes import descendants

NET = ["--hidden", "12", "--batch-size", "8"]
SMALL = [*NET, "--workers", "2", "--momentum", "0.5"]


class Plan:
    """A logger that asks for workers, or ends the run, after the rows that a plan names."""

    def __init__(self, plan, looks=lambda: None):
        self.plan, self.looks = plan, looks
        self.asked, self.lines, self.begun, self.ended, self.seen = [], [], [], [], []

    def __deepcopy__(self, memo):
        return self

    def begin(self, folder, config, k):
        self.folder = folder
        self.begun.append((k, config["workers"]))

    def row(self, row):
        self.hear()
        self.seen.append((len(row["bytes_down"]), self.looks()))
        for what in self.plan.get(row["k"], ()):
            if what == "stop":
                raise KeyboardInterrupt
            self.asked.append(ask(self.folder / "scale", what))

    def end(self, reason):
        self.hear()
        self.ended.append(reason)
        (record,) = self.folder.glob("*.jsonl")
        self.last = json.loads(record.read_text().splitlines()[-1])

    def hear(self):
        found = [answer_to(one) for one in self.asked]
        self.lines += [(one.done, one.line) for one in found if one is not None]


def trained(plan, *flags, cwd, looks=lambda: None):
    """A run under a plan: what it left, and the plan with what it heard."""
    from subnetwork.cli import train

    told, before = Plan(plan, looks), train.loggers
    train.loggers = lambda _: [told]
    try:
        return command("train", *flags, cwd=cwd), told
    finally:
        train.loggers = before


def read(folder):
    """Header, rows without faults, and all faults of a complete run."""
    (path,) = folder.glob("*.jsonl")
    header, *rows, end = map(json.loads, path.read_text().splitlines())
    assert end == {"end": "done"}
    faults = [fault for row in rows for fault in row["faults"]]
    wires = ("wire_down", "wire_up")  # 0 in one process
    plain = [
        {k: v for k, v in repeatable(row).items() if k not in ("faults", *wires)} for row in rows
    ]
    return header, plain, faults


def same(one, other):
    """Models, last checkpoints, and all of the rows that is the same to the bit."""
    assert read(one)[1] == read(other)[1]
    (last,) = sorted(path.name for path in (other / "checkpoints").iterdir())[-1:]
    for name in ("model.safetensors", f"checkpoints/{last}/shard-0-of-1.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    headers = [
        json.loads((at / f"checkpoints/{last}/header.json").read_text()) for at in (one, other)
    ]
    for what in ("run", "sketch"):
        assert headers[0][what] == headers[1][what]


def processes():
    return sorted(name for name in descendants() if re.match(r"(worker|rank) \d", name))
