"""Algorithm 1 (Shulgin & Richtarik 2023), once, for vectors and for networks.

Every method of the field is a *sketch* (who gets which part of the model), a local *work* (what a
worker does with its part) and a *merge* (how the parts become a model again) handed to `rounds`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

X = TypeVar("X")  # the model
X_contra = TypeVar("X_contra", contravariant=True)
W = TypeVar("W")  # a submodel
W_co = TypeVar("W_co", covariant=True)
P = TypeVar("P", bound="Partition[Any, Any]")  # a draw
P_co = TypeVar("P_co", bound="Partition[Any, Any]", covariant=True)


@runtime_checkable
class Partition(Protocol[X_contra, W_co]):
    """One round's cut of the model: the draw of (C_1, ..., C_n), made for all workers at once."""

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        ...

    def select(self, x: X_contra, worker: int, /) -> W_co:
        """The submodel w_i = C_i x of one worker, as a copy: training it leaves `x` alone."""
        ...


@runtime_checkable
class Sketch(Protocol[P_co]):
    """The joint law of (C_1, ..., C_n)."""

    def sample(self, seed: int, k: int, /) -> P_co:
        """The cut of round k. Depends on (seed, k) alone: any round can be drawn by itself."""
        ...


Work: TypeAlias = Callable[[int, P, Sequence[W]], Sequence[W]]
"""Lines 4-8: (k, partition, submodels) -> trained submodels, in the order of the workers."""

Merge: TypeAlias = Callable[[X, P, Sequence[W]], X]
"""Line 9: (x, partition, trained) -> the next x. A merge returns a new model, never changes `x`."""


class RunFailedError(RuntimeError):
    """A run that cannot go on, through nobody's mistake in asking for it; says what to do."""


class WorkerLostError(RunFailedError):
    """Raised by a Work when a worker died, froze or failed; says which, when and how."""


class DivergedError(RunFailedError):
    """The model or the loss is no number any more; says in which round."""


@dataclass(frozen=True)
class Round(Generic[X, W, P]):
    """What one round did: `x` is x^{k+1}, the model after it."""

    k: int
    x: X
    partition: P
    submodels: Sequence[W]  # w_i, what went down
    trained: Sequence[W]  # z_i^+, what came back


def rounds(
    x: X,
    sketch: Sketch[P],
    work: Work[P, W],
    merge: Merge[X, P, W],
    *,
    seed: int,
    n_rounds: int,
    start: int = 0,
) -> Iterator[Round[X, W, P]]:
    """Run rounds `start`, ..., `n_rounds` - 1 of Algorithm 1 from `x`; yield each as it ends.

    A run of 200 rounds equals one of 100 and a second one with `start=100` from the model the first
    one reached, since draws are keyed by (seed, k) and by nothing that came before.
    """
    for k in range(start, n_rounds):  # line 2
        partition = sketch.sample(seed, k)
        submodels = [partition.select(x, i) for i in range(partition.n_workers)]  # line 3
        trained = work(k, partition, submodels)  # lines 4-8, in parallel
        x = merge(x, partition, trained)  # line 9
        yield Round(k, x, partition, submodels, trained)
