"""What a round of `race.py` is made of, from what its workers wrote down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

Run = Sequence[Mapping[str, Any]]
"""Of each worker, what it wrote down."""


@dataclass(frozen=True)
class Parts:
    """A round over one link, in seconds, medians over rounds, and bytes on the wire."""

    wall: float
    compute: float  # of the slowest worker
    handling: float  # cutting, packing, merging
    exchange: float  # the rest: on the wire, or behind others that are late
    waiting: float  # of the mean worker, for the slowest one
    compute_cpu: float  # processor time: what computing takes on a core of its own
    handling_cpu: float
    process_cpu: float  # processor time of the busiest worker, all its threads, sockets included
    wire: float  # bytes through the busiest interface, in its busier direction
    slept: float | None = None  # the round again, in which workers slept in place of computing
    limited: bool = True  # whether the link has a rate
    alone: bool = False  # whether every worker has a core here too

    @property
    def replay(self) -> float:
        """The round with one core for each worker.

        Where they share none here, it is the round. Over a link without a limit nothing but
        processors takes time, and workers that share cores have none to spare to measure an
        exchange by: all that a worker's threads did counts. Else it is the round again, played with
        workers that sleep as long as computing took a processor; of DDP, which communicates in its
        steps, it is put together from its parts.
        """
        if self.alone:
            return self.wall
        if not self.limited:
            return self.process_cpu
        if self.slept is not None:
            return self.slept
        return self.compute_cpu + self.handling_cpu + self.exchange


def parts(
    runs: Sequence[Run],
    spec: Mapping[str, Any],
    *,
    asleep: Sequence[Run] | None = None,
    limited: bool = True,
    n_cores: int,
) -> Parts:
    """From what workers wrote down of runs; first rounds are left out if they can be.

    Args:
        runs: of each run, each worker's words.
        spec: of the row.
        asleep: the runs again, with workers that slept in place of computing.
        limited: whether the link has a rate.
        n_cores: of the machine.
    """
    of_round = [workers for run in runs for workers in rounds(run)]
    n_workers = len(runs[0])

    def middle(name: str, of: Any) -> float:  # noqa: ANN401 - max, or a mean
        return median(of([row[name] for row in workers]) for workers in of_round)

    wall = median(workers[0]["wall"] for workers in of_round)
    handling = median(workers[0]["handling_wall"] for workers in of_round)
    compute, compute_cpu = middle("compute_wall", max), middle("compute_cpu", max)
    waiting = compute - middle("compute_wall", mean)
    if spec["method"].startswith("ddp"):  # its communication is inside its steps
        crowded = max(1.0, n_workers / n_cores)
        compute, waiting = min(wall, compute_cpu * crowded), 0.0
    busiest = median(
        max(max(row["received"], row["sent"]) for row in workers) for workers in of_round
    )
    exchange = max(0.0, wall - compute - handling)
    handling_cpu = median(workers[0]["handling_cpu"] for workers in of_round)
    slept = None
    if asleep is not None:
        slept = median(of[0]["wall"] - _behind(of) for run in asleep for of in rounds(run))
    process_cpu = middle("process_cpu", max)
    return Parts(
        *(wall, compute, handling, exchange, waiting, compute_cpu, handling_cpu),
        *(process_cpu, busiest, slept, limited, n_workers <= n_cores),
    )


def rounds(run: Run) -> list[tuple[Mapping[str, float], ...]]:
    """All workers' rows, round by round; the first one is left out if it can be."""
    return list(zip(*(of["rows"][1:] or of["rows"] for of in run), strict=True))


def sleeps(run: Run) -> list[list[float]]:
    """Of each worker, what its local steps took a processor, round by round."""
    of_rounds = zip(*rounds(run), strict=True)
    return [[row["compute_cpu"] for row in of_worker] for of_worker in of_rounds]


def _behind(workers: Sequence[Mapping[str, float]]) -> float:
    """Seconds that a rank waited for a core to handle on, since all of them handle at once.

    The longest of all ranks', as if the round had waited for it: more than it did where bytes of
    others are under way meanwhile, less where it is another rank in each of two exchanges.
    """
    return max(max(0.0, of["handling_wall"] - of["handling_cpu"]) for of in workers)
