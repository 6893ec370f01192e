"""Who asks a running run for other workers: the command, its requests, and what answers them."""

import fcntl
import os
import re
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

from in_process import command
from scaled_runs import SMALL, read, trained

from subnetwork.cli import requests
from subnetwork.cli.requests import answer, answer_to, ask, hearing, taken


def test_two_that_ask_at_once_are_served_one_after_the_other(tmp_path):
    done, told = trained({0: [3, 4]}, *SMALL, "--rounds", 4, "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [n for n, _ in told.seen] == [2, 3, 4, 4]
    assert [line.split(" after ")[1] for _, line in told.lines] == ["round 1 of 4", "round 2 of 4"]
    header, _, faults = read(tmp_path / "runs/train")
    assert [(f["k"], f["from"], f["to"]) for f in faults] == [(1, 2, 3), (2, 3, 4)]
    assert [each["k"] for each in header["resumed"]] == [1, 2]


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


def test_what_is_no_regular_file_is_not_read(tmp_path):
    """A pipe that nobody writes to would hold the run up for good."""
    with hearing(tmp_path) as place:
        os.mkfifo(place / "0.ask")
        (tmp_path / "elsewhere").write_text('{"workers": 5}')
        (place / "0-1.ask").symlink_to(tmp_path / "elsewhere")
        with (place / "0-2.ask").open("wb") as huge:
            huge.truncate(1 << 40)
        ask(place, 3)
        found = []
        reading = threading.Thread(target=lambda: found.append(taken(place)), daemon=True)
        reading.start()
        reading.join(20)
        assert [one.workers for one in found] == [3]
        assert [path.suffix for path in place.iterdir()] == [".taken"]
    assert (tmp_path / "elsewhere").read_text() == '{"workers": 5}'
