"""Real worker processes: the one-process path to the bit, faults, and what is left behind."""

import os
import re
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import small_sets
from seats_in_threads import Threads
from subnetwork.algorithm import WorkerLostError, rounds
from subnetwork.methods import Training
from subnetwork.methods.rows import METHODS, method, task
from subnetwork.methods.worker import MODULE, build
from subnetwork.runtime import crew, dropped, dropping, here, launched, seated, serve
from subnetwork.runtime.handshake import connect
from subnetwork.runtime.seats import Remote
from worker_processes import alive, children, descendants

RUN = Training(hidden=(12, 9), workers=4, rounds=3, local_steps=2, batch_size=8, momentum=0.5)


@pytest.fixture(scope="module")
def seats():
    with launched(RUN.workers, MODULE) as started:
        yield started


def of_method(name, **changes):
    return replace(RUN, method=name, **changes)


def run_all(row, work):
    return list(rounds(row.x, row.sketch, work, row.merge, seed=row.seed, n_rounds=row.n_rounds))


OF_OTHER_NETWORKS = {"narrow", "masked_relu", "gist", "resist"}  # or of one worker


@pytest.mark.parametrize("name", sorted(METHODS.keys() - OF_OTHER_NETWORKS))
def test_four_processes_equal_one_process_bit_for_bit(seats, name):
    """One worker set serves all methods, and every round's model is the reference's."""
    torch.set_num_threads(1)
    run = of_method(name)
    row = method(task(run))
    same_rounds(run, row, seats)


def same_rounds(run, row, seats):
    """Every round at these seats is that of one process: the model, and what workers said of it."""
    for ready in [seat.assign(run.to_json(), row.local) for seat in seats]:
        ready()
    apart, together = run_all(row, seated(seats)), run_all(row, here(row.local))
    for one, other in zip(apart, together, strict=True):
        for parameter, value in other.x.params.items():
            assert torch.equal(one.x.params[parameter], value), (other.k, parameter)
        for moment, tensors in other.x.moments.items():
            for parameter, value in tensors.items():
                assert torch.equal(one.x.moments[moment][parameter], value)
        assert [z.loss for z in one.trained] == [z.loss for z in other.trained]


OTHER_NETWORKS = {
    "masked_relu": {"method": "masked_relu", "model": "relu", "hidden": (12,)},
    "narrow": {"method": "narrow", "share": 3},
    "resnet": {"model": "resnet", "data": "cifar10", "width": 4, "blocks": 1},
    "gpt": {"model": "gpt", "data": "tinyshakespeare", "width": 8, "blocks": 1},
    "resist": {"method": "resist", "model": "gpt", "data": "tinyshakespeare", "blocks": 4},
}


@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_workers_behind_sockets_equal_one_process_with_other_networks(name, monkeypatch):
    small_sets.given(monkeypatch)
    torch.set_num_threads(1)
    n = 1 if name == "narrow" else 2
    changes = {"method": "ist", "workers": n, "width": 8, "batch_size": 4, **OTHER_NETWORKS[name]}
    run = replace(RUN, **changes)
    seats = [Remote(i, Threads(lambda link, i=i: serve(link, i, build))) for i in range(n)]
    same_rounds(run, method(task(run)), seats)
    for seat in seats:
        seat.leave()


