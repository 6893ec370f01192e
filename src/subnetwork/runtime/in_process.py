"""The seat of a worker that is the coordinator's process: rank 0 of torchrun."""

import time
import traceback
from collections.abc import Callable

from subnetwork.nets import ABSENT, Submodel
from subnetwork.nets.local import Local
from subnetwork.runtime.faults import FAILED, SLOW, Fault
from subnetwork.runtime.measured import peak_memory
from subnetwork.runtime.seats import STEPPING, Answer, stopped
from subnetwork.runtime.serve import in_time


class InProcess:
    """A worker of this process: it trains when it is waited for, while the others train too."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._local: Local | None = None
        self._out = False

    def assign(self, job: str, local: Local, /) -> Callable[[], None]:
        """Take the local work as it is."""
        del job
        self._local = local
        return lambda: None

    def deal(self, weights: tuple[int, ...], /) -> None:
        """It is handed its part and need not know."""

    def present(self) -> bool:
        """Always, unless it was dismissed for good."""
        return not self._out

    def start(self, k: int, submodel: Submodel, until: float, /) -> Callable[[], Answer]:
        """Train on the spot once everyone else has started, as others do: no step begins late.

        An exception of the local work is its worker's fault, and the run goes on.
        """
        assert self._local is not None, "a job is assigned before the first round"
        local, begun = self._local, time.monotonic()
        limit = STEPPING * (until - begun)

        def fault(kind: str, reason: str) -> Fault:
            return Fault(k, self._worker, kind, time.monotonic() - begun, reason)

        def train() -> Answer:
            started = time.monotonic()
            try:
                trained = in_time(local, started + limit)(k, self._worker, submodel)
            except Exception:  # whatever it raises is for the coordinator to show
                return Answer(ABSENT, fault(FAILED, traceback.format_exc()))
            ended = time.monotonic()
            seconds = ended - started
            slow = fault(SLOW, stopped(trained)) if seconds > limit else None
            return Answer(trained, slow, seconds, ended, peak=peak_memory())

        return train

    def dismiss(self, *, for_good: bool) -> None:
        """It cannot be replaced."""
        self._out = self._out or for_good

    def closed(self) -> bool:
        """Where it was dismissed for good."""
        return self._out

    def left(self) -> list[str]:
        """It cannot leave."""
        return []

    def fate(self) -> str:
        """It lives as long as the coordinator."""
        return "it was dismissed" if self._out else "it is in the coordinator's process"
