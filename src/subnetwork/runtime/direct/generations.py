"""Rounds that a death does not end: the others meet again, bring its part back, repeat the round.

Ranks that meet are a *generation*: a group of connections of its own. When one dies, its
connections close; whoever sees that leaves the group, so that all see it, and joins the next one,
in which a new process has the dead one's seat. There they agree where the run stands, the new
process is given the part that the dead one had at the start of the round (`rebuilding`), trains it
as the dead one did, and everyone goes on. Nothing that was done is done differently, so the run is
the one without the death, to the bit.

A round has two stages: the merge and what follows it (rows, checkpoints), and the hand-over with
its replicas. Each ends with a word from everyone to everyone. So ranks are never more than one
stage apart, and whoever is ahead proves that all have done what lies before.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeAlias, TypeVar

import torch

from subnetwork.algorithm import RunFailedError, WorkerLostError
from subnetwork.nets.local import Local
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.gloo import tell
from subnetwork.runtime.direct.handover import handed_over
from subnetwork.runtime.direct.held import Held
from subnetwork.runtime.direct.kernels import Idle
from subnetwork.runtime.direct.links import Exchange, Links, Post, carried, whole
from subnetwork.runtime.direct.merging import merged
from subnetwork.runtime.direct.rebuilding import given_back, rebuilt
from subnetwork.runtime.direct.replicas import Replica, neighbour, replicated, unknown
from subnetwork.runtime.direct.running import DirectRound, overwrites, worked_on
from subnetwork.runtime.direct.timing import Took
from subnetwork.runtime.direct.wire import Wire

T = TypeVar("T")
Meet: TypeAlias = Callable[[int], Links]
"""The links of a generation, once all its ranks are there.

It raises WorkerLostError where they cannot come."""


@dataclass(frozen=True)
class Rebuilt:
    """A rank that died, and whose seat has a new process."""

    rank: int
    k: int  # the round that it was given its part of
    seconds: float  # from when it was missed until it was there


Report: TypeAlias = Callable[[Rebuilt], None]


@dataclass(frozen=True)
class Kept:
    """What a rank keeps for the others' sake in a round."""

    sent: Post | None  # in the hand-over into the round; None: nothing was handed over yet
    replica: Replica  # of what rank - 1 kept itself
    known: Mapping[str, Idle]  # own idle lines that rank + 1 has the values of