def test_no_command_line_holds_the_secret_and_its_folder_is_this_users_alone(seats):
    pids = children()
    assert len(pids) == len(seats)
    folder = Path(f"/proc/{pids[0]}/fd/1").readlink().parent
    secret = (folder / "secret").read_bytes()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for pid in (os.getpid(), *descendants_of_this()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert secret not in words
        assert secret.hex().encode() not in words


def descendants_of_this():
    return [pid for pids in descendants().values() for pid in pids]


def test_an_exception_in_a_worker_names_the_worker_and_the_reason():
    run = of_method("ist")
    row = method(task(run))
    seat = Remote(0, Threads(lambda link: serve(link, 0, build)))  # what a process runs
    with pytest.raises(WorkerLostError, match="worker 0 failed in taking a job: .*nonsense"):
        seat.assign(run.to_json().replace("digits", "nonsense"), row.local)()
    seat.leave()


def test_a_worker_that_does_not_come_up_is_reported_with_its_last_words():
    with pytest.raises(WorkerLostError, match="worker 0 did not come up: .*No module named"):
        with launched(1, "subnetwork.no_such_module"):
            pass


SHY = """
import sys
from subnetwork.methods.worker import main as work

def main(arguments):
    return 7 if arguments[1] == "2" else work(arguments)
"""


def every_worker():
    """Process ids of all workers below this process, those of the fixture among them."""
    return [pid for name, pids in descendants().items() if name[:7] == "worker " for pid in pids]


def came_late(workers, worker):
    """The link of a worker that was sent away before it had come."""
    listener = workers._listener
    link = connect(listener.address, worker, listener._secret)
    until = time.monotonic() + 20
    while listener._arrived[worker].empty() and time.monotonic() < until:
        time.sleep(0.005)
    return link


def test_a_crew_grows_and_shrinks_and_where_a_worker_does_not_come_the_others_stay(
    tmp_path, monkeypatch
):
    (tmp_path / "shy.py").write_text(SHY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    before = set(every_worker())

    def own():
        return sorted(set(every_worker()) - before)

    with crew(1, "shy") as workers:
        (first,) = workers.seats
        workers.at_least(2)
        two, pids = workers.seats, own()
        assert two[0] is first
        with pytest.raises(WorkerLostError, match="worker 2 did not come up: .*status 7"):
            workers.at_least(4)
        assert workers.seats == two
        assert own() == pids
        run = of_method("ist", workers=2)
        row = method(task(run))
        for ready in [seat.assign(run.to_json(), row.local) for seat in two]:
            ready()
        apart, together = run_all(row, seated(two)), run_all(row, here(row.local))
        assert torch.equal(apart[-1].x.params["0.weight"], together[-1].x.params["0.weight"])
        two[1].dismiss(for_good=True)
        workers.at_least(2)
        assert workers.seats[0] is first
        assert workers.seats[1].present()
        (stays,) = set(own()) & set(pids)
        assert len(own()) == 2
        workers.at_most(1)
        assert workers.seats == (first,)
        assert own() == [stays]
        late = came_late(workers, 1)
        workers.at_least(2)
        assert len(own()) == 2
        assert late.socket.recv(1) == b""  # closed: it is none of those that are there
        late.close()
        for ready in [seat.assign(run.to_json(), row.local) for seat in workers.seats]:
            ready()
        assert not workers.seats[1].left()
    assert not own()


DYING = """
import os, sys
from pathlib import Path
from subnetwork.methods.worker import build
from subnetwork.runtime.launch import work_here

def dying(job):
    worker = sys.argv[2]
    try:
        Path(__file__).with_name(f"seen{worker}").touch(exist_ok=False)
    except FileExistsError:
        return build(job)
    if worker == "1":
        print("Traceback: the disk is gone", file=sys.stderr, flush=True)
        os._exit(7)
    return build(job)

def main(arguments):
    return work_here(Path(arguments[0]), int(arguments[1]), dying)
"""


def test_a_worker_that_dies_on_taking_its_job_is_reported_with_its_last_words(
    tmp_path, monkeypatch
):
    """Its name, exit status and last line stand in the faults; the run goes on without it."""
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    faults = []
    with launched(2, "dying") as started:
        run = of_method("ist", workers=2)
        row = method(task(run))
        for ready in [seat.assign(run.to_json(), row.local) for seat in started]:
            ready()
        apart = run_all(row, seated(started, report=faults.append))
    assert (faults[0].round, faults[0].worker, faults[0].kind) == (0, 1, "not ready")
    assert re.search(r"process \d+ left with status 7 \(Traceback: the disk", faults[0].reason)
    planned = run_all(row, dropping(here(row.local), dropped(faults)))
    assert torch.equal(apart[-1].x.params["0.weight"], planned[-1].x.params["0.weight"])


def test_workers_leave_when_the_coordinator_is_killed():
    script = (
        "import time\n"
        "from subnetwork.methods.worker import MODULE\n"
        "from subnetwork.runtime import launched\n"
        "with launched(1, MODULE):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    pids = children(parent.pid)
    assert len(pids) == 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def test_a_process_whose_parent_dies_leaves(tmp_path):
    """The second guard: also a worker that waits for nobody notices."""
    child = (
        "import os, threading, time; from subnetwork.runtime.launch import _leave_with;"
        "threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start();"
        f"open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, os, time;"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.DEVNULL);"
        "print(p.pid, flush=True);"
        f"[time.sleep(0.05) for _ in range(600) if not os.path.exists({str(tmp_path / 'up')!r})]"
    )
    pid = int(subprocess.check_output([sys.executable, "-c", parent], text=True))
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
