"""Ranks of direct hand-over as threads of this process, and links between them."""

import queue
import threading
from itertools import product

import torch.distributed as dist

from subnetwork.algorithm import WorkerLostError
from subnetwork.runtime.direct import Rank


class Between:
    """Links of n ranks: bytes go through queues. A rank that failed fails the others."""

    def __init__(self, n):
        self.boxes = {pair: queue.Queue() for pair in product(range(n), repeat=2)}
        self.failed = threading.Event()

    def links(self, rank):
        def post(what):
            for j, pieces in enumerate(what.pieces):
                for piece in pieces:
                    self.boxes[rank, j].put(piece.clone())
            for i, pieces in enumerate(what.into):
                for memory in pieces:
                    memory.copy_(self._next(i, rank))

        return post

    def _next(self, i, rank):
        while not self.failed.is_set():
            try:
                return self.boxes[i, rank].get(timeout=0.2)
            except queue.Empty:
                continue
        raise WorkerLostError("another rank failed")


class Thread(Rank):
    """A rank whose links are those of threads."""

    def links(self):
        return self.host.links(self.rank)

    def group(self, number):
        assert not number, "threads do not die"
        return self.links()


def ranks(n):
    store, between = dist.HashStore(), Between(n)
    return [Thread(rank, n, store, between) for rank in range(n)]


def together(n, side):
    """side(place) of every rank at once; what they return, or the first error of them."""
    places = ranks(n)
    results, errors = [None] * n, []

    def run(place):
        try:
            results[place.rank] = side(place)
        except BaseException as error:
            errors.append((isinstance(error, WorkerLostError), place.rank, error))
            place.host.failed.set()

    threads = [threading.Thread(target=run, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise min(errors, key=lambda e: e[:2])[2]
    return results
