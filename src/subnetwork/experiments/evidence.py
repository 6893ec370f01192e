"""Both sides of a theorem along a run: many seeds, the exact expectation, and the bound."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.keys import key
from subnetwork.record import Row, writing
from subnetwork.shapes import Curve, Floats, Matrix
from subnetwork.theory.curves import Moments, along
from subnetwork.theory.problem import Problem
from subnetwork.theory.simulation import Simulation, simulate

STANDARD_ERRORS = 4.5  # a false alarm in 10^5 for one number


@dataclass(frozen=True)
class Evidence:
    """What an experiment found: one row a horizon K (key "k"), and its verdicts."""

    name: str
    config: Mapping[str, Any]  # everything that the rows depend on, and how to label them
    rows: Sequence[Row]
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, eq=False)
class Sides:
    """The left side at horizons K: over seeds, and exactly.

    Attributes:
        horizons: K.
        runs: (1/K) sum_{k<K} of the measure, one row a seed, one column a horizon.
        exact: its expectation.
        drop: f(x^0) - E f(x^K), exactly.
    """

    horizons: Sequence[int]
    runs: Floats
    exact: Curve
    drop: Curve

    @property
    def measured(self) -> Curve:
        """Mean over seeds."""
        return np.asarray(self.runs.mean(axis=0))

    @property
    def z(self) -> Curve:
        """(measured - exact) in standard errors; 0 where all seeds agree to rounding."""
        error = self.runs.std(axis=0, ddof=1) / np.sqrt(len(self.runs))
        gap = self.measured - self.exact
        agrees = np.abs(gap) <= 1e-9 * np.abs(self.exact)
        return np.asarray(np.divide(gap, error, out=np.zeros_like(gap), where=~agrees))


def both_ways(
    simulation: Simulation,
    form: Matrix,
    curve: Iterator[Moments],
    *,
    n_rounds: int,
    seeds: Sequence[int],
    n_threads: int,
) -> Sides:
    """Simulate from x^0 = (1, ..., 1) and take the expectation of the same from `curve`.

    Args:
        simulation: what to run.
        form: Q of the theorem, whose left side averages (x - x*)' Q (x - x*).
        curve: the exact moments of the same run.
        n_rounds: the largest horizon K.
        seeds: one run each.
        n_threads: threads that share the seeds.
    """
    measures = np.stack([form, simulation.problem.L_bar / 2])
    left = simulate(
        simulation,
        np.ones(simulation.problem.dim),
        measures=measures,
        seeds=seeds,
        n_rounds=n_rounds,
        n_threads=n_threads,
    )[:, :-1, 0]
    exact, gap = along(measures, curve, n_rounds).T
    horizons = log_spaced(n_rounds)
    at = np.array(horizons)
    return Sides(
        horizons,
        runs=np.cumsum(left, axis=1)[:, at - 1] / at,
        exact=np.cumsum(exact[:-1])[at - 1] / at,
        drop=gap[0] - gap[at],
    )


def rows(sides: Sides, **bounds: Sequence[float | None]) -> list[Row]:
    """One row a horizon: k, measured, low and high (5 and 95 % of seeds), exact, and `bounds`."""
    low, high = np.quantile(sides.runs, [0.05, 0.95], axis=0)
    columns: Mapping[str, Sequence[Any]] = {
        "k": sides.horizons,
        "measured": sides.measured.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "exact": sides.exact.tolist(),
        **bounds,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def agreement(sides: Sides, equation: str, record: str) -> Outcome:
    """Whether the measured mean is within `STANDARD_ERRORS` of the exact one at every K."""
    worst = float(np.abs(sides.z).max())
    return Outcome(
        f"The mean over {len(sides.runs)} seeds is within {STANDARD_ERRORS} standard errors of the "
        "exact expectation at every K",
        equation,
        worst,
        STANDARD_ERRORS,
        verdict(worst <= STANDARD_ERRORS),
        unit="standard errors",
        record=record,
    )


def below(sides: Sides, bounds: Sequence[float | None], equation: str, record: str) -> Outcome:
    """Whether the exact left side is at most the right side at every K; shows the last ones.

    Silent where a bound is missing, as then the theorem's assumptions do not hold.
    """
    claim = (
        f"The left side of {equation} is at most the right side at every K up to "
        f"{sides.horizons[-1]}"
    )
    last, spoken = float(sides.measured[-1]), [bound for bound in bounds if bound is not None]
    if len(spoken) < len(bounds):
        return Outcome(claim, equation, last, None, "silent", record=record)
    ok = bool((sides.exact <= np.array(spoken) * (1 + 1e-9)).all())
    return Outcome(claim, equation, last, spoken[-1], verdict(ok), record=record)


def log_spaced(n_rounds: int, n_points: int = 80) -> list[int]:
    """Whole numbers from 1 to `n_rounds`, evenly spread on a logarithmic axis.

    >>> log_spaced(10, 4)
    [1, 2, 5, 10]
    """
    return sorted({round(k) for k in np.geomspace(1, n_rounds, n_points).tolist()})


def sizes(problem: Problem, **counts: int) -> dict[str, int]:
    """What a record says of the size of an experiment: n, d, and its rounds and seeds."""
    return {"n_workers": problem.n_workers, "dim": problem.dim, **counts}


def run_seeds(seed: int, n_seeds: int) -> list[int]:
    """The seeds of the single runs: more of them leave the first ones as they are."""
    return [key(seed, run) for run in range(n_seeds)]


def require_progress(step_size: float, largest: float) -> None:
    """Raise ValueError for steps so small that f(x^0) - f(x^K) is lost in rounding."""
    if 0 < step_size < 1e-9 * largest:
        raise ValueError(
            f"step_size={step_size:.3g} moves x by less than double precision can tell apart in "
            f"f(x^0) - f(x^K). Use step_size={1e-9 * largest:.2g} or more."
        )


def require_runs(n_rounds: int, n_seeds: int) -> None:
    """Raise ValueError unless there is a round to run and a spread to measure."""
    if n_rounds < 1 or n_seeds < 2:
        raise ValueError(
            f"n_rounds={n_rounds} and n_seeds={n_seeds} measure nothing: a mean over rounds wants "
            "n_rounds >= 1, and its standard error wants n_seeds >= 2."
        )


def write(folder: Path, evidence: Evidence) -> Path:
    """Write the record NAME.jsonl of an experiment in `folder`; returns its path."""
    path = folder / f"{evidence.name}.jsonl"
    with writing(path, kind="lab", name=evidence.name, config=evidence.config) as add:
        for row in evidence.rows:
            add(row)
    return path
