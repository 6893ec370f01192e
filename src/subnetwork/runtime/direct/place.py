"""One rank's place among those of a run: what it is told, and how it meets the others."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import torch.distributed as dist

from subnetwork.algorithm import WorkerLostError
from subnetwork.runtime.direct.gloo import CONNECTING, LONGEST, MEETING, PATIENCE, meet, over
from subnetwork.runtime.direct.links import Links, Post
from subnetwork.runtime.handshake import LOOPBACK, NONCE, SECRET, sealed, unsealed
from subnetwork.runtime.torchrun import asking

JOB, NONCE_OF, BELIEVED = "job", "nonce", "believed"  # keys of the store


@dataclass(frozen=True)
class Rank:
    """This process among those of a run."""

    rank: int
    n_workers: int
    store: dist.Store
    host: str | None  # where it listens; None: the address of this host's name
    fate: Callable[[], str | None] = lambda: None
    """What became of a rank that does not answer, where this process knows."""
    stop: Callable[[], bool] = lambda: False
    """Whether this process was asked to end the run."""
    owns: bool = False
    """Whether rank 0 owns the processes, and meets the others when all are about to."""
    number: int = 0
    """The generation that this process came with: a later one where it takes a dead one's seat."""
    refill: Callable[[int, Callable[[], bool]], str] | None = None
    """Where rank 0 owns the processes: have all others there for a generation, the dead one's seat
    filled; says who died. It gives up where the question it is handed is true."""
    ready: Callable[[], None] = lambda: None
    """Where rank 0 owns the processes: wait until all others are about to meet first."""
    met: Callable[[], None] = lambda: None
    """Told when all have met: from now on a seat may be filled again."""
    died: list[str] = field(default_factory=list)
    """On rank 0: who died and was replaced."""
    secret: Callable[[], bytes] | None = None
    """Of the run, where the store takes keys from anybody: torchrun's. It may wait for rank 0."""
    name: str = ""
    """What tells the run from others that may have the same secret."""
    patience: timedelta = PATIENCE
    """How long the slowest of the others is waited for in a round."""

    def patient(self, seconds: float) -> "Rank":
        """This place, where the slowest is waited for at least so long, a day at most."""
        asked = timedelta(seconds=min(seconds, LONGEST.total_seconds()))
        return replace(self, patience=max(self.patience, asked))

    def give(self, job: str) -> None:
        """Rank 0 says what is to be done; where the store is open, to each who asks, and proves it.

        Raises:
            WorkerLostError: where one does not ask, or does not believe what it hears.
            KeyboardInterrupt: the run is to end meanwhile.
        """
        if self.secret is None:
            self.store.set(JOB, job)
            return
        secret, others = self.secret(), range(1, self.n_workers)
        for rank in others:
            asked = f"{self.name}/{rank}", self._heard(f"{NONCE_OF}/{rank}", rank)
            self.store.set(f"{JOB}/{rank}", sealed(secret, asked, job))
        for rank in others:  # before a meeting, which nothing can interrupt
            if self._heard(f"{BELIEVED}/{rank}", rank) != BELIEVED:
                raise WorkerLostError(
                    f"rank {rank} does not believe rank 0, or cannot read the run's secret, and "
                    f"does nothing. Look above for why; on several hosts {SECRET} is to be the "
                    "same everywhere."
                )

    def job(self) -> str:
        """What rank 0 said; waits for it. To be asked for once.

        Raises:
            ValueError: it was not rank 0 that said it.
            PermissionError: the secret is not this user's alone.
            WorkerLostError: rank 0 is gone, or says nothing.
        """
        asked = f"{self.name}/{self.rank}", secrets.token_hex(NONCE)
        with asking(self.rank):
            if self.secret is None:
                return self.store.get(JOB).decode()
            self.store.set(f"{NONCE_OF}/{self.rank}", asked[1])
            word = self.store.get(f"{JOB}/{self.rank}").decode(errors="replace")
        try:
            job = unsealed(self.secret(), asked, word)
        except (ValueError, OSError):
            self.store.set(f"{BELIEVED}/{self.rank}", "no")
            raise
        self.store.set(f"{BELIEVED}/{self.rank}", BELIEVED)
        return job

    def _heard(self, key: str, rank: int) -> str:
        until = time.monotonic() + MEETING.total_seconds()
        while not self.store.check([key]):
            if self.stop():
                raise KeyboardInterrupt
            if time.monotonic() > until:
                raise WorkerLostError(
                    f"rank {rank} did not ask rank 0 for the run, or did not answer, in "
                    f"{MEETING.total_seconds():g} s. Look above for why."
                )
            time.sleep(0.01)
        return self.store.get(key).decode(errors="replace")

    def group(self, number: int) -> Links:
        """The links of a generation; waits until all are there, on rank 0 with a new process.

        Raises:
            WorkerLostError: they cannot come.
        """
        if self.n_workers == 1:
            return lambda _: None
        if self.rank:
            with asking(self.rank):
                self.store.set(f"here/{number}/{self.rank}", "")
        elif number:
            assert self.refill is not None
            self.died.append(self.refill(number, self.stop))
        else:
            self.ready()
        store = dist.PrefixStore(f"links/{number}", self.store)
        patience = CONNECTING if self.owns else MEETING
        try:
            met = meet(store, self.rank, self.n_workers, host=self.host, patience=patience)
        except WorkerLostError as error:
            raise self._lost(error, meeting=True) from None
        links = over(met, self.rank, self.patience)
        self.met()
        return links

    def links(self) -> Links:
        """Round trips with all others; waits until they are there."""
        links = self.group(0)

        def watched(post: Post) -> None:
            try:
                links(post)
            except WorkerLostError as error:
                raise self._lost(error, meeting=False) from None

        return watched

    def _lost(self, error: WorkerLostError, *, meeting: bool) -> WorkerLostError:
        """The same, by what this process knows of it; at the meeting, with what is often wrong."""
        far = meeting and self.host not in (None, LOOPBACK)
        hint = " Check that hosts reach each other on any TCP port." if far else ""
        return WorkerLostError(self.fate() or f"{error}{hint}")
