"""Ranks as threads, which can be made to die at any of their posts; successors take their seats."""

import itertools
import queue
import threading

from subnetwork.algorithm import WorkerLostError


class Killed(BaseException):
    """What a rank that dies raises: nothing catches it."""


class Group:
    """One generation: queues between n ranks, until one of them dies or leaves."""

    def __init__(self, n):
        self.boxes = {pair: queue.SimpleQueue() for pair in itertools.product(range(n), repeat=2)}
        self.over = threading.Event()
        self.here = set()


class Mortal:
    """n ranks, and deaths: (rank, generation, number of its post there, peers that get it)."""

    def __init__(self, n, deaths=()):
        self.n, self.deaths = n, list(deaths)
        self.groups, self.changed = [], threading.Condition()
        self.posts = [0] * n  # in the last generation
        self.errors, self.threads = [], []
        self.complete = False  # rank 0 has ended: it would end the others

    def run(self, side, successors=True):
        """side(rank, number) on a thread for every rank, until all have ended; the first error."""
        self.side, self.successors = side, successors
        for rank in range(self.n):
            self._start(rank, 0)
        while self.threads:
            self.threads.pop().join()
        if self.errors:
            raise min(self.errors, key=lambda e: isinstance(e, WorkerLostError))

    def meet(self, rank):
        """What a company meets the others by."""

        def meet(number):
            if number and not self.successors:
                raise WorkerLostError("nobody comes")
            with self.changed:
                for group in self.groups[:number]:
                    group.over.set()
                while len(self.groups) <= number:
                    self.groups.append(Group(self.n))
                group = self.groups[number]
                group.here.add(rank)
                self.changed.notify_all()
                came = self.changed.wait_for(lambda: self.complete or len(group.here) == self.n, 10)
            if not came or self.complete or group.over.is_set():
                raise WorkerLostError("they did not come")
            numbers = itertools.count()
            return lambda post: self._carry((number, group), rank, post, next(numbers))

        return meet

    def _carry(self, generation, rank, post, number):
        (when, group), self.posts[rank] = generation, number + 1
        reached = [death[3] for death in self.deaths if death[:3] == (rank, when, number)]
        peers = [(rank + step) % self.n for step in range(1, self.n)]
        for j in peers[: reached[0]] if reached else peers:
            for piece in post.pieces[j]:
                group.boxes[rank, j].put(piece.clone())
        if reached:
            raise Killed
        for i in peers:
            for memory in post.into[i]:
                memory.copy_(self._next(group, i, rank))

    def _next(self, group, i, rank):
        while True:
            try:
                return group.boxes[i, rank].get(timeout=0.001)
            except queue.Empty:
                if group.over.is_set():
                    raise WorkerLostError(f"rank {i} did not answer") from None

    def _start(self, rank, number):
        def life():
            try:
                self.side(rank, number)
                if not rank:
                    with self.changed:
                        self.complete = True
                        self.changed.notify_all()
            except Killed:
                last = len(self.groups) - 1
                if self.successors and not self.complete:
                    self._start(rank, last + 1)
                self.groups[last].over.set()
            except BaseException as error:
                if not self.complete:
                    self.errors.append(error)
                self.groups[-1].over.set()

        thread = threading.Thread(target=life)
        thread.start()
        self.threads.append(thread)
