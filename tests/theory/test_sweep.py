"""Sweeps: whole units, nothing computed twice, the same numbers however they were reached."""

import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest

from subnetwork.experiments import store, sweep
from subnetwork.experiments.runs import marks
from subnetwork.experiments.sweep import read_sweep, run_sweep, run_unit
from subnetwork.record import read

FILE = """
problem = {{name = "trig", n_workers = 2, dim = 8}}
rounds = {rounds}
seeds = {seeds}
block = 2
[[method]]
name = "anchored"
step_size = {steps}
[[method]]
name = "averaged"
step_size = 0.3
after = 4
"""


def threads():
    return ThreadPoolExecutor(2)


def a_sweep(folder, *, rounds=30, seeds=4, steps="0.3"):
    path = folder / "sweep.toml"
    path.write_text(FILE.format(rounds=rounds, seeds=seeds, steps=steps))
    return read_sweep(path)


def contents(folder):
    """What the records say, without header."""
    return {p.name: read(p).rows for p in folder.glob("*.jsonl")}


@pytest.fixture
def counted(monkeypatch):
    """Every unit that is run, as (method, first seed)."""
    ran = []

    def run(unit, folder):
        ran.append((unit.method["name"], unit.first))
        return run_unit(unit, folder)

    monkeypatch.setattr(sweep, "run_unit", run)
    return ran


def test_a_second_run_computes_nothing_and_makes_no_executor(tmp_path, counted):
    wanted, units = a_sweep(tmp_path), tmp_path / "units"
    assert run_sweep(wanted, units, threads) == 2 * 4 * 30
    assert len(counted) == 4
    before = {p.name: p.read_bytes() for p in units.iterdir()}

    def never():
        raise AssertionError

    assert run_sweep(wanted, units, never) == 0
    assert len(counted) == 4
    assert {p.name: p.read_bytes() for p in units.iterdir()} == before


def test_more_seeds_add_units_and_more_methods_too(tmp_path, counted):
    units = tmp_path / "units"
    run_sweep(a_sweep(tmp_path), units, threads)
    first = contents(units)
    counted.clear()
    assert run_sweep(a_sweep(tmp_path, seeds=6), units, threads) == 2 * 2 * 30
    assert sorted(counted) == [("anchored", 4), ("averaged", 4)]
    counted.clear()
    run_sweep(a_sweep(tmp_path, seeds=6, steps="[0.3, 0.1]"), units, threads)
    assert counted == [("anchored", 0), ("anchored", 2), ("anchored", 4)] or len(counted) == 3
    assert {name: contents(units)[name] for name in first} == first


def test_more_rounds_continue_to_the_bit(tmp_path):
    at_once, in_steps = tmp_path / "at_once", tmp_path / "in_steps"
    run_sweep(a_sweep(tmp_path, rounds=60), at_once, threads)
    run_sweep(a_sweep(tmp_path, rounds=25), in_steps, threads)
    assert run_sweep(a_sweep(tmp_path, rounds=60), in_steps, threads) == 2 * 4 * 35
    assert contents(in_steps) == contents(at_once)
    assert [row["k"] for row in next(iter(contents(at_once).values()))] == marks(60)
    for one in at_once.glob("*.npz"):
        with np.load(one) as a, np.load(in_steps / one.name) as b:
            assert set(a) == set(b)
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
    assert run_sweep(a_sweep(tmp_path, rounds=25), in_steps, threads) == 0


def test_a_unit_without_states_begins_anew(tmp_path):
    units, whole = tmp_path / "units", tmp_path / "whole"
    run_sweep(a_sweep(tmp_path, rounds=10), units, threads)
    for states in units.glob("*.npz"):
        states.unlink()
    assert run_sweep(a_sweep(tmp_path, rounds=20), units, threads) == 2 * 4 * 20
    run_sweep(a_sweep(tmp_path, rounds=20), whole, threads)
    assert contents(units) == contents(whole)


