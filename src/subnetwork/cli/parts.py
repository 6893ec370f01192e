"""A run as parts, each with one number of workers: what `subnetwork scale` asks for begins another.

A part that ends is kept as a run that is interrupted is, and the next one begins as
`subnetwork train --resume --workers M` does, in the same process.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from subnetwork.algorithm import RunFailedError
from subnetwork.cli.console import say
from subnetwork.cli.folder import CHECKPOINTS, unfinished
from subnetwork.cli.handing import check_exchange
from subnetwork.cli.keeping import Keeping
from subnetwork.cli.requests import MOST, Request, answer, taken
from subnetwork.methods import Training

if TYPE_CHECKING:
    from rich.console import Console

    from subnetwork.experiments.resume import Start
    from subnetwork.methods.rows import Method, Task
    from subnetwork.runtime import Seat
    from subnetwork.runtime.direct import Rank

    Workers: TypeAlias = Rank | Sequence[Seat] | None
    """Rank 0 of direct hand-over; else the coordinator's seats, or None for this process."""


SCALED = "scaled"


@dataclass(frozen=True)
class Part:
    """Rounds of a run with one number of workers."""

    t: "Task"
    row: "Method"
    start: "Start"
    source: Path | None  # the checkpoint that it goes on from
    asked: Request | None = None  # what it was begun for
    was: int = 0  # workers of the part before

    @cached_property
    def notes(self) -> list[dict[str, Any]]:
        """What its rows are to tell among their faults; at first, what it was begun for."""
        n = self.t.run.workers
        if self.asked is None:
            return []
        change = {"from": self.was, "to": n, "reason": f"from {self.was} to {_workers(n)}"}
        return [{"k": self.start.k, "kind": SCALED, **change}]


@dataclass(frozen=True)
class Way:
    """How a run comes by its workers."""

    workers: Callable[[Training], AbstractContextManager["Workers"]]
    """Those of a part."""
    ready: Callable[[int], None] = lambda _: None
    """Have so many at least, beside those that train; raises WorkerLostError where it fails."""
    here: bool = False
    torchrun: bool = False


class Scaling:
    """Hears, between the rows of a part, who asks for another number of workers."""

    def __init__(
        self, part: Part, way: Way, keeping: Keeping, place: Path, console: "Console"
    ) -> None:
        """Requests lie in `place`; what is answered is printed too."""
        self.part, self.way = part, way
        self._keeping, self._place, self._console = keeping, place, console
        self._coming: Part | None = None
        self._k = part.start.k  # where it is to begin
        self.next: Part | None = None
        """The part that goes on, once this one is to end."""

    def begun(self) -> None:
        """Answer what the part was begun for."""
        part, asked = self.part, self.part.asked
        if asked is not None:
            n, k = part.t.run.workers, part.start.k
            line = f"goes on with {_workers(n)} instead of {part.was} after round {k}"
            self._answer(asked, f"{line} of {part.row.n_rounds}", done=True)

    def wanted(self, k: int) -> bool:
        """Take a request; True where the run can go on as is asked for, before round k.

        All others are answered: where the run cannot, and where it has that many workers.
        """
        while (asked := taken(self._place)) is not None:
            if asked.workers == self.part.t.run.workers:
                self._answer(asked, f"has {_workers(asked.workers)} already", done=True)
                continue
            try:
                self._coming = self._fitting(k, asked)
            except Exception as reason:  # whatever it is, who asked is told, and the run goes on
                self._refuse(asked, reason)
                continue
            self._k = k
            return True
        return False

    def leaves(self, kept: bool) -> bool:
        """Whether the part ends, with the checkpoint that the next one goes on from."""
        from subnetwork.experiments.resume import going_on, saved
        from subnetwork.experiments.training import earlier

        coming = self._coming
        assert coming is not None
        assert coming.asked is not None
        try:
            if not kept:
                raise RunFailedError(
                    "the disk is full, so that there is no checkpoint to go on from."
                )
            old, _ = saved(unfinished(self._keeping.out) / CHECKPOINTS)
            if old is None or old.start.k != self._k:
                raise RunFailedError(f"the checkpoint of round {self._k} cannot be read.")
            start = going_on(coming.t, old)
            record = unfinished(self._keeping.out) / f"{coming.t.run.method}.jsonl"
            if [row["k"] for row in earlier(record, start)[-1:]] != [self._k - 1]:
                raise RunFailedError("the disk is full, so that rows wait to be written.")
            self.way.ready(coming.t.run.workers)
        except Exception as reason:  # as above
            self._refuse(coming.asked, reason)
            return False
        self.next = replace(coming, start=start, source=old.path)
        return True

    def ended(self) -> str:
        """How the part ended, where it ended well."""
        if self.next is None:
            return "done"
        return f"goes on with {_workers(self.next.t.run.workers)}"

    def _fitting(self, k: int, asked: Request) -> Part:
        """The part that is asked for, but for where it begins.

        Raises:
            ValueError: it cannot be; says why.
        """
        from subnetwork.experiments.resume import continued
        from subnetwork.methods.rows import method, task

        old, n = self.part, asked.workers
        if n > MOST:
            raise ValueError(f"A run is scaled to at most {MOST} workers.")
        if k == old.row.n_rounds:
            raise ValueError(f"All {k} rounds are done.")
        if self.way.torchrun:
            raise ValueError(
                "torchrun started its processes, and a rank is a worker. End the run, and start "
                f"{n} processes with --resume."
            )
        run = continued(old.t.run, replace(old.t.run, workers=n), ["workers"])
        t = task(run)
        row = method(t)
        going = replace(self._keeping, start=None)
        check_exchange(run, row, going, here=self.way.here, torchrun=False)
        return Part(t, row, old.start, None, asked, old.t.run.workers)

    def _refuse(self, asked: Request, reason: Exception) -> None:
        n = self.part.t.run.workers
        why = (isinstance(reason, OSError) and reason.strerror) or reason
        line = f"goes on with {_workers(n)} as before, not with {asked.workers}: {why}"
        self._answer(asked, line, done=False)

    def _answer(self, asked: Request, line: str, *, done: bool) -> None:
        line = f"{self._keeping.out} {line}"
        answer(asked, done=done, line=line)
        say(self._console, line)


def _workers(n: int) -> str:
    return f"{n} worker{'s' * (n > 1)}"
