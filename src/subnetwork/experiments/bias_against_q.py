"""The bias against the share q, exactly: n workers of d/n coordinates each, the same f always."""

import numpy as np

from subnetwork.deals import Perm, RandQ
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import equal
from subnetwork.record import Row
from subnetwork.shapes import Vector
from subnetwork.theory.curves import fixed_point
from subnetwork.theory.estimator import estimator
from subnetwork.theory.problems import Quadratics, gaussian
from subnetwork.theory.sketches import Dealt

NAME = "bias_against_q"
ROUNDING = 1e-20  # of f(0) - f*: a bias below it is 0


def run(problem: Quadratics | None = None) -> Evidence:
    """Where E x^k tends to, for every n that divides the number of workers; no Monte Carlo.

    Args:
        problem: quadratics, whose workers are grouped; gaussian(48, 48) where None.

    Returns:
        (f(x_inf) - f*) / (f(0) - f*) of IST, Perm-q and independent Rand-q against q, and whether
        x_inf - x* = (1 - rho) H^-1 O x* with O the off-diagonal part of L_bar.
    """
    whole = gaussian(48, 48) if problem is None else problem
    d, x_star = whole.dim, whole.minimiser
    start = whole.gap(np.zeros(d))
    rows: list[Row] = []
    off: list[float] = []
    apart: list[float] = []
    for n in (n for n in range(whole.n_workers, 0, -1) if whole.n_workers % n == 0 and n <= d):
        grouped = _grouped(whole, n)
        ist, perm, rand_q = (
            fixed_point(estimator(grouped, sketch))
            for sketch in (
                Dealt(Perm(n), d, "as trained"),
                Dealt(Perm(n), d, "paper"),
                Dealt(RandQ(n, max(1, d // n)), d, "paper"),
            )
        )
        for curve, x_inf in (("IST, mask P", ist), ("Perm-q and Rand-q, C = nP", perm)):
            gap = whole.gap(x_inf) / start
            rows.append({"curve": curve, "q": d / n, "measured": gap if gap > ROUNDING else 0.0})
        off.append(float(np.abs(ist - x_star - _formula(grouped, x_star)).max()))
        apart.append(float(np.abs(perm - rand_q).max()))
    outcomes = [
        equal("x_inf - x* = (1 - rho) H^-1 O x* for IST at every q: the gap", "", max(off), 0.0),
        equal("Perm-q and independent Rand-q have the same x_inf: the gap", "", max(apart), 0.0),
    ]
    config = {
        "figure": "curves",
        "x": "q",
        "x_label": "coordinates of a worker, q = d/n",
        "measure": "(f(x∞) − f*) / (f(0) − f*), exact",
        "dim": d,
    }
    return Evidence(NAME, config, rows, outcomes)


def _grouped(problem: Quadratics, n: int) -> Quadratics:
    """Merge to n workers, each the mean of a group of the problem's: f stays as it is."""
    d = problem.dim
    L = problem.L.reshape(n, -1, d, d).mean(axis=1)
    return Quadratics(L, problem.b.reshape(n, -1, d).mean(axis=1))


def _formula(problem: Quadratics, x_star: Vector) -> Vector:
    """(1 - rho) H^-1 O x*, H = (1 - rho) Diag(L_bar) + rho L_bar, for d = q n."""
    d, n = problem.dim, problem.n_workers
    rho = (d / n - 1) / (d - 1)
    D = np.diag(np.diag(problem.L_bar))
    H = (1 - rho) * D + rho * problem.L_bar
    return np.asarray(np.linalg.solve(H, (1 - rho) * (problem.L_bar - D) @ x_star))