class Company:
    """A rank among the others, through all generations."""

    def __init__(
        self,
        draws: Draws,
        rank: int,
        meet: Meet,
        *,
        moments: tuple[str, ...] = (),
        wire: Wire = "float32",
        number: int = 0,
        report: Report = lambda _: None,
    ) -> None:
        """Meet the others of generation `number`; only a dead one's successor comes later than 0.

        `moments` are those of the local optimizer that travel, counts of steps left out.
        """
        self.draws, self.rank, self.wire = draws, rank, wire
        self.stage = 2 * draws.start  # 2k: merge of round k and what follows; 2k + 1: hand-over
        self.bytes_sent = self.bytes_received = 0  # payload, since the last round was told
        self.linked = self.paused = 0.0  # seconds in the links, and after deaths
        self._meet, self._moments, self._report = meet, moments, report
        self._number, self._links = number, meet(number)
        self._kept = Kept(None, unknown(draws, draws.start, self._before), {})
        self._next: Kept | None = None
        self._rebuilt: Rebuilt | None = None

    @property
    def _before(self) -> int:
        return (self.rank - 1) % self.draws.n_workers

    def links(self, post: Post) -> None:
        """One round trip with all other ranks of this generation."""
        began = time.perf_counter()
        self._links(post)
        self.linked += time.perf_counter() - began

    def carried(self, exchange: Exchange[T]) -> T:
        """What comes of an exchange, of which the payload is counted."""
        done = carried(exchange, self.links)
        self.bytes_sent += done.bytes_sent
        self.bytes_received += done.bytes_received
        return done.result

    def entered(self, begun: Callable[[], Held]) -> Held:
        """This rank's part where the run stands: at its start, or a dead one's that is rebuilt."""
        if not self._number:
            return begun()
        self._agree(None)
        k = self.stage // 2
        if k == self.draws.start:
            return begun()
        exchange = rebuilt(self.draws, self.rank, k, self._moments, self.wire)
        held = self.carried(exchange)
        index = {name: share.lines for name, share in held.shares.items()}
        self._kept = Kept(None, unknown(self.draws, k, self._before), index)
        return held

    def met_again(self) -> None:
        """After a death: be with the others in the next generation, with the dead one's part there.

        Raises:
            WorkerLostError: they cannot come.
            RunFailedError: what the dead one had is not to be had any more.
        """
        began = time.perf_counter()
        self._number += 1
        self._links = _left  # the connections of the group close, and all others see it
        self._links = self._meet(self._number)
        lost = self._agree(self.stage)
        k = self.stage // 2
        if self._next is not None and self._next.replica.k == k:
            self.committed()
        if k > self.draws.start:
            sent, replica = self._kept.sent, self._kept.replica
            assert sent is not None
            exchange = given_back(self.draws, self.rank, lost, sent, replica, self._moments)
            self.carried(exchange)
        if lost == neighbour(self.rank, self.draws.n_workers):
            self._kept = replace(self._kept, known={})
        self._rebuilt = Rebuilt(lost, k, time.perf_counter() - began)
        self.paused += self._rebuilt.seconds
        self._report(self._rebuilt)

    def replicated(self, sent: Post, held: Held) -> None:
        """Exchange replicas after a hand-over; they count when all have passed the stage."""
        exchange = replicated(self.draws, self.rank, held, self._kept.known, self._kept.replica)
        replica = self.carried(exchange)
        index = {name: share.lines for name, share in held.shares.items()}
        self._next = Kept(Post(sent.pieces, []), replica, index)

    def passed(self, *, last: bool = False) -> None:
        """Wait until all have done what the stage asks for; then it is the next one.

        When rank 0 has done the `last` one, the run is complete, whoever dies.
        """
        others = [j != self.rank for j in range(self.draws.n_workers)]
        word = torch.zeros(1, dtype=torch.uint8)
        post = Post([[word] if other else [] for other in others], whole([*map(int, others)]))
        try:
            self.links(post)
        except WorkerLostError:
            if not last or self.rank > 0:
                raise
        self.stage += 1

    def committed(self) -> None:
        """Let go of what was kept for the round before, where the next one is kept."""
        if self._next is not None:
            self._kept, self._next = self._next, None

    def _agree(self, stage: int | None) -> int:
        """Who died; `stage` becomes that of the rank that is furthest."""
        n, held = self.draws.n_workers, [self._kept] + ([self._next] if self._next else [])
        words = {
            "at": stage,
            "sent": [kept.replica.k for kept in held if kept.sent is not None],
            "copy": [kept.replica.k for kept in held if kept.replica.whole],
        }
        said = tell(self.links, self.rank, n, words)
        lost = [i for i, each in enumerate(said) if each["at"] is None]
        self.stage = max((each["at"] for each in said if each["at"] is not None), default=0)
        k = self.stage // 2
        if len(lost) != 1:
            raise RunFailedError(f"{len(lost)} ranks have new processes in round {k}, not one.")
        (one,) = lost
        all_sent = all(k in each["sent"] for i, each in enumerate(said) if i != one)
        if k > self.draws.start and not (all_sent and k in said[neighbour(one, n)]["copy"]):
            raise RunFailedError(
                f"rank {one} died in round {k}, before what it held had been copied again after "
                "another death. One death a round is survived."
            )
        if self._rebuilt is not None and (self._rebuilt.rank, self._rebuilt.k) == (one, k):
            raise RunFailedError(f"rank {one} died in round {k} twice: it would die again.")
        return one


def _left(_post: Post) -> None:
    raise WorkerLostError("this rank has left the group")


class Repeatable(Generic[T]):
    """An exchange of at most one post, which may be sent again in the next generation."""

    def __init__(self, exchange: Exchange[T]) -> None:
        """Run to the post, or to the end where there is none."""
        self._exchange, self._over = exchange, False
        self._result: list[T] = []
        self.post: Post | None = None
        self._step()

    @property
    def result(self) -> T:
        """What came of it."""
        return self._result[0]

    def carry(self, company: Company) -> None:
        """Send and receive the post; again, bytes that came before come as they were."""
        if self.post is None:
            return
        company.links(self.post)
        if not self._over:
            company.bytes_sent += self.post.n_bytes
            company.bytes_received += self.post.n_bytes_in
            self._over = True
            self._step()

    def taken(self) -> T:
        """What came of it, which is kept here no longer."""
        return self._result.pop()

    def _step(self) -> None:
        try:
            post = next(self._exchange)
        except StopIteration as end:
            self._result.append(end.value)
            return
        assert self.post is None, "an exchange of one post"
        self.post = post


