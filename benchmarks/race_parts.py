"""What a round of `race.py` is made of, from what its workers wrote down."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from subnetwork.runtime.measured import cores

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
    usual: float = math.nan  # the round in the middle of all passes; the others are the fastest's

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
    found: Run,
    spec: Mapping[str, Any],
    *,
    asleep: Run | None = None,
    limited: bool = True,
    usual: float = math.nan,
) -> Parts:
    """From what workers wrote down of a run; its first round is left out if it can be.

    Args:
        found: each worker's words.
        spec: of the row.
        asleep: the run again, with workers that slept in place of computing.
        limited: whether the link has a rate.
        usual: seconds of a round in the middle of all runs.
    """
    of_round = rounds(found)

    def middle(name: str, of: Any) -> float:  # noqa: ANN401 - max, or a mean
        return median(of([row[name] for row in workers]) for workers in of_round)

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    wall = median(workers[0]["wall"] for workers in of_round)
    handling = median(workers[0]["handling_wall"] for workers in of_round)
    compute, compute_cpu = middle("compute_wall", max), middle("compute_cpu", max)
    waiting = compute - middle("compute_wall", mean)
    if spec["method"].startswith("ddp"):  # its communication is inside its steps
        crowded = max(1.0, len(found) / cores())
        compute, waiting = min(wall, compute_cpu * crowded), 0.0
    busiest = median(
        max(max(row["received"], row["sent"]) for row in workers) for workers in of_round
    )
    exchange = max(0.0, wall - compute - handling)
    handling_cpu = median(workers[0]["handling_cpu"] for workers in of_round)
    slept = None if asleep is None else median(of[0]["wall"] - _behind(of) for of in rounds(asleep))
    process_cpu = middle("process_cpu", max)
    return Parts(
        *(wall, compute, handling, exchange, waiting, compute_cpu, handling_cpu),
        *(process_cpu, busiest, slept, limited, len(found) <= cores(), usual),
    )


def rounds(run: Run) -> list[tuple[Mapping[str, float], ...]]:
    """All workers' rows, round by round; the first one is left out if it can be."""
    return list(zip(*(of["rows"][1:] or of["rows"] for of in run), strict=True))


def fastest(runs: Sequence[Run]) -> Run:
    """The run whose rounds take the least: a machine that does something else only adds to them."""
    return min(runs, key=lambda run: median(workers[0]["wall"] for workers in rounds(run)))


def sleeps(run: Run) -> list[list[float]]:
    """Of each worker, what its local steps took a processor, round by round."""
    of_rounds = zip(*rounds(run), strict=True)
    return [[row["compute_cpu"] for row in of_worker] for of_worker in of_rounds]


def _behind(workers: Sequence[Mapping[str, float]]) -> float:
    """Seconds that a rank waited for a core to handle on, since all of them handle at once.

    The longest of all ranks': the others wait for what that one sends. Where it is another rank in
    each of a round's two exchanges, it is less than what was waited.
    """
    return max(max(0.0, of["handling_wall"] - of["handling_cpu"]) for of in workers)
