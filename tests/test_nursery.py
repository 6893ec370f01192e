"""Processes from a nursery: their ends are known, and none is left behind."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from subnetwork.nursery import Child, Nursery, _Births, nursery
from worker_processes import all_gone, descendants

CHILD = """
import os, signal, sys, time

def main(arguments):
    what, *rest = arguments
    print("it was to", what, flush=True)
    if what == "return":
        return int(rest[0])
    if what == "words":
        return "no such data"
    if what == "raise":
        raise MemoryError("out of memory")
    if what == "exit":
        sys.exit(4)
    if what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "modules":
        print("heavy" in sys.modules, os.environ["OMP_NUM_THREADS"], flush=True)
        return 0
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path, monkeypatch):
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "heavy.py").write_text("print('imported')")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.fixture(params=[True, False], ids=["forked", "spawned"])
def births(request):
    with nursery("heavy", forks=request.param) as made:
        yield made


def born(births, tmp_path, *words):
    return births.start("worker 3", "child", list(words), tmp_path / f"{words[0]}.log")


@pytest.mark.parametrize(
    ("words", "status", "last"),
    [
        (["return", "0"], 0, "it was to return"),
        (["return", "7"], 7, "it was to return"),
        (["words"], 1, "no such data"),
        (["raise"], 1, "MemoryError: out of memory"),
        (["exit"], 4, "it was to exit"),
        (["die"], -signal.SIGSEGV, ""),
    ],
)
def test_how_a_process_ended_is_known_with_its_last_words(births, tmp_path, words, status, last):
    child = born(births, tmp_path, *words)
    assert child.wait(60)
    assert (child.poll(), child.ended()[1]) == (status, last)
    how = "was ended by SIGSEGV" if status < 0 else f"left with status {status}"
    assert child.ended()[0] == f"process {child.pid} {how}"
    again = born(births, tmp_path, "return", "5")  # and the nursery lives
    assert again.wait(60)
    assert again.returncode == 5


def test_what_was_imported_once_is_there_in_every_forked_process(tmp_path):
    for forks in (True, False):
        with nursery("heavy", forks=forks) as births:
            child = born(births, tmp_path, "modules")
            assert child.wait(60)
            assert child.ended()[1] == f"{forks} 1"


@pytest.mark.parametrize("what", ["sleep", "stop"])
def test_a_process_is_killed_frozen_or_not_and_only_that_one(births, tmp_path, what):
    child, other = born(births, tmp_path, what), born(births, tmp_path, "sleep")
    while other.pid is None:
        births.look(1.0)
    child.kill()
    assert child.returncode == -signal.SIGKILL
    assert child.ended() == (f"process {child.pid} was ended by SIGKILL", "")
    assert other.poll() is None
    child.kill()  # which is nothing
    assert not other.wait(0.05)
    other.kill()
    assert all_gone([child.pid, other.pid], 5)


def test_processes_are_called_by_their_names(births, tmp_path):
    child = born(births, tmp_path, "sleep")
    until = time.monotonic() + 30
    while not (tmp_path / "sleep.log").exists() or not (tmp_path / "sleep.log").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    while child.pid is None:  # the child may be at work before the nursery's word of it is read
        births.look(1.0)
    named = descendants()
    assert child.poll() is None
    if births._forks:
        assert named["worker 3"] == [child.pid]


@pytest.mark.parametrize("how", ["left", "killed"])
def test_no_process_outlives_the_nursery(births, tmp_path, how):
    children = [born(births, tmp_path, "sleep") for _ in range(3)]
    for child in children:
        while child.pid is None:
            births.look(1.0)
    births.close() if how == "left" else births._process.kill()
    assert all(child.wait(30) for child in children)
    if births._forks or how == "left":
        assert {child.returncode for child in children} == {-signal.SIGKILL}
    if births._forks:  # what is spawned ends with its parent where its `main` sees to it
        assert all_gone([child.pid for child in children], 10)
    for child in children:
        child.kill()
    again = born(births, tmp_path, "return", "5")  # of a new nursery
    assert again.wait(60)
    assert again.returncode == 5


