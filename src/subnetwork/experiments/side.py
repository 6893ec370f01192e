"""One rank's place in a run by direct hand-over."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from subnetwork.methods import Training
from subnetwork.methods.rows import Method, Task
from subnetwork.nets.architecture import shaped
from subnetwork.nets.calibrate import gathers
from subnetwork.nets.data import GraphSet
from subnetwork.nets.merges import Steps
from subnetwork.nets.widest import side_by_side
from subnetwork.runtime.direct import Draws, Wire
from subnetwork.runtime.direct.links import Links
from subnetwork.runtime.direct.outer import carried_moments
from subnetwork.runtime.direct.sockets import Bytes


@dataclass(frozen=True)
class Side:
    """What a rank knows of the run; its part of the model goes from hand to hand beside it."""

    t: Task
    row: Method
    draws: Draws
    rank: int
    links: Links
    wired: Callable[[], Bytes]
    """What went over the links so far, by the kernel's count."""
    folder: Path  # of the run, as it is written; the same for all ranks
    source: Path | None  # the checkpoint that the run goes on from

    @property
    def n_workers(self) -> int:
        """Number of ranks n."""
        return self.draws.n_workers

    @cached_property
    def tests_whole(self) -> bool:
        """Whether to test the model takes less memory if it is put together for that."""
        if isinstance(self.t.data, GraphSet):  # a graph is one batch, whose matrix has no shape
            return False
        model = shaped(self.row.architecture).to("meta")
        normalises = any(gathers(module) for module in model.modules())
        tested = (inputs for inputs, _ in self.t.tested())
        batches = chain(self.t.stream() if normalises else (), tested)
        n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        return n_bytes < side_by_side(model, batches)

    @property
    def moments(self) -> tuple[str, ...]:
        """That travel: of the local optimizer, and of the step of the merge."""
        return carried_moments(self.row.moments, self.steps)

    @property
    def steps(self) -> Steps | None:
        """The step of the merge, where it is no mean over holders."""
        return steps_of(self.row)

    @property
    def wire(self) -> Wire:
        """How entries travel."""
        return wire_of(self.t.run)


def steps_of(row: Method) -> Steps | None:
    """The step of a method's merge, where it is no mean over holders."""
    return row.merge if isinstance(row.merge, Steps) else None


def wire_of(run: Training) -> Wire:
    """How entries of a run travel."""
    wire: Wire = run.wire  # type: ignore[assignment]
    return wire
