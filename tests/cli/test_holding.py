"""A run's folder has one writer, also while it begins, and an earlier run stays until the end."""

import fcntl
import os
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from in_process import command

from subnetwork.cli import folder as folders
from subnetwork.cli.folder import holding, is_written, resumable, staged, unfinished
from subnetwork.cli.requests import PLACE
from subnetwork.record import writing

SMALL = ["--hidden", "12", "--batch-size", "8", "--workers", "2", "--here"]


def train(*arguments, cwd):
    return command("train", *arguments, cwd=cwd)


def test_a_run_that_another_process_holds_is_not_even_read(tmp_path):
    """What was read would be of before the other's last checkpoint."""
    assert train(*SMALL, "--rounds", 1, cwd=tmp_path).returncode == 0
    with holding(tmp_path / "runs/train"):
        for flags in (["--resume", "--rounds", 2, "--here"], [*SMALL, "--rounds", 1]):
            refused = train(*flags, cwd=tmp_path)
            assert refused.returncode == 2
            assert "train.unfinished is being written by another process" in refused.stderr
            assert "goes on after" not in refused.stdout
    assert train("--resume", "--rounds", 2, "--here", cwd=tmp_path).returncode == 0


def test_the_checkpoint_to_go_on_from_is_read_in_a_folder_that_is_held(tmp_path, monkeypatch):
    from subnetwork.experiments import resume

    assert train(*SMALL, "--rounds", 1, cwd=tmp_path).returncode == 0
    (tmp_path / "runs/train").rename(tmp_path / "runs/train.unfinished")
    read, seen = resume.saved, []

    def saved(folder):
        seen.append(is_written(tmp_path / "runs/train.unfinished"))
        return read(folder)

    monkeypatch.setattr(resume, "saved", saved)
    assert train("--resume", "--rounds", 2, "--here", cwd=tmp_path).returncode == 0
    assert seen == [True]


def test_what_is_refused_leaves_no_folder(tmp_path):
    for flags in (["--resume"], ["--model", "lstm"], ["--out", "a/b", "--host", "10.0.0.1"]):
        assert train(*SMALL, *flags, cwd=tmp_path).returncode == 2
        assert not list(tmp_path.iterdir())
    (tmp_path / "runs/train.unfinished").mkdir(parents=True)  # as a start that was killed leaves it
    assert train(*SMALL, "--model", "lstm", cwd=tmp_path).returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("another", [False, True], ids=["and nobody came", "and another one began"])
def test_a_folder_that_moved_before_it_was_locked_is_not_held(another, tmp_path, monkeypatch):
    """It is a complete run by then; another process may write in a new one of its name."""
    lock, calls = fcntl.flock, []
    place, out = tmp_path / "run.unfinished", tmp_path / "run"
    with ExitStack() as stack:

        def flock(descriptor, how):
            if not calls:
                place.rename(out)
                (out / "ist.jsonl").touch()
                if another:
                    place.mkdir()
                    other = os.open(place, os.O_RDONLY)
                    stack.callback(os.close, other)
                    lock(other, fcntl.LOCK_EX)
            calls.append(how)
            return lock(descriptor, how)

        monkeypatch.setattr(folders.fcntl, "flock", flock)
        if another:
            with pytest.raises(ValueError, match="being written by another process"):
                stack.enter_context(holding(out))
        else:
            held = stack.enter_context(holding(out))
            assert held.there()
        assert len(calls) == 2
        monkeypatch.undo()
        assert is_written(place)
        assert not is_written(out)
    assert (out / "ist.jsonl").exists()


def test_what_another_process_writes_by_then_is_not_removed(tmp_path):
    """The run is complete; what fails comes after."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), holding(out) as held:
        with resumable(held, resume=False, restart=False) as folder:
            folder.rename(out)
            folder.mkdir()
            (folder / "ist.jsonl").touch()
            raise KeyboardInterrupt
    assert (folder / "ist.jsonl").exists()


@contextmanager
def into_a_new_folder(out):
    with staged(out) as folder:
        yield folder


@contextmanager
def into_one_that_can_go_on(out):
    with holding(out) as held, resumable(held, resume=False, restart=False) as folder:
        yield folder


@pytest.mark.parametrize("reason", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("done", [0, 1], ids=["before the first renaming", "between the two"])
@pytest.mark.parametrize("written", [into_a_new_folder, into_one_that_can_go_on])
def test_an_earlier_run_stays_where_the_new_one_does_not_take_its_place(
    written, done, reason, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    for text in ("old", "older"):
        with written(out) as folder:
            (folder / "ist.jsonl").write_text(text)
        assert (out / "ist.jsonl").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["run"]
    rename, renamed = Path.rename, []

    def interrupted(path, target):
        if len(renamed) == done:
            renamed.append(path)
            raise reason
        renamed.append(path)
        return rename(path, target)

    with pytest.raises(reason), written(out) as folder:
        (folder / "ist.jsonl").write_text("new")
        monkeypatch.setattr(Path, "rename", interrupted)
    assert (out / "ist.jsonl").read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_interrupt_right_after_the_earlier_run_was_moved_moves_it_back(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with staged(out) as folder:
        (folder / "ist.jsonl").write_text("old")
    rename = Path.rename

    def interrupted(path, target):
        rename(path, target)
        monkeypatch.undo()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), staged(out):
        monkeypatch.setattr(Path, "rename", interrupted)
    assert (out / "ist.jsonl").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_watch_says_that_a_run_is_starting(tmp_path):
    with holding(tmp_path / "run"):
        result = command("watch", "run", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == "The run in run is starting; ask again in a moment.\n"
    (tmp_path / "run.unfinished").mkdir()
    assert "holds no record yet" in command("watch", "run", cwd=tmp_path).stderr


def test_watch_on_a_terminal_waits_for_a_run_that_is_starting(tmp_path, monkeypatch):
    """Its record comes while it sleeps, and it ends while it sleeps again."""
    module, run, seen = sys.modules["subnetwork.cli.watch"], ExitStack(), []

    def sleep(seconds):
        assert seconds >= module.EVERY
        seen.append(seconds)
        if len(seen) == 2:
            path = folder / "ist.jsonl"
            run.enter_context(writing(path, kind="train", name="ist", config={"workers": 2}))
        elif len(seen) == 3:
            run.close()

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    output = module.Output
    monkeypatch.setattr(module, "Output", lambda: output(force_terminal=True, width=120))
    with run:
        held = run.enter_context(holding(tmp_path / "run"))
        folder = run.enter_context(resumable(held, resume=False, restart=False))
        status, out, err = vars(command("watch", "run", cwd=tmp_path)).values()
    assert (status, err, len(seen)) == (0, "", 3)
    at = [out.index(word) for word in ("starting", "running", "complete")]
    assert at == sorted(at)


def test_what_a_killed_run_left_while_it_began_is_no_stranger_s(tmp_path):
    """Its question to other ranks, and a place where nobody answers requests any more."""
    folder = unfinished(tmp_path / "run")
    (folder / PLACE).mkdir(parents=True)
    (folder / ".seen-1a2b3c4d").touch()
    with holding(tmp_path / "run") as held:
        assert held.folder.resolve() == folder.resolve()
        assert [path.name for path in folder.iterdir()] == [".seen-1a2b3c4d"]
