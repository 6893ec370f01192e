"""What a round of `race.py` is made of, from what its workers wrote down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from subnetwork.runtime.measured import cores


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
    exchange_least: float  # in the round that was disturbed least: what the link takes
    process_cpu: float  # processor time of the busiest worker, all its threads, sockets included
    wire: float  # bytes through the busiest interface, in its busier direction
    limited: bool = True  # whether the link has a rate
    alone: bool = False  # whether every worker has a core here too

    @property
    def replay(self) -> float:
        """The round with one core for each worker, put together from its parts.

        Over a link without a limit nothing but processors takes time, and workers that share cores
        have none to spare to measure an exchange by: all that a worker's threads did counts. Where
        they share none, it is the round.
        """
        if self.alone:
            return self.wall
        if not self.limited:
            return self.process_cpu
        return self.compute_cpu + self.handling_cpu + self.exchange_least


def parts(
    runs: Sequence[Sequence[Mapping[str, Any]]], spec: Mapping[str, Any], *, limited: bool = True
) -> Parts:
    """From what workers wrote down of one run or several; first rounds are left out if they can.

    Args:
        runs: of each run, each worker's words.
        spec: of the row.
        limited: whether the link has a rate.
    """
    of_round: list[tuple[Mapping[str, Any], ...]] = []
    for run in runs:
        of_round += zip(*(of["rows"][1:] or of["rows"] for of in run), strict=True)
    found = runs[0]

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
    least = exchange
    if not spec["method"].startswith("ddp"):
        least = max(0.0, min(map(_outside, of_round)))
    process_cpu = middle("process_cpu", max)
    return Parts(
        *(wall, compute, handling, exchange, waiting, compute_cpu, handling_cpu, least),
        *(process_cpu, busiest, limited, len(found) <= cores()),
    )


def _outside(workers: Sequence[Mapping[str, float]]) -> float:
    """Seconds of a round in which the worker that was there last neither trained nor handled."""
    return min(row["wall"] - row["compute_wall"] - row["handling_wall"] for row in workers)
