"""Numbers sent until f - f* is small: do the exact modifications of IST send less than GD?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.record import Row
from subnetwork.theory.method_table import method_named
from subnetwork.theory.methods import course
from subnetwork.theory.problems import Quadratics, gaussian

NAME = "traffic"
GD = "gradient descent"
STEPS = (0.25, 0.5, 0.75, 1.0, 1.3, 1.6, 1.8, 1.9)  # in units of 1 / lambda_max(L_bar)


@dataclass(frozen=True)
class Contender:
    """A method and the options that are tried, beside every step size."""

    label: str
    method: str
    options: tuple[Mapping[str, Any], ...] = ({},)


def contenders(n: int) -> tuple[Contender, ...]:
    """The rows of the table for n workers."""
    return (
        Contender(GD, "gd"),
        Contender("anchored (M2)", "anchored", tuple({"period": T} for T in (n, 2 * n, 4 * n))),
        Contender("stale copy + SAG (M3)", "stale_sag"),
        Contender("stale copy + SAGA (M3)", "stale_saga"),
    )


def run(
    *,
    workers: Sequence[int] = (2, 4, 8, 16, 32),
    dim: int = 32,
    target: float = 1e-8,
    most: int = 2000,
    seed: int = 0,
) -> Evidence:
    """The least traffic of a grid of step sizes (and periods), one seed, on gaussian(n, d).

    Args:
        workers: the n.
        dim: d.
        target: of f - f*, where a run ends.
        most: IST rounds after which a run is given up. One sends d numbers down and d up; a step
            of gradient descent sends as much as n of them.
        seed: of the problem and the draws.
    """
    rows: list[Row] = []
    for n in workers:
        problem = gaussian(n, dim, seed=seed)
        unit = 1 / float(np.linalg.eigvalsh(problem.L_bar)[-1])
        for c in contenders(n):
            best: float = most
            for options in c.options:
                for factor in STEPS:
                    said = {"step_size": factor * unit, **options}
                    best = min(best, _spent(problem, c.method, said, target, best, seed))
            rows.append({"curve": c.label, "n": n, "measured": best if best < most else None})
    config = {
        "figure": "curves",
        "x": "n",
        "x_label": f"workers n, d = {dim}",
        "x_scale": "log",
        "measure": f"numbers sent until f − f* ≤ {target:g}, in rounds of IST (2d numbers)",
        "dim": dim,
        "steps": STEPS,
        "most": most,
        "seed": seed,
    }
    return Evidence(NAME, config, rows, _outcomes(rows, most))


def _spent(
    problem: Quadratics,
    name: str,
    options: Mapping[str, Any],
    target: float,
    most: float,
    seed: int,
) -> float:
    """Numbers sent until f - f* <= target, in IST rounds; infinite where it is not below `most`."""
    x0, unit = np.ones(problem.dim), 2 * problem.dim
    method, start = method_named(name, problem, x0, **options), problem.gap(x0)
    with np.errstate(over="ignore", invalid="ignore"):
        for point in course(method, seed=seed, n_rounds=int(most)):
            gap = problem.gap(method.model(point.state))
            spent = (point.spent.down + point.spent.up) / unit
            if gap <= target and spent < most:
                return spent
            if spent >= most or not gap < 1e3 * start:
                break
    return float("inf")


def _outcomes(rows: Sequence[Row], most: int) -> list[Outcome]:
    """Every method against gradient descent; one that did not arrive sent `most` or more."""
    sent = {(row["curve"], row["n"]): float(row["measured"] or most) for row in rows}
    found, workers = [], [n for curve, n in sent if curve == GD]
    for label in dict.fromkeys(curve for curve, _ in sent if curve != GD):
        ratios = [sent[label, n] / sent[GD, n] for n in workers]
        found.append(
            Outcome(
                f"{label} sends less than gradient descent in total, at every n: largest ratio",
                "",
                max(ratios),
                1.0,
                verdict(max(ratios) < 1),
                record=NAME,
            ).with_correction(
                f"{ratios[0]:.2g} times as much at n = {workers[0]}, {ratios[-1]:.2g} times at n = "
                f"{workers[-1]}: a round's messages are 1/n of those of gradient descent, the "
                "total is not",
                ratios[-1] >= 1,
            )
        )
    return found
