"""What can happen to a worker in a round, what is written down, and the same thing by plan."""

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeAlias

from subnetwork.algorithm import Work
from subnetwork.nets import ABSENT, NetPartition, Submodel

NetWork: TypeAlias = Work[NetPartition, Submodel]

LOST, FROZEN, FAILED, REFUSED = "lost", "frozen", "failed", "refused"
NOT_FINITE, ABSENTEE, EVICTED = "not finite", "absent", "evicted"
SLOW, CLIPPED, JOINED, WAITING = "slow", "clipped", "joined", "waiting"
NOT_READY, REBUILT = "not ready", "rebuilt"
DROPS = frozenset({LOST, FROZEN, FAILED, REFUSED, NOT_FINITE, ABSENTEE})
"""The kinds after which the worker's block of that round keeps its value."""
SAID = {
    LOST: "is lost; its block keeps its value",
    FROZEN: "was silent until the deadline; its block keeps its value",
    FAILED: "failed; its block keeps its value",
    REFUSED: "sent what does not fit the plan; its block keeps its value",
    NOT_FINITE: "returned NaN or Inf, which is refused; its block keeps its value",
    ABSENTEE: "is absent; its block keeps its value",
    EVICTED: "takes part no more",
    SLOW: "is slow; what it did counts",
    CLIPPED: "returned a huge change, which was clipped",
    JOINED: "is there again",
    WAITING: "is waited for",
    REBUILT: "died; a new process has its part, and the round is repeated",
    NOT_READY: "left before its first round; another one is sent for",
}
STRIKES = 3  # faults of a worker's own making before nobody sits in its seat any more


@dataclass(frozen=True)
class Fault:
    """One thing that happened to one worker: a row's `faults` hold these as plain objects.

    Kinds that drop the block: `lost` (its connection closed), `frozen` (silent until the deadline),
    `failed` (an exception), `refused` (a frame that does not fit the plan), `not finite` (NaN or
    Inf), `absent` (nobody sits in the seat). Kinds that do not: `slow` (fewer local steps than
    asked for), `clipped`, `evicted`, `joined`, `waiting` (the round waits for enough workers),
    `not ready` (it left after it had joined and before its first round), `rebuilt` (a rank of
    direct hand-over died; `seconds` is how long the others were without it).
    """

    round: int
    worker: int
    kind: str
    seconds: float  # from the start of the round until it was noticed
    reason: str = ""

    def to_row(self) -> dict[str, Any]:
        """Plain data for the record; of a traceback the last line."""
        return asdict(self) | {"reason": last_line(self.reason)}

    def __str__(self) -> str:
        """One line; a traceback comes before it."""
        said, reason = SAID[self.kind], last_line(self.reason)
        shown = f"worker {self.worker}, round {self.round}:\n{self.reason}\n"
        line = f"round {self.round}: worker {self.worker} {said}"
        return (shown if self.kind == FAILED else "") + line + (f" ({reason})" if reason else "")


def last_line(text: str) -> str:
    """Of a traceback, what was raised."""
    return text.strip().rsplit("\n", 1)[-1]


Report: TypeAlias = Callable[[Fault], None]


def ignore(fault: Fault) -> None:
    """Report to nobody."""
    del fault


def telling(faults: list[Fault]) -> Report:
    """Collect faults, and print each at once on stderr; an absence only where it begins."""

    def report(fault: Fault) -> None:
        faults.append(fault)
        if fault.kind != ABSENTEE:
            print(f"subnetwork: {fault}", file=sys.stderr, flush=True)  # noqa: T201

    return report


@dataclass(frozen=True)
class Patience:
    """How long the others wait for one worker, in seconds.

    A worker that is silent until the deadline D = max(`floor`, `factor` x median round) of a round
    is dropped; of a round count those who did all their work. Before there is one, D is `first`.
    """

    floor: float = 3.0
    factor: float = 4.0
    first: float = 300.0
    missing: float = 60.0  # for enough workers to be there at the start of a round
    least: int | None = None  # how many are enough; None is half of them

    def deadline(self, durations: Sequence[float]) -> float:
        """D after rounds that took these seconds.

        >>> Patience().deadline([1.0, 2.0, 1.5])
        6.0
        >>> Patience().deadline([0.1])
        3.0
        """
        return max(self.floor, self.factor * median(durations)) if durations else self.first

    def enough(self, n_workers: int) -> int:
        """How many of n workers a round needs to start."""
        return (n_workers + 1) // 2 if self.least is None else min(self.least, n_workers)


def dropping(work: NetWork, blocks: Collection[tuple[int, int]]) -> NetWork:
    """The same work, less the blocks of these (round, worker): a lost worker, by plan.

    A run in which worker i was lost in round k equals `dropping(here(local), {(k, i)})` to the bit.
    """

    def work_less(
        k: int, partition: NetPartition, submodels: Sequence[Submodel], /
    ) -> list[Submodel]:
        trained = work(k, partition, submodels)
        return [ABSENT if (k, i) in blocks else z for i, z in enumerate(trained)]

    return work_less


def dropped(faults: Iterable[Fault]) -> set[tuple[int, int]]:
    """The (round, worker) whose blocks these faults dropped: what `dropping` repeats.

    Args:
        faults: in the order in which they were told. A round that nobody answered is begun again,
            and who is there again in it is not dropped by what was before.

    >>> lost, back = (Fault(3, 1, kind, 0.1) for kind in (LOST, JOINED))
    >>> dropped([lost, back]), dropped([back, lost])
    (set(), {(3, 1)})
    """
    found: set[tuple[int, int]] = set()
    for fault in faults:
        if fault.kind in DROPS:
            found.add((fault.round, fault.worker))
        elif fault.kind == JOINED:
            found.discard((fault.round, fault.worker))
    return found