def misplaced(path):
    """The archive's end says that its list of contents lies further on: places before its start."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\5\6") + 18] += 1  # 65,536 bytes
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b"no archive"),
        lambda path: path.write_bytes(b""),
        misplaced,
        lambda path: np.savez(path, other=np.zeros(3)),
        lambda path: np.savez(path, **{"0.": np.array([{}])}),
    ],
    ids=["cut short", "no archive", "empty", "misplaced", "of something else", "pickled"],
)
def test_damaged_states_are_named_and_no_unit_is_lost(damage, tmp_path):
    """Whole units, whose states nobody needs, are not read again."""
    units = tmp_path / "units"
    run_sweep(a_sweep(tmp_path, rounds=10), units, threads)
    before = contents(units)
    (victim, *_) = sorted(units.glob("*.npz"))
    damage(victim)
    assert run_sweep(a_sweep(tmp_path, rounds=10), units, threads) == 0
    with pytest.raises(ValueError, match=f"{victim.name} is damaged .* Delete it: the unit"):
        run_sweep(a_sweep(tmp_path, rounds=20), units, threads)
    name = f"{victim.stem.split('-')[0]}.jsonl"
    assert contents(units)[name] == before[name]
    victim.unlink()
    run_sweep(a_sweep(tmp_path, rounds=20), units, threads)
    run_sweep(a_sweep(tmp_path, rounds=20), tmp_path / "whole", threads)
    assert contents(units) == contents(tmp_path / "whole")


class Late(Executor):
    """Runs jobs in the reverse order, and all of them only when it is closed or asked."""

    def __init__(self):
        self.jobs = []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.jobs.insert(0, (future, fn, args, kwargs))
        if len(self.jobs) == 4:
            for waiting, job, given, named in self.jobs:
                waiting.set_result(job(*given, **named))
        return future


def test_the_order_in_which_units_end_changes_nothing(tmp_path):
    late, usual = tmp_path / "late", tmp_path / "usual"
    wanted = a_sweep(tmp_path)
    run_sweep(wanted, late, Late)
    run_sweep(wanted, usual, threads)
    assert contents(late) == contents(usual)


def test_a_unit_that_fails_leaves_the_whole_ones(tmp_path, monkeypatch):
    def run(unit, folder):
        if unit.method["name"] == "averaged":
            raise RuntimeError("broken")
        return run_unit(unit, folder)

    monkeypatch.setattr(sweep, "run_unit", run)
    units = tmp_path / "units"
    with pytest.raises(RuntimeError, match="broken"):
        run_sweep(a_sweep(tmp_path), units, lambda: ThreadPoolExecutor(1))
    monkeypatch.undo()
    left = contents(units)
    assert run_sweep(a_sweep(tmp_path), units, threads) == 30 * 2 * (4 - len(left))
    assert len(contents(units)) == 4


def test_a_write_that_breaks_off_leaves_the_old_unit(tmp_path, monkeypatch):
    units = tmp_path / "units"
    run_sweep(a_sweep(tmp_path, rounds=10), units, threads)
    before = contents(units)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "writing", full)
    with pytest.raises(OSError, match="No space"):
        run_sweep(a_sweep(tmp_path, rounds=20), units, threads)
    monkeypatch.undo()
    assert contents(units) == before
    assert not list(units.glob(".*"))
    assert run_sweep(a_sweep(tmp_path, rounds=20), units, threads) == 2 * 4 * 10


def test_an_interrupted_sweep_leaves_whole_units_and_goes_on(tmp_path):
    a_sweep(tmp_path, rounds=3000, seeds=40)
    command = [sys.executable, "-m", "subnetwork", "lab", "sweep", "sweep.toml", "--out", "units"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "rounds of a seed" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode == 130, errors
    assert errors == "subnetwork: interrupted; units holds whole units, run again to go on\n"
    done = contents(tmp_path / "units")
    assert 1 <= len(done) < 40
    assert all(rows[-1]["k"] == 3000 for rows in done.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("problem = 3 =", r"cannot read a sweep"),
        ("rounds = 3", r"it has no problem"),
        ('problem = "trig"\nround = 3\n[[method]]\nname = "gd"', r"unknown key 'round'"),
        ('problem = "trig"\nseeds = 5\nblock = 2\n[[method]]\nname = "gd"', r"Use seeds=6"),
    ],
)
def test_files_that_are_no_sweep_are_refused(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_sweep(tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('problem = "trig"\n[[method]]\nname = "sgd"', r"no method 'sgd'"),
        ('problem = "trig"\n[[method]]\nname = "gd"', r"needs a step_size"),
        ('problem = {name = "trig", n = 3}\n[[method]]\nname = "gd"', r"refuses an option"),
        ('problem = "iris"\n[[method]]\nname = "gd"', r"no problem 'iris'"),
    ],
)
def test_what_would_fail_later_is_refused_before_anything_is_made(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        run_sweep(read_sweep(tmp_path / "s.toml"), tmp_path / "units", threads)
    assert not (tmp_path / "units").exists()