def lasting_rounds(
    company: Company,
    local: Local,
    begun: Callable[[], Held],
    after: Callable[[DirectRound], None],
    *,
    n_rounds: int,
) -> None:
    """`direct_rounds` that go on after a death; the same on every rank.

    Args:
        company: this rank among the others.
        local: the local work; a function of what it is given, or what is repeated is another round.
        begun: this rank's part at the start of the run.
        after: is called with every round, and again where a rank died before all had done with it.
        n_rounds: where the run ends.

    Raises:
        WorkerLostError: a rank died, and nobody came in its place.
        RunFailedError: more ranks died in a round than are survived.
    """
    held, took, in_place = company.entered(begun), Took(), overwrites(local)
    while held.k < n_rounds:
        k, began = held.k, time.perf_counter()
        trained = worked_on(held, local, company.rank)  # lines 4-8
        took = replace(took, compute=time.perf_counter() - began)
        loss, held = trained.loss, replace(held, submodel=trained)
        del trained
        merging = Repeatable(merged(company.draws, company.rank, held, company.wire))  # line 9
        del held
        told = _Telling(company, merging, after, (k, loss, took, began))
        last = k + 1 == n_rounds
        again = company.stage > 2 * k or _until_passed(company, told, last=last)
        del told
        if last:
            return
        held, took = _passed_on(company, merging, again=again, in_place=in_place)  # line 3


@dataclass(frozen=True)
class _Telling:
    """The first stage of a round: the merge, and what follows it."""

    company: Company
    merging: Repeatable[Held]
    after: Callable[[DirectRound], None]
    what: tuple[int, float, Took, float]  # round, loss, seconds so far, when it began
    done: list[DirectRound] = field(default_factory=list)

    def __call__(self, _again: bool, /) -> None:
        company, linked = self.company, self.company.linked
        self.merging.carry(company)
        if not self.done:
            self.done.append(self._round(company.linked - linked))
        self.after(self.done[0])

    def _round(self, merge: float) -> DirectRound:
        k, loss, took, began = self.what
        company = self.company
        since = time.perf_counter() - began - company.paused
        packing = took.packing + since - took.compute - merge
        took = replace(took, packing=packing, merge=merge, since=since)
        sent, received = company.bytes_sent, company.bytes_received
        company.bytes_sent = company.bytes_received = 0
        return DirectRound(k, self.merging.result, loss, sent, received, took)


def _passed_on(
    company: Company, merging: Repeatable[Held], *, again: bool, in_place: bool
) -> tuple[Held, Took]:
    """The second stage of a round: the hand-over, and replicas."""
    began, company.linked, company.paused = time.perf_counter(), 0.0, 0.0
    found: list[Repeatable[Held]] = []

    def hand_over(repeated: bool, /) -> None:
        if again or repeated:
            merging.carry(company)  # for the process that is new
        if not found:
            draws, rank, wire = company.draws, company.rank, company.wire
            exchange = handed_over(draws, rank, merging.taken(), wire, in_place=in_place)
            found.append(Repeatable(exchange))
        found[0].carry(company)
        assert found[0].post is not None
        company.replicated(found[0].post, found[0].result)

    _until_passed(company, hand_over)
    company.committed()
    linked, seconds = company.linked, time.perf_counter() - began - company.paused
    company.paused = 0.0
    return found[0].taken(), Took(packing=max(0.0, seconds - linked), hand_over=linked)


def _until_passed(company: Company, do: Callable[[bool], None], *, last: bool = False) -> bool:
    """Do what a stage asks for, after a death again, until all have done it.

    Returns whether a death at its end brought this rank into the next stage: then what was merged
    has to be sent again there.
    """
    stage, repeated = company.stage, False
    while company.stage == stage:
        try:
            do(repeated)
            company.passed(last=last)
            return False
        except WorkerLostError:
            repeated = True
        company.met_again()  # outside: an error would hold on to the connections
    return True
