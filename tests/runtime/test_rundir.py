"""The folder of a run's processes: private, gone with the run, and swept up after a kill."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time

import pytest

from subnetwork.runtime import rundir
from subnetwork.runtime.rundir import private_folder

LIFE = """
import os, signal, sys, tempfile
tempfile.tempdir = sys.argv[1]
from subnetwork.runtime import rundir

with rundir.private_folder() as folder:
    (folder / "secret").touch()
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif sys.argv[2] == "lives":
        print("up", flush=True)
        sys.stdin.read()
    else:
        remove = os.rmdir

        def interrupted(*_, **__):
            os.rmdir = remove
            raise KeyboardInterrupt

        os.rmdir = interrupted
"""


@pytest.fixture(autouse=True)
def top(tmp_path, monkeypatch):
    """Other runs of this machine have nothing to do with it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def life(top, how, **more):
    return subprocess.Popen([sys.executable, "-c", LIFE, str(top), how], text=True, **more)


def test_it_is_this_users_alone_and_gone_when_the_block_is_left(top):
    with private_folder() as folder:
        assert folder.parent == top
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "secret").touch()
    assert list(top.iterdir()) == []


def interrupted(_):
    raise KeyboardInterrupt


def test_an_interrupt_of_what_is_cleaned_up_first_leaves_no_folder(top):
    with pytest.raises(KeyboardInterrupt):
        with private_folder() as folder:
            try:
                (folder / "secret").touch()
            finally:
                interrupted(folder)
    assert list(top.iterdir()) == []


def test_who_is_interrupted_while_it_is_removed_removes_it_at_the_end(top):
    ended = life(top, "interrupted", stderr=subprocess.PIPE)
    _, said = ended.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert list(top.iterdir()) == []


def test_the_folder_of_a_killed_run_is_swept_up_and_that_of_a_living_one_is_not(top):
    killed = life(top, "killed")
    assert killed.wait(timeout=60) == -signal.SIGKILL
    (left,) = top.iterdir()
    assert (left / "secret").exists()
    living = life(top, "lives", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert living.stdout.readline() == "up\n"
    (there,) = top.iterdir()
    assert there != left, "it removed the other one, and not itself"
    with private_folder() as own:
        assert {there, own} == set(top.iterdir())
    assert (there / "secret").exists()
    living.communicate("", timeout=60)
    assert list(top.iterdir()) == []


def test_what_is_not_known_to_be_a_dead_runs_is_left_alone(top, monkeypatch):
    """Without a lock, with one of another host, or of another user; and what a link leads to."""
    name = rundir._lock_of(top).name
    for folder, lock in (("bare", None), ("new", "lock.new"), ("far", "lock.another-host")):
        (top / f"subnetwork-{folder}").mkdir()
        if lock is not None:
            (top / f"subnetwork-{folder}" / lock).touch()
    for folder in ("elsewhere", "other"):
        (top / folder).mkdir()
        (top / folder / name).touch()
    (top / "subnetwork-link").symlink_to(top / "elsewhere")
    long_ago = time.time() - 10**7
    os.utime(top / "subnetwork-bare", (long_ago, long_ago))
    before = set(top.rglob("*"))
    with private_folder():
        pass
    assert set(top.rglob("*")) == before
    (top / "other").rename(top / "subnetwork-other")
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with private_folder():
        pass
    assert (top / "subnetwork-other").exists()
    monkeypatch.setattr(os, "getuid", lambda: uid)
    with private_folder():
        pass
    assert not (top / "subnetwork-other").exists()


def test_where_no_lock_can_be_held_nothing_is_swept(top, monkeypatch):
    monkeypatch.setattr(rundir, "_hold", lambda _: False)
    with private_folder() as folder:
        assert [path.name for path in folder.iterdir()] == ["lock.new"]
        with private_folder():
            assert folder.exists()
    assert list(top.iterdir()) == []
