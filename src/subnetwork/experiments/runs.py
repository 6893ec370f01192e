"""Methods run side by side over seeds: one row a curve and a round, with what was spent so far."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from subnetwork.record import Row
from subnetwork.shapes import Floats, Vector
from subnetwork.theory.methods import Method, Point, course

Measure = Callable[[Vector], float]


def marks(n_rounds: int, *, a_decade: int = 24) -> list[int]:
    """Rounds at which runs are measured: 0, then evenly on a logarithmic axis, then `n_rounds`.

    The marks of a longer run are those of a shorter one, less its last, and new ones.

    >>> marks(12, a_decade=4)
    [0, 1, 2, 3, 6, 10, 12]
    """
    powers = {round(10 ** (j / a_decade)) for j in range(9 * a_decade)}
    return [0, *sorted(k for k in powers if k < n_rounds), *([n_rounds] if n_rounds else [])]


def measured(
    method: Method[Any], measure: Measure, *, seed: int, n_rounds: int
) -> Iterator[tuple[Point[Any], float]]:
    """A run of a method at its `marks`, with the measure of its model."""
    at = frozenset(marks(n_rounds))
    for point in course(method, seed=seed, n_rounds=n_rounds):
        if point.k in at:
            yield point, measure(method.model(point.state))


def over_seeds(
    curve: str, method: Method[Any], measure: Measure, *, seeds: Sequence[int], n_rounds: int
) -> list[Row]:
    """One row a mark: the mean of the measure, 5 and 95 % of the seeds, and what a run has cost.

    A run whose measure stops being finite has diverged: rows end where the first one does.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        runs = [list(measured(method, measure, seed=s, n_rounds=n_rounds)) for s in seeds]
    values = np.array([[value for _, value in run] for run in runs])
    spent = [point.spent for point, _ in runs[0]]
    costs = {
        "bits_down": [cost.bits_down for cost in spent],
        "bits_up": [cost.bits_up for cost in spent],
        "work": [cost.work for cost in spent],
    }
    finite = np.isfinite(values).all(axis=0) & (values < 1e30).all(axis=0)
    end = len(finite) if finite.all() else int(finite.argmin())
    ks = [point.k for point, _ in runs[0]]
    return rows_of(curve, ks[:end], values[:, :end], costs)


def rows_of(
    curve: str,
    ks: Sequence[int],
    runs: Floats,
    more: Mapping[str, Sequence[float | int | None]] | None = None,
) -> list[Row]:
    """Rows of one curve from `runs`, one row a seed and one column a k; `more` columns as given."""
    low, high = np.quantile(runs, [0.05, 0.95], axis=0)
    columns: Mapping[str, Sequence[Any]] = {
        "k": ks,
        "measured": runs.mean(axis=0).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        **{key: column[: len(ks)] for key, column in (more or {}).items()},
    }
    table = zip(*columns.values(), strict=True)
    return [{"curve": curve, **dict(zip(columns, row, strict=True))} for row in table]


def last(rows: Sequence[Row], curve: str) -> float:
    """The measured value at the end of a curve."""
    return float([row["measured"] for row in rows if row["curve"] == curve][-1])