def test_none_outlives_the_owner(tmp_path):
    code = f"""
import time
from pathlib import Path
from subnetwork.nursery import Nursery
births = Nursery([])
child = births.start("worker 0", "child", ["sleep"], Path({str(tmp_path)!r}) / "log")
while child.pid is None:
    births.look(1.0)
print(child.pid, births._process.pid, flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = list(map(int, owner.stdout.readline().split()))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert all_gone(pids, 10)


def test_a_module_that_cannot_be_imported_is_named(tmp_path):
    for made in (Nursery(["broken"]), Nursery([])):
        child = made.start("worker 0", "broken", [], tmp_path / "log")
        assert child.wait(60)
        assert child.returncode == 1
        assert child.ended()[1] == "ModuleNotFoundError: No module named 'nothing_of_this_name'"
        made.close()


def test_where_no_process_can_be_made_that_is_said(monkeypatch, tmp_path):
    def refuses():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    near, far = os.pipe()
    monkeypatch.setattr(os, "fork", refuses)
    request = {"start": 7, "name": "", "module": "", "arguments": [], "log": str(tmp_path / "log")}
    _Births(True, -1, far, -1, -1).bear(request)
    said = {"number": 7, "status": 1, "refused": "Resource temporarily unavailable"}
    assert json.loads(os.read(near, 1000)) == said
    made = Nursery([])
    made.close()
    child = Child(made, 7, tmp_path / "log")
    made._children[7] = child
    made._hear(said)
    assert child.ended() == ("no process could be started", "Resource temporarily unavailable")
    os.close(near)
    os.close(far)


def test_a_nursery_that_is_frozen_is_ended_with_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr("subnetwork.nursery.GRACE", 0.2)
    with nursery() as births:
        child = born(births, tmp_path, "sleep")
        while child.pid is None:
            births.look(1.0)
        os.kill(births._process.pid, signal.SIGSTOP)
        child.kill()
        assert child.returncode == -signal.SIGKILL
        assert all_gone([child.pid], 5)


def test_a_nursery_that_dies_unseen_is_buried_before_the_next_one(tmp_path, monkeypatch):
    with nursery() as births:
        child = born(births, tmp_path, "sleep")
        while child.pid is None:
            births.look(1.0)
        births._process.kill()
        births._process.wait()
        monkeypatch.setattr(births, "look", lambda _=0.0: None)  # it dies just after a look
        other = births.start("worker 1", "child", ["return", "5"], tmp_path / "other")
        monkeypatch.undo()
        assert child.returncode == -signal.SIGKILL
        assert other.wait(60)
        assert other.returncode == 5


def test_a_process_that_a_module_has_started_ends_nobody(tmp_path):
    (tmp_path / "starts.py").write_text("import subprocess; subprocess.Popen(['true'])")
    with nursery("starts") as births:
        child = born(births, tmp_path, "return", "5")
        assert child.wait(60)
        assert child.returncode == 5


def test_to_kill_while_the_nursery_imports_waits_for_nobody(tmp_path):
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    with nursery("slow") as births:
        child = born(births, tmp_path, "sleep")
        began = time.monotonic()
        child.kill()
        assert time.monotonic() - began < 3
        assert child.returncode == -signal.SIGKILL


def test_what_is_killed_before_it_is_born_is_killed_alone(tmp_path):
    (tmp_path / "slow.py").write_text("import time; time.sleep(1)")
    with nursery("slow") as births:
        child, other = born(births, tmp_path, "sleep"), born(births, tmp_path, "return", "5")
        child.kill()
        assert other.wait(60)
        assert other.returncode == 5
        time.sleep(0.1)
        assert "worker 3" not in descendants()


def test_what_is_sent_to_all_is_let_pass_but_not_by_programs_that_are_run(tmp_path):
    (tmp_path / "runs.py").write_text(
        "import os, signal, subprocess\n"
        "def main(_):\n"
        "    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):\n"
        "        os.kill(os.getpid(), number)\n"
        "        run = subprocess.Popen(['sleep', '60'])\n"
        "        run.send_signal(number)\n"
        "        assert run.wait() == -number\n"
        "    return 5\n"
    )
    with nursery() as births:
        child = births.start("worker 0", "runs", [], tmp_path / "log")
        assert child.wait(30)
        assert child.returncode == 5, child.ended()


def test_the_command_starts_its_nursery_for_the_modules_that_it_uses():
    """It names them before torch is imported, and so before they are."""
    from subnetwork.cli import train
    from subnetwork.experiments import rank
    from subnetwork.methods import worker

    assert (train.WORKERS, train.RANKS) == (worker.MODULE, rank.MODULE)
