"""Worker processes that do wrong, five times each in one run: what the run does, to the bit."""

import os
import random
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import chaos_worker
import pytest

from seats_in_threads import assert_same_models, row_of
from subnetwork.algorithm import rounds
from subnetwork.methods import Training
from subnetwork.runtime import Patience, dropped, dropping, here, launched, seated
from subnetwork.runtime.clipping import clipping
from worker_processes import children

pytestmark = pytest.mark.faults
RUN = {
    "momentum": 0.5,
    "hidden": (12, 9),
    "workers": 4,
    "local_steps": 2,
    "batch_size": 8,
    "rounds": 3000,
}
SHOWN_AS = {
    "nan": "not finite",
    "inf": "not finite",
    "error": "failed",
    "out of memory": "failed",
    "frame": "refused",
    "short": "refused",
    "huge": "clipped",
    "slow": "slow",
}
PATIENCE = Patience(floor=6.0, first=120.0)  # 4.8 s are too slow, and in time by 1.2
CALM = 5  # rounds before the first fault, in which the run learns what is usual


@dataclass(frozen=True)
class Crew:
    """Workers that take orders, and where those are written."""

    seats: tuple
    orders: Path

    def order(self, worker, kind):
        written = self.orders / f".{worker}"
        written.write_text(kind)
        written.rename(self.orders / str(worker))


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    orders = tmp_path_factory.mktemp("orders")
    paths = [str(Path(chaos_worker.__file__).parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("CHAOS", str(orders))
        patch.setenv("CHAOS_SLOW", "4.8")
        with launched(4, "chaos_worker") as seats:
            yield Crew(seats, orders)


def run_of(crew, row, faults, between, done):
    """Rounds, and after each what is done `between` two of them, until `done(k)`."""
    job = Training(**RUN).to_json()
    for ready in [seat.assign(job, row.local) for seat in crew.seats]:
        ready()
    work = clipping(
        seated(crew.seats, patience=PATIENCE, report=faults.append),
        10,
        report=faults.append,
    )
    run = []
    for one in rounds(row.x, row.sketch, work, row.merge, seed=row.seed, n_rounds=3000):
        run.append(one)
        between(one.k + 1)
        if done(one.k):
            return run
    raise AssertionError("3000 rounds were not enough")


def planned(row, run, orders, faults):
    """The one-process run whose workers do the same, and whose blocks are dropped by plan."""

    def local(k, worker, submodel):
        kind = orders.get((k, worker))
        if kind == "slow":
            taken = run[k].trained[worker].n_steps
            return row.local.until(lambda steps: steps >= taken)(k, worker, submodel)
        trained = row.local(k, worker, submodel)
        if kind == "huge":
            next(iter(trained.params.values())).view(-1)[0] = chaos_worker.VALUES["huge"]
        return trained

    work = clipping(dropping(here(local), dropped(faults)), 10)
    return list(rounds(row.x, row.sketch, work, row.merge, seed=row.seed, n_rounds=len(run)))


@pytest.mark.parametrize("kind", SHOWN_AS)
def test_five_of_a_kind_show_and_the_run_is_the_one_by_plan(kind, crew):
    """Two workers in one round, one in another, two in a third: no worker has a third strike."""
    words, row, faults, orders = random.Random(kind), row_of(**RUN), [], {}
    one, two, three, four = words.sample(range(4), 4)
    waiting, last = [(one, two), (three,), words.sample((one, two, three, four), 2)], []

    def between(k):
        if k >= CALM and waiting and all(seat.present() for seat in crew.seats):
            for worker in waiting.pop(0):
                crew.order(worker, kind)
                orders[k, worker] = kind
        elif not waiting and all(seat.present() for seat in crew.seats):
            last.append(k)
        elif k >= CALM:
            time.sleep(0.02)  # rounds that only wait for a new worker

    run = run_of(crew, row, faults, between, lambda _: len(last) > 3)
    shown = [(f.round, f.worker) for f in faults if f.kind == SHOWN_AS[kind]]
    assert sorted(shown) == sorted(orders)
    assert len(orders) == 5
    others = {f.kind for f in faults} - {SHOWN_AS[kind]}
    assert others <= ({"absent", "joined"} if kind in ("frame", "short") else set())
    if kind == "slow":
        assert all(run[k].trained[worker].n_steps == 1 for k, worker in orders)
    assert_same_models(run, planned(row, run, orders, faults))


def test_five_strangers_are_refused_and_harm_nothing(crew):
    words, row, faults, heard = random.Random(7), row_of(**RUN), [], []
    folder = Path(f"/proc/{children()[0]}/fd/1").readlink().parent
    host, port = (folder / "address").read_text().split()

    def between(k):
        if k % 3 == 2 and len(heard) < 5:
            with socket.create_connection((host, int(port)), timeout=5) as stranger:
                stranger.sendall(words.randbytes(words.randrange(100, 5000)))
                heard.append(closed(stranger))

    run = run_of(crew, row, faults, between, lambda _: len(heard) == 5)
    assert heard == [True] * 5
    assert faults == []
    assert_same_models(run, planned(row, run, {}, []))


def closed(stranger):
    """Whether the other end closes the connection."""
    try:
        while stranger.recv(4096):
            pass
    except ConnectionError:
        pass
    return True
