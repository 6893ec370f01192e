"""Processes that are measured beside each other: they do what they are told, and none is left."""

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from subnetwork import decompose
from subnetwork.algorithm import WorkerLostError
from subnetwork.nets import SGD
from subnetwork.nursery import FORKS
from subnetwork.runtime import calibration
from subnetwork.runtime import neighbours as others
from subnetwork.runtime import reducing as measuring
from subnetwork.runtime.calibration import calibrate
from subnetwork.runtime.neighbours import ended_well, forked, neighbours
from subnetwork.runtime.reducing import data_parallel, reducing

pytestmark = pytest.mark.skipif(not FORKS, reason="processes are forked on Linux only")


def until(true, seconds=20):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def alive(pid):
    """Whether a process is there, and no mere entry of one that ended."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_neighbours_do_what_they_are_told_until_they_are_ended(tmp_path):
    def marks(name):
        return lambda: (tmp_path / f"{name}.{os.getpid()}").touch()  # noqa: PLW0108 - of the child

    def seen(name):
        return {path.suffix for path in tmp_path.glob(f"{name}.*")}

    with neighbours(2, {name: marks(name) for name in "abc"}) as tell:
        time.sleep(0.05)
        assert not list(tmp_path.iterdir())
        tell("b")
        until(lambda: len(seen("b")) == 2)
        tell("c")
        until(lambda: len(seen("c")) == 2)
        assert not seen("a")
        pids = [int(suffix[1:]) for suffix in seen("c")]
        tell(None)
    assert os.getpid() not in pids
    assert not any(map(alive, pids))


def test_processes_tell_how_they_ended():
    def odd(i):
        if i % 2:
            raise ValueError

    for n, well in ((1, True), (2, False)):
        with forked(n, odd) as pids:
            started = list(pids)
            assert ended_well(pids, 20) is well
            assert not pids
        assert not any(map(alive, started))
    with forked(1, lambda _: time.sleep(60)) as pids:
        assert not ended_well(pids, 0.05)
        assert len(pids) == 1
    assert not any(map(alive, pids))


def test_no_process_outlives_the_one_that_measures():
    script = (
        "import time; from subnetwork.runtime.neighbours import forked\n"
        "with forked(2, lambda _: time.sleep(600)) as pids:\n"
        "    print(*pids, flush=True)\n"
        "    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as measuring:
        pids = [int(pid) for pid in measuring.stdout.readline().split()]
        assert all(map(alive, pids))
        measuring.send_signal(signal.SIGKILL)
    until(lambda: not any(map(alive, pids)))


def test_where_there_are_no_such_processes_it_is_said(monkeypatch):
    monkeypatch.setattr(others, "FORKS", False)
    plan = decompose(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(2, 4))
    with pytest.raises(WorkerLostError, match="cannot be forked"):
        calibrate(plan, 2, budget=0.01, beside=1)
    pace = calibrate(plan, 2, budget=0.01)
    assert (pace.reducing, pace.message) == (0.0, 0.0)
    assert pace.buckets > 0


def open_here():
    """Descriptors and threads of this process; of Python alone where the system lists none."""
    lists = [Path("/proc/self/fd"), Path("/proc/self/task")]
    found = [len(list(of.iterdir())) for of in lists if of.is_dir()]
    return [*found, threading.active_count()]


def test_an_all_reduce_is_measured_and_leaves_nothing_behind():
    reducing(1 << 20, budget=0.0)  # torch starts what it keeps
    before = open_here()
    for n_bytes, n_ranks in ((1, 2), (1 << 20, 3), (1 << 40, 2)):  # the last by a buffer that fits
        found = reducing(n_bytes, n_ranks, budget=0.0)
        assert 1e-12 < found.a_byte < 1e-3
        assert 0 <= found.wall < 1e-3
        assert 1e-9 < found.message < 1
        assert found.more is None
    assert found.wall > 0  # of a large buffer, which takes longer than its waits
    assert not dist.is_initialized()
    assert open_here() == before


def test_the_wall_is_measured_beside_the_processor():
    """Who sleeps takes no processor."""

    class Alone:
        size = staticmethod(lambda: 1)
        allreduce = staticmethod(lambda _: SimpleNamespace(wait=lambda: None))

    busy, wall = measuring._span(lambda: time.sleep(0.02), Alone(), 0.1)
    assert busy < 0.01
    assert wall >= 0.02


def test_waits_and_shared_cores_are_no_matter_of_bytes():
    assert measuring.by_bytes(10.0, 1.0, 4, 8) == 4.0  # less six waits
    assert measuring.by_bytes(10.0, 1.0, 4, 2) == 2.0  # two ranks a core
    assert measuring.by_bytes(1.0, 1.0, 2, 2) == 0.0


def test_the_default_group_of_the_caller_stays_as_it_is():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        group = dist.group.WORLD
        assert reducing(1 << 20, budget=0.0).a_byte > 0
        assert dist.group.WORLD is group
        x = torch.ones(3)
        dist.all_reduce(x)
        assert x.tolist() == [1.0, 1.0, 1.0]
    finally:
        dist.destroy_process_group()


def test_a_step_of_ddp_trains_by_the_mean_gradient(tmp_path):
    """Ranks that see other rows end with one model: that of the step along the mean."""
    model, rows = nn.Linear(3, 1, bias=False), torch.arange(6.0).reshape(2, 3)
    model.weight.data.fill_(1.0)

    def parallel(group):
        mine, own = rows[group.rank() if group else 0], copy.deepcopy(model)
        step = data_parallel(own, group, SGD(0.1), lambda m: m(mine).sum())

        def once():
            step()
            if group:
                torch.save(own.weight.data, tmp_path / f"{group.rank()}.pt")

        return once

    assert reducing(1, 2, parallel, budget=0.0).more is not None
    steps = 2 + measuring.FEWEST
    for rank in range(2):
        weight = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(weight, 1 - 0.1 * steps * rows.mean(0))
    assert torch.equal(model.weight.data, torch.ones(1, 3))  # of this process


def test_a_model_that_ddp_does_not_train_costs_the_step_alone():
    def refused(_):
        raise ValueError

    found = reducing(1, 2, refused, budget=0.0)
    assert found.a_byte > 0
    assert found.more is None


def test_a_neighbour_that_is_gone_is_missed():
    def dies():
        raise MemoryError

    with (
        pytest.raises(WorkerLostError, match="not all of 2 processes"),
        neighbours(2, {"a": dies}) as tell,
    ):
        tell("a")


def test_the_first_that_fails_ends_the_waiting():
    def second_fails(i):
        if not i:
            time.sleep(60)
        raise ValueError

    began = time.monotonic()
    with forked(2, second_fails) as pids:
        assert not ended_well(pids, 50)
    assert time.monotonic() - began < 30


def test_who_ignores_the_end_of_processes_has_them_all_ended():
    """As some that start others do; processes inherit it."""
    script = (
        "import signal, time; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from subnetwork.runtime.neighbours import ended_well, forked\n"
        "with forked(2, lambda i: None) as pids: assert ended_well(pids, 20)\n"
        "with forked(2, lambda _: time.sleep(600)) as pids: print(*pids)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert not found.stderr
    until(lambda: not any(alive(pid) for pid in found.stdout.split()))


def test_batches_of_ones_own_are_what_steps_read():
    """Their time is told apart from that of steps, and they may be several arguments."""
    plan = decompose(
        nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2)), torch.ones(8, 64)
    )
    asked = []

    class Slow:
        seed = 0

        def batch(self, worker, step):
            asked.append((worker, step >= 0))
            until = time.thread_time() + 0.004
            while time.thread_time() < until:
                pass
            return (torch.ones(8, 64),), torch.zeros(8)

    quick, slow = calibrate(plan, 2, budget=0.2), calibrate(plan, 2, budget=0.2, batches=Slow())
    assert quick.batch < 0.004 <= slow.batch < 0.02
    assert set(asked) == {(0, True)}
    assert slow.step_whole < 0.004


def test_steps_are_measured_beside_others(monkeypatch):
    plan = decompose(
        nn.Sequential(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 8)), torch.ones(64, 64)
    )
    told = []

    @contextmanager
    def seen(n, work):
        with neighbours(n, work) as tell:
            yield lambda name: told.append((n, name)) or tell(name)

    monkeypatch.setattr(calibration, "neighbours", seen)
    before = open_here()
    pace = calibrate(plan, 2, budget=0.2, beside=2)
    assert {(2, f"{what} {k}") for what in ("whole", "part") for k in (1, 5)} <= set(told)
    assert (2, None) in told, "of the coordinator's handling"
    assert (2, "handling") not in told
    assert pace.ddp
    assert min(pace.step_whole, pace.step_part, pace.reducing, pace.message) > 0
    assert open_here() == before
