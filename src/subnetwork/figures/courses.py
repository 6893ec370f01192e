"""Courses: what a training record says, as running totals that figures and tables share."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from typing import Any

from subnetwork.figures import style
from subnetwork.record import Record

ORDER = tuple(style.LABELS)  # IST first, then what it is compared with


@dataclass(frozen=True)
class Course:
    """The course of one training: a value a row, totals counted from the start.

    `down` and `up` are payload bytes over all workers: no message headers. `accuracy` is None in
    rows that were not evaluated.
    """

    name: str
    color: str
    steps: tuple[float, ...]  # local steps of a worker
    samples: tuple[float, ...]
    accuracy: tuple[float | None, ...]
    down: tuple[float, ...]
    up: tuple[float, ...]
    payload: tuple[float, ...]  # down and up; where ranks hand over directly, each byte once
    seconds: tuple[float, ...]
    complete: bool

    @property
    def label(self) -> str:
        """The method's name on paper."""
        return style.label(self.name)

    @property
    def final_accuracy(self) -> float | None:
        """The last accuracy that was measured, in [0, 1]; None where there is none."""
        return next((value for value in reversed(self.accuracy) if value is not None), None)

    @property
    def tested_steps(self) -> float:
        """Local steps of a worker at the last accuracy; 0 where there is none."""
        pairs = zip(self.steps, self.accuracy, strict=True)
        return max((steps for steps, value in pairs if value is not None), default=0.0)


def courses(records: Iterable[Record]) -> list[Course]:
    """The courses of all training records that have rows, IST first, others last and by name."""
    training = [r for r in records if r.header["kind"] == "train" and r.rows]
    training.sort(key=lambda r: (ORDER.index(r.name) if r.name in ORDER else len(ORDER), r.name))
    colors = style.colors([r.name for r in training])
    return [_course(record, colors[record.name]) for record in training]


def number(value: Any) -> float | None:  # noqa: ANN401 - any JSON value
    """The value as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if isfinite(value) else None


def _course(record: Record, color: str) -> Course:
    def totals(key: str) -> tuple[float, ...]:
        return tuple(accumulate(float(sum(bytes_ or ())) for bytes_ in record.column(key)))

    def column(key: str) -> tuple[float, ...]:
        return tuple(number(value) or 0.0 for value in record.column(key))

    down, up = totals("bytes_down"), totals("bytes_up")
    both = (a + b for a, b in zip(down, up, strict=True))
    handed_over = record.header.get("config", {}).get("where") == "ranks"
    return Course(
        name=record.name,
        color=color,
        steps=column("steps"),
        samples=column("samples"),
        accuracy=tuple(map(number, record.column("accuracy"))),
        down=down,
        up=up,
        payload=up if handed_over else tuple(both),
        seconds=column("seconds"),
        complete=record.end == "done",
    )
