"""What rank 0 of a run by direct hand-over does besides: rows, faults, checkpoints."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from subnetwork.experiments.resume import STALE, Edges, Keeper, Start
from subnetwork.experiments.training import entries_of, mean_loss, steps_after
from subnetwork.methods.rows import Method, Task
from subnetwork.nets.evaluate import Scores
from subnetwork.record import Row
from subnetwork.runtime import Fault
from subnetwork.runtime.direct import Rebuilt
from subnetwork.runtime.direct.sockets import Bytes
from subnetwork.runtime.direct.timing import Took, parted
from subnetwork.runtime.faults import REBUILT, telling
from subnetwork.runtime.measured import by_worker

COORDINATORS = ("usual_norms", "next_weights")  # what a coordinator would go on with


class Leader:
    """What rank 0 does besides: rows, checkpoints."""

    def __init__(self, t: Task, row: Method, start: Start, keeper: Keeper, edges: Edges) -> None:
        self._t, self._method, self._keeper, self._edges = t, row, keeper, edges
        self._told: tuple[Callable[[Row], None], ...] = ()
        self.row: dict[str, Any] = dict(start.row)
        self._law = row.sketch.to_json()
        self._kept = {key: value for key, value in start.row.items() if key in COORDINATORS}
        self._started = time.perf_counter() - self.row.get("seconds", 0.0)
        self.faults = edges.notes  # since the last row
        self._wanted: tuple[int, bool] = -1, False  # a round, and whether the run ends before it
        self.left: bool | None = None  # whether it did
        self._due = -1, False  # a round, and whether a checkpoint was due after it
        self._wired = [Bytes(0, 0)] * t.run.workers
        self._testing = 0.0  # seconds of the last test, for which the others wait

    def tell_to(self, *told: Callable[[Row], None]) -> None:
        """Who is told of every row from now on."""
        self._told = told

    def due(self, k: int) -> bool:
        """Whether it is time for a checkpoint, after the row of one more round."""
        if self._due[0] != k:
            self._due = k, self._keeper.due()
        return self._due[1]

    def wanted(self, k: int) -> bool:
        """Whether the run is to go on as another one before round k."""
        if self._wanted[0] != k:
            self._wanted, self.left = (k, self._edges.wanted(k)), None
        return self._wanted[1]

    def leaves(self, k: int) -> bool:
        """Whether it does; asked when its checkpoint was to be written."""
        if self.left is None:
            self.left = self._edges.leaves(self.kept(k))
        return self.left

    def kept(self, k: int) -> bool:
        """Whether the checkpoint before a round is there."""
        return self._keeper.kept == k

    def rebuilt(self, what: Rebuilt, how: str) -> None:
        """Note that a rank died and was replaced."""
        self._wired[what.rank] = Bytes(0, 0)  # a new process counts from 0
        found: list[Fault] = []
        telling(found)(Fault(what.k, what.rank, REBUILT, what.seconds, how))
        self.faults += [fault.to_row() for fault in found]

    def note(
        self, k: int, said: list[dict[str, Any]], scores: Scores | None, testing: float
    ) -> None:
        """Record a round, after a test that took so many seconds; one that is repeated, once."""
        if self.row.get("k") == k:
            return
        before, steps = self.row.get("steps", 0), steps_after(self._t, self._method, k)
        read = sum(self._t.samples(i, range(before, steps)) for i in range(len(said)))
        self.row = {
            "k": k,
            "steps": steps,
            "samples": self.row.get("samples", 0) + read,
            "loss": mean_loss([words["loss"] for words in said]),
            "worker_steps": [steps - before] * len(said),
            **entries_of(scores),
            "bytes_down": [words["received"] for words in said],
            "bytes_up": [words["sent"] for words in said],
            "payload": self.row.get("payload", 0) + sum(words["sent"] for words in said),
            **self._measured(k, said),
            "test_seconds": testing,
            "seconds": time.perf_counter() - self._started,
            "faults": [],
            **self._kept,
        }
        row = self.row | {"faults": list(self.faults)}
        for tell in self._told:
            tell(row)
        self.faults.clear()
        self._testing = testing

    def _measured(self, k: int, said: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """What the round took, rank by rank."""
        before, self._wired = self._wired, [Bytes(*words["wire"]) for words in said]
        waited = 0.0 if self._t.run.replicas else self._testing  # with them, before they go on
        found = [
            replace(of, **_since(now, then), peak=words["peak"])
            for of, now, then, words in zip(
                parted(k, [Took(*words["took"]) for words in said], waited),
                self._wired,
                before,
                said,
                strict=True,
            )
        ]
        return by_worker(found, len(said))

    def keep(self, k: int, save: Callable[[Mapping[str, Any]], None]) -> None:
        """Have the checkpoint before round k written; a full disk costs it, not the run."""
        stale = self._keeper.keep_by(k, self.row, self._law, save)
        if stale:
            self.faults += [{"k": k, "kind": STALE, "reason": stale}]


def _since(now: Bytes, then: Bytes) -> dict[str, int]:
    """Bytes between two counts."""
    return {"up": now.up - then.up, "down": now.down - then.down}
