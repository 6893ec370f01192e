"""What the table of methods says, computed from the records' running totals."""

from collections.abc import Sequence
from dataclasses import dataclass

from subnetwork.figures.courses import Course
from subnetwork.record import Record

REFERENCES = ("local_sgd", "synchronous_sgd")


@dataclass(frozen=True)
class Result:
    """One row of the table: totals at the end of one training; `ratios` by reference method.

    A ratio is None where either run was cut off, where the two workers' local steps differ, or
    where the reference is missing: a payload is compared at equal work only.
    """

    name: str
    label: str
    color: str
    complete: bool
    accuracy: float | None  # of the last row that was tested
    tested: float  # its steps
    steps: float
    samples: float
    down: float
    up: float
    payload: float  # both, each byte once
    seconds: float
    ratios: dict[str, float | None]


@dataclass(frozen=True)
class Spent:
    """Where the seconds of one training went: of the workers on average, then of the rest."""

    name: str
    compute: float  # local steps
    exchange: float  # packing, sending, receiving
    wait: float  # for other workers
    merge: float  # dealing, cutting, merging
    test: float


def spent(records: Sequence[Record]) -> list[Spent]:
    """One a record that holds seconds by worker, in the same order."""
    return [
        Spent(
            record.name,
            *(_of_workers(record, f"{part}_seconds") for part in ("compute", "exchange", "wait")),
            *(_of_all(record, f"{part}_seconds") for part in ("merge", "test")),
        )
        for record in records
        if record.rows and all("compute_seconds" in row for row in record.rows)
    ]


def _of_workers(record: Record, key: str) -> float:
    return sum((sum(column) / len(column) for column in record.column(key) if column), 0.0)


def _of_all(record: Record, key: str) -> float:
    return float(sum(seconds or 0.0 for seconds in record.column(key)))


def results(courses: Sequence[Course]) -> list[Result]:
    """One result a course, in the same order."""
    by_name = {course.name: course for course in courses}
    return [
        Result(
            name=course.name,
            label=course.label,
            color=course.color,
            complete=course.complete,
            accuracy=course.final_accuracy,
            tested=course.tested_steps,
            steps=course.steps[-1],
            samples=course.samples[-1],
            down=course.down[-1],
            up=course.up[-1],
            payload=course.payload[-1],
            seconds=course.seconds[-1],
            ratios={name: _ratio(course, by_name.get(name)) for name in REFERENCES},
        )
        for course in courses
    ]


def _ratio(course: Course, reference: Course | None) -> float | None:
    if reference is None or not (course.complete and reference.complete):
        return None
    if course.steps[-1] != reference.steps[-1] or not reference.payload[-1]:
        return None
    return course.payload[-1] / reference.payload[-1]
