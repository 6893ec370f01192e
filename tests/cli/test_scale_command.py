"""A running run takes more workers or fewer: to the bit what an end and --resume would do."""

import errno
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress

import pytest
from in_process import command

from subnetwork.cli import requests
from subnetwork.cli.requests import answer, answer_to, ask, hearing, taken
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


def resumed(k, before, after, flags, cwd, out):
    """The run that was interrupted before round k and went on with other workers."""
    flags = [*flags, "--here", "--out", out]
    stopped, _ = trained({k - 1: ["stop"]}, *flags, "--workers", before, cwd=cwd)
    assert stopped.returncode == 130
    assert f"{k} rounds are kept" in stopped.stderr or k == 1
    done = command("train", "--resume", "--here", "--workers", after, "--out", out, cwd=cwd)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("before", "after", "k", "flags"),
    [
        (2, 3, 3, ["--momentum", "0.5"]),
        (4, 1, 2, ["--optimizer", "adam", "--step-size", "0.01"]),
        (2, 5, 2, ["--method", "diloco"]),
        (3, 2, 20, ["--method", "synchronous_sgd"]),  # ten rounds a row
        (2, 4, 2, ["--clip-updates", "2"]),
        (2, 4, 3, ["--method", "lazy_ist", "--local-steps", "3", "--steps", "14"]),
    ],
)
def test_it_goes_on_as_an_interrupted_run_does_that_is_resumed(before, after, k, flags, tmp_path):
    flags = [*NET, *flags, *([] if "--steps" in flags else ["--rounds", 5])]
    done, told = trained(
        {k - 1: [after]}, *flags, "--here", "--workers", before, "--out", "scaled", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    resumed(k, before, after, flags, tmp_path, "resumed")
    one, other = tmp_path / "scaled", tmp_path / "resumed"
    same(one, other)
    (header, rows, faults), (there, _, _) = read(one), read(other)
    assert (
        header["resumed"] == there["resumed"] == [{"k": k, "changed": {"workers": [before, after]}}]
    )
    assert header["config"]["workers"] == after
    reason = f"from {before} to {after} worker{'s' * (after > 1)}"
    change = {"k": k, "kind": "scaled", "from": before, "to": after, "reason": reason}
    assert [f for f in faults if f["kind"] == "scaled"] == [change]
    assert [len(row["bytes_up"]) for row in rows] == [
        before if row["k"] < k else after for row in rows
    ]
    n_rounds = 50 if "synchronous_sgd" in flags else 5
    (heard,) = told.lines
    named = f"{after} worker{'s' * (after > 1)}"
    line = f"scaled goes on with {named} instead of {before} after round {k} of {n_rounds}"
    assert heard == (True, line)
    assert line in done.stdout
    assert told.begun == [(0, before), (k, after)]
    assert told.ended == [f"goes on with {named}", "done"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed", "scaled"]
    left = {"checkpoints", "model.safetensors", f"{header['name']}.jsonl"}
    assert {path.name for path in one.iterdir()} == left


def processes():
    return sorted(name for name in descendants() if re.match(r"(worker|rank) \d", name))


def test_on_processes_workers_come_and_leave_and_those_that_stay_are_the_same(tmp_path):
    pids = []

    def looks():
        pids.append(descendants().get("worker 0"))
        return processes()

    plan = {0: [4], 2: [1]}
    done, told = trained(plan, *SMALL, "--rounds", 5, cwd=tmp_path, looks=looks)
    assert done.returncode == 0, done.stderr
    names = [f"worker {i}" for i in range(4)]
    assert told.seen == [(n, names[:n]) for n in (2, 4, 4, 1, 1)]
    assert len(set(map(str, pids))) == 1
    here, _ = trained(plan, *SMALL, "--rounds", 5, "--here", "--out", "here", cwd=tmp_path)
    assert here.returncode == 0
    same(tmp_path / "runs/train", tmp_path / "here")
    assert not processes()


@pytest.mark.parametrize("replicas", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_in_direct_hand_over_other_ranks_go_on(replicas, tmp_path):
    flags = [*SMALL, "--rounds", 4, "--exchange", "direct", "--replicas", replicas]
    # a request is heard when all ranks have done a round, before its row is written
    done, told = trained({0: [3, 1]}, *flags, cwd=tmp_path, looks=processes)
    assert done.returncode == 0, done.stderr
    counts = (2, 2, 3, 3 if replicas else 1)  # one rank has nobody for its replica
    assert told.seen == [(n, [f"rank {i}" for i in range(1, n)]) for n in counts]
    last = "--replicas 1 lets ranks go on" if replicas else "goes on with 1 worker instead of 3"
    assert last in told.lines[1][1]
    plan = {1: [3]} if replicas else {1: [3, 1]}
    star, _ = trained(plan, *SMALL, "--rounds", 4, "--here", "--out", "here", cwd=tmp_path)
    assert star.returncode == 0
    models = [tmp_path / at / "model.safetensors" for at in ("runs/train", "here")]
    assert models[0].read_bytes() == models[1].read_bytes()
    header, rows, _ = read(tmp_path / "runs/train")
    assert [row["k"] for row in rows] == [0, 1, 2, 3]
    assert header["resumed"][0] == {"k": 2, "changed": {"workers": [2, 3]}}


@pytest.mark.parametrize(
    ("flags", "workers", "why"),
    [
        (["--workers", 2], 13, "--hidden 12 gives 12 units on axis .* for --workers 13"),
        (["--workers", 2], 1000, "batch_size=8 does not fit a shard of 1 rows"),
        (["--workers", 2], 0, "workers is a whole number from 1 on, not 0"),
        (["--workers", 2], 10**20, "A run is scaled to at most 1024 workers"),
        (["--method", "narrow", "--workers", 1], 2, "narrow is one network .* not by 2"),
        (
            ["--method", "heterofl", "--workers", 2, "--capacities", 1, 0.5],
            3,
            "There are 2 capacities for --wor",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason_and_changes_nothing(
    flags, workers, why, tmp_path
):
    flags = [*NET, *flags, "--rounds", 3, "--here"]
    done, told = trained({0: [workers]}, *flags, "--out", "asked", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ((well, line),) = told.lines
    assert not well
    assert re.match(rf"asked goes on with \d workers? as before, not with {workers}: {why}", line)
    assert "\n" not in line
    assert line in done.stdout
    assert trained({}, *flags, "--out", "plain", cwd=tmp_path)[0].returncode == 0
    same(tmp_path / "asked", tmp_path / "plain")
    header, _, faults = read(tmp_path / "asked")
    assert "resumed" not in header
    assert not faults


def test_two_that_ask_at_once_are_served_one_after_the_other(tmp_path):
    done, told = trained({0: [3, 4]}, *SMALL, "--rounds", 4, "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [n for n, _ in told.seen] == [2, 3, 4, 4]
    assert [line.split(" after ")[1] for _, line in told.lines] == ["round 1 of 4", "round 2 of 4"]
    header, _, faults = read(tmp_path / "runs/train")
    assert [(f["k"], f["from"], f["to"]) for f in faults] == [(1, 2, 3), (2, 3, 4)]
    assert [each["k"] for each in header["resumed"]] == [1, 2]


def test_the_number_that_stands_and_the_last_round_begin_no_part(tmp_path):
    done, told = trained({0: [2, 2], 2: [3]}, *SMALL, "--rounds", 3, "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told.begun == [(0, 2)]
    assert told.lines[:2] == [(True, "runs/train has 2 workers already")] * 2
    (last,) = told.lines[2:]
    assert last == (
        False,
        "runs/train goes on with 2 workers as before, not with 3: All 3 rounds are done.",
    )


def test_between_two_parts_the_record_has_no_last_line_and_watch_says_running(tmp_path):
    ends = []

    class Looks(Plan):
        def end(self, reason):
            super().end(reason)
            ends.append((self.last.get("k"), command("watch", cwd=tmp_path).stdout))

    from subnetwork.cli import train

    before = train.loggers
    train.loggers = lambda _: [Looks({1: [3]})]
    try:
        assert command("train", *SMALL, "--rounds", 3, "--here", cwd=tmp_path).returncode == 0
    finally:
        train.loggers = before
    (k, said), (_, after) = ends
    assert k == 1
    assert "running" in said
    assert "round 2: scaled (from 2 to 3 workers)" in after
    assert re.search(r"^2 +\d", after, re.MULTILINE)  # the third worker has a line


def test_a_logger_that_failed_is_not_begun_again(tmp_path, monkeypatch):
    from subnetwork.cli import train

    class Fails(Plan):
        def row(self, row):
            raise RuntimeError(f"no space for round {row['k']}")

    fails, asks = Fails({}), Plan({1: [3]})
    monkeypatch.setattr(train, "loggers", lambda _: [fails, asks])
    done = command("train", *SMALL, "--rounds", 3, "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (fails.begun, asks.begun) == ([(0, 2)], [(0, 2), (2, 3)])
    assert done.stderr.count("failed in row") == 1


def test_a_request_that_a_killed_run_left_is_not_heard(tmp_path):
    flags = [*SMALL, "--rounds", 3, "--here"]
    assert trained({0: ["stop"]}, *flags, cwd=tmp_path)[0].returncode == 130
    folder = tmp_path / "runs/train.unfinished"
    assert not (folder / "scale").exists()
    for place in ("scale", ".scale.gone"):
        (folder / place).mkdir()
        ask(folder / place, 3)
    done, told = trained({}, "--resume", "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [n for n, _ in told.seen] == [2, 2]
    assert not [path for path in (tmp_path / "runs/train").iterdir() if "scale" in path.name]


def test_under_torchrun_it_is_refused(tmp_path, monkeypatch):
    from subnetwork.cli import parts, train

    @contextmanager
    def way(*_, **__):
        yield parts.Way(lambda _: nullcontext(None), torchrun=True)

    monkeypatch.setattr(train, "_way", way)
    done, told = trained({0: [3]}, *SMALL, "--rounds", 2, "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [n for n, _ in told.seen] == [2, 2]
    ((well, line),) = told.lines
    assert not well
    assert line.endswith(
        "not with 3: torchrun started its processes, and a rank is a worker. End the run, and "
        "start 3 processes with --resume."
    )


@pytest.mark.parametrize("what", ["disk", "workers", "data"])
def test_what_fails_on_the_way_leaves_the_run_as_it_was(what, tmp_path, monkeypatch):
    from subnetwork.algorithm import WorkerLostError
    from subnetwork.methods import rows
    from subnetwork.nets import checkpoint
    from subnetwork.runtime import Crew

    flags, full, more, load = [*SMALL, "--rounds", 3], checkpoint.save, Crew.at_least, rows.task

    def save(folder, k, *rest):
        if k == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return full(folder, k, *rest)

    def at_least(crew, n):
        if n == 3:
            raise WorkerLostError("worker 2 did not come up: no process could be started")
        more(crew, n)

    def task(run):
        if run.workers == 3:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "digits.csv")
        return load(run)

    patches = {
        "disk": (checkpoint, "save", save, "the disk is full, so that there is no checkpoint"),
        "workers": (Crew, "at_least", at_least, "worker 2 did not come up: no process"),
        "data": (rows, "task", task, "No such file or directory"),
    }
    owner, name, instead, why = patches[what]
    monkeypatch.setattr(owner, name, instead)
    done, told = trained({0: [3]}, *flags, *["--here"] * (what != "workers"), cwd=tmp_path)
    monkeypatch.undo()
    assert done.returncode == 0, done.stderr
    assert [n for n, _ in told.seen] == [2, 2, 2]
    ((well, line),) = told.lines
    assert not well
    assert f"not with 3: {why}" in line
    assert trained({}, *flags, "--here", "--out", "plain", cwd=tmp_path)[0].returncode == 0
    same(tmp_path / "runs/train", tmp_path / "plain")
    kinds = [fault["kind"] for fault in read(tmp_path / "runs/train")[2]]
    assert kinds == ["stale checkpoint"] * (what == "disk")


@pytest.mark.parametrize("at", ["fitting", "ready", "go_on", "begin"])
def test_an_interrupt_during_the_change_keeps_the_rounds(at, tmp_path, monkeypatch):
    """Whatever the run is then, it goes on as it."""
    from subnetwork.cli import parts
    from subnetwork.experiments.resume import Keeper

    def interrupted(*_):
        raise KeyboardInterrupt

    begin = Keeper.begin

    def begun(keeper, law):
        begin(keeper, law)
        if keeper.kept:
            raise KeyboardInterrupt

    where, name = {
        "fitting": (parts.Scaling, "_fitting"),
        "ready": (parts.Scaling, "leaves"),
        "go_on": (Keeper, "go_on"),
        "begin": (Keeper, "begin"),
    }[at]
    monkeypatch.setattr(where, name, begun if at == "begin" else interrupted)
    flags = [*SMALL, "--rounds", 4, "--here"]
    done, told = trained({1: [3]}, *flags, cwd=tmp_path)
    monkeypatch.undo()
    assert done.returncode == 130
    assert "interrupted; 2 rounds are kept; go on with: subnetwork train --resume" in done.stderr
    assert not told.lines
    assert not (tmp_path / "runs/train.unfinished/scale").exists()
    assert command("train", "--resume", "--here", cwd=tmp_path).returncode == 0
    plan = {1: [3]} if at == "begin" else {}
    assert trained(plan, *flags, "--out", "whole", cwd=tmp_path)[0].returncode == 0
    same(tmp_path / "runs/train", tmp_path / "whole")


def test_an_interrupt_after_the_last_word_of_ranks_ends_the_run(tmp_path, monkeypatch):
    """They are asked for interrupts once a round, and end with the part."""
    from subnetwork.cli import parts

    leaves = parts.Scaling.leaves

    def interrupted(scaling, kept):
        os.kill(os.getpid(), signal.SIGTERM)
        return leaves(scaling, kept)

    monkeypatch.setattr(parts.Scaling, "leaves", interrupted)
    flags = [*SMALL, "--rounds", 4, "--exchange", "direct"]
    done, _ = trained({0: [3]}, *flags, cwd=tmp_path)
    assert done.returncode == 130
    assert "interrupted; 2 rounds are kept; go on with: subnetwork train --resume" in done.stderr
    assert not processes()


def test_the_command_asks_a_run_in_another_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "subnetwork", "train", *SMALL, "--rounds", "100000"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    record = tmp_path / "runs/train.unfinished/ist.jsonl"
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            with suppress(OSError):
                if record.read_text().count("\n") > 1:
                    break
            time.sleep(0.05)
        refused = command("scale", "--workers", 13, "--wait", 300, cwd=tmp_path)
        assert refused.returncode == 2
        assert "runs/train goes on with 2 workers as before, not with 13" in refused.stderr
        assert refused.stderr.count("\n") == 1
        done = command("scale", "--workers", 3, "--wait", 300, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (k,) = re.findall(r"goes on with 3 workers instead of 2 after round (\d+) of", done.stdout)
        while time.monotonic() < until:
            if f'"k": {int(k) + 1},' in record.read_text():
                break
            time.sleep(0.05)
        os.kill(process.pid, 2)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 130
    finally:
        process.kill()
        process.wait()
    (kept,) = re.findall(r"(\d+) rounds are kept", errors)
    flags = [*SMALL, "--rounds", 100000]
    resumed_in_parts(int(k), int(kept), flags, tmp_path)
    ends = [
        sorted((tmp_path / at / "checkpoints").glob("round-*"))[-1] / "shard-0-of-1.safetensors"
        for at in ("runs/train.unfinished", "parts.unfinished")
    ]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def resumed_in_parts(k, last, flags, cwd):
    """Interrupted before round k, gone on with three workers, interrupted before round `last`."""
    here = ["--here", "--out", "parts"]
    assert trained({k - 1: ["stop"]}, *flags, *here, cwd=cwd)[0].returncode == 130
    more = ["--resume", *here, "--workers", 3]
    assert trained({last - 1: ["stop"]}, *more, cwd=cwd)[0].returncode == 130


@contextmanager
def held(tmp_path):
    """A run's folder as a process holds it that writes a run, and its place for requests."""
    folder = tmp_path / "runs/train.unfinished"
    folder.mkdir(parents=True)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with hearing(folder) as place:
            yield folder, place, lock
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def test_the_command_takes_its_request_back_where_no_round_ends(tmp_path, monkeypatch):
    from subnetwork.cli import scale

    with held(tmp_path) as (_, place, _):
        late = command("scale", "--workers", 3, "--wait", 0.01, cwd=tmp_path)
        assert late.returncode == 3
        assert "No round of the run in runs/train ended in 0.01 s; the request is" in late.stderr
        assert not list(place.iterdir())

        def interrupted(_):
            raise KeyboardInterrupt

        monkeypatch.setattr(scale.time, "sleep", interrupted)
        ended = command("scale", "--workers", 3, cwd=tmp_path)
        assert ended.returncode == 130
        assert "interrupted; the request is taken back" in ended.stderr
        assert not list(place.iterdir())


def served(place, then):
    """A thread that takes a request, and what it does with it."""

    def serve():
        until = time.monotonic() + 60
        while (found := taken(place)) is None and time.monotonic() < until:
            time.sleep(0.005)
        then(found)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_what_is_taken_is_waited_for_and_an_end_of_the_run_is_said(tmp_path, monkeypatch):
    from subnetwork.cli import scale

    with held(tmp_path) as (_, place, lock):

        def late(request):
            time.sleep(0.2)  # longer than it is waited for
            answer(request, done=True, line="goes on with 3 workers")

        serving = served(place, late)
        done = command("scale", "--workers", 3, "--wait", 0.1, cwd=tmp_path)
        serving.join()
        if "taken back" not in done.stderr:  # a busy machine
            assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "goes on with 3 workers")
        monkeypatch.setattr(scale, "CHANGE", 0.0)
        serving = served(place, lambda _: None)
        silent = command("scale", "--workers", 3, "--wait", 1, cwd=tmp_path)
        serving.join()
        assert "took the request, but has not answered" in silent.stderr or "back" in silent.stderr
        serving = served(place, lambda _: fcntl.flock(lock, fcntl.LOCK_UN))
        gone = command("scale", "--workers", 3, cwd=tmp_path)
        serving.join()
        assert gone.returncode == 3
        assert "The run in runs/train ended before it answered" in gone.stderr


def test_what_is_no_running_run_is_refused(tmp_path):
    def refused(*flags):
        found = command("scale", *flags, cwd=tmp_path)
        assert found.returncode == 2
        assert found.stderr.count("\n") == 1
        return found.stderr

    assert "there is no run in runs/train" in refused("--workers", 3)
    assert "from 1 to 1024, not 0" in refused("--workers", 0)
    assert "from 1 to 1024, not 2000" in refused("--workers", 2000)
    assert "seconds, not -1.0" in refused("--workers", 3, "--wait", -1)
    flags = [*SMALL, "--rounds", 2, "--here"]
    trained({0: ["stop"]}, *flags, cwd=tmp_path)
    stopped = refused("--workers", 3)
    assert (
        "nobody runs it. Go on with it by: subnetwork train --resume --workers 3 --out" in stopped
    )
    assert command("train", "--resume", "--here", cwd=tmp_path).returncode == 0
    complete = refused("--workers", 3)
    assert "it is complete. Go on with it by: subnetwork train --resume --workers 3 --rounds N" in (
        complete
    )
    with held(tmp_path) as (_, place, _):
        place.rmdir()
        assert "takes no requests: it is about to begin or to end" in refused("--workers", 3)


def test_requests_are_this_user_s_alone_and_what_is_none_is_removed(tmp_path):
    with hearing(tmp_path) as place:
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        first, second = ask(place, 3), ask(place, 4)
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
        for number, text in enumerate(("", "[" * 10**6, '{"workers": true}', '{"workers": "3"}')):
            (place / f"0{number}.ask").write_text(text)
        (place / "0.ask").mkdir()
        assert (taken(place).workers, taken(place).workers, taken(place)) == (3, 4, None)
        assert not requests.taken_back(second)  # it was taken
        assert not list(place.glob("*.ask"))
        answer(requests.Request(first.path.with_suffix(".taken"), 3), done=False, line="é")
        assert answer_to(first) == requests.Answer(False, "é")
        assert answer_to(first) is None
    assert not list(tmp_path.iterdir())
