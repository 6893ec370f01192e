"""Workers in threads of the test's process, behind real links: no process has to start."""

import socket
import threading

import torch

from subnetwork.algorithm import rounds
from subnetwork.methods import Training
from subnetwork.methods.rows import method, task
from subnetwork.nets import Submodel
from subnetwork.runtime import Patience
from subnetwork.runtime.seats import Remote
from subnetwork.runtime.serve import serve, templates
from subnetwork.runtime.wire import Link

torch.set_num_threads(1)  # before there are threads: each takes over what it finds at its first sum
SMALL = Training(hidden=(12, 9), workers=4, rounds=6, local_steps=2, batch_size=8, momentum=0.5)


def row_of(**changes):
    fields = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}
    return method(task(Training(**fields | changes)))


def run(row, work):
    torch.set_num_threads(1)
    return list(rounds(row.x, row.sketch, work, row.merge, seed=row.seed, n_rounds=row.n_rounds))


def assert_same_models(one, other):
    for a, b in zip(one, other, strict=True):
        for name, value in b.x.params.items():
            assert torch.equal(a.x.params[name], value), (b.k, name)
        for moment, tensors in b.x.moments.items():
            for name, value in tensors.items():
                assert torch.equal(a.x.moments[moment][name], value), (b.k, moment, name)
        for name, value in b.x.outer.items():
            assert torch.equal(a.x.outer[name], value), (b.k, "outer", name)


class Threads:
    """The door to a seat whose every incarnation is a thread that runs `live(link)`."""

    def __init__(self, live, *, comes_back=True):
        self.live = live
        self.comes_back = comes_back
        self.dismissals = []
        self.waiting = None
        self.threads = []
        self.come()

    def come(self):
        if self.waiting is not None:
            self.waiting.close()
        ours, theirs = socket.socketpair()
        self.waiting = Link(ours)
        self.threads.append(threading.Thread(target=self.life, args=(Link(theirs),), daemon=True))
        self.threads[-1].start()

    def life(self, link):
        try:
            self.live(link)
        finally:
            link.close()

    def arrived(self):
        link, self.waiting = self.waiting, None
        return link

    def dismissed(self, *, for_good):
        self.dismissals.append(for_good)
        if self.comes_back and not for_good:
            self.come()

    def fate(self, _=0.0):
        return "its thread is silent"


def seats_of(row, spoilt=None, **options):
    """One seat a worker; `spoilt[i](local)` stands in for the local work of worker i."""
    spoilt = spoilt or {}

    def seat(worker):
        local = spoilt.get(worker, lambda local: local)(row.local)

        def build(_):
            return templates(row.sketch, row.seed, row.x), local

        return Remote(worker, Threads(lambda link: serve(link, worker, build), **options))

    seats = [seat(worker) for worker in range(row.sketch.deal.n_workers)]
    for ready in [s.assign("{}", row.local) for s in seats]:
        ready()
    OPEN.extend(seats)
    return seats


IMPATIENT = Patience(floor=0.5, factor=4, first=20, missing=0.3)
OPEN = []
LEAVING = threading.Event()  # whoever pretends to hang waits for this, and no test for it


def leave_all():
    """Close the links of all seats that a test has made, and wait for the threads behind them.

    A thread that is still in torch when Python ends would end the process ("terminate called").
    """
    LEAVING.set()
    seats = [OPEN.pop() for _ in range(len(OPEN))]
    for seat in seats:
        seat.leave()
    for thread in [thread for seat in seats for thread in seat._door.threads]:
        thread.join(timeout=20)
        assert not thread.is_alive(), "a worker's thread goes on after its link was closed"
    LEAVING.clear()


def in_round(at, spoil):
    """Local work that does `spoil(k, worker, submodel, local)` in the rounds of `at`."""

    def spoilt(local):
        def work(k, worker, submodel):
            if k in at:
                return spoil(k, worker, submodel, local)
            return local(k, worker, submodel)

        return work

    return spoilt


def with_entry(submodel, value):
    """The same submodel with another first entry."""
    params = {name: tensor.clone() for name, tensor in submodel.params.items()}
    next(iter(params.values())).view(-1)[0] = value
    return Submodel(params, submodel.moments, submodel.loss, submodel.n_steps)


def raises(*_):
    """Local work of a worker that has no memory."""
    raise MemoryError("out of memory")


def kinds(faults):
    """What the faults are about, without words and seconds."""
    return [(f.round, f.worker, f.kind) for f in faults]
