"""The shapes of the paper's two figures on quadratics, as they are recollected: no quotation.

Homogeneous, d = n = 50: a neighbourhood of the solution that no step size removes. Heterogeneous,
d = 1000, n = 10: a larger step is faster and ends higher. Gaussian data in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from subnetwork.deals import Hands, Perm
from subnetwork.experiments import evidence, runs
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, equal, verdict
from subnetwork.record import Row
from subnetwork.shapes import PerWorker, Vector
from subnetwork.theory.curves import along, expected_preconditioned
from subnetwork.theory.perm1 import h_17
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.simulation import Simulation, simulate
from subnetwork.theory.sketches import DiagonalPartition, PreconditionedPerm1, diagonal_cut
from subnetwork.theory.work import GradientSteps

RECOLLECTED = "shape recollected, not a quotation"


def gaussian_quadratics(n: int, d: int, seed: int, *, same: bool) -> tuple[Quadratics, Vector]:
    """L_i = B_i' B_i with B_i, b_i and x^0 standard Gaussian; one B and b for all where `same`."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((1 if same else n, d, d))
    b = rng.standard_normal((1 if same else n, d))
    L = B.transpose(0, 2, 1) @ B
    L = (L + L.transpose(0, 2, 1)) / 2
    if same:
        L, b = np.repeat(L, n, axis=0), np.repeat(b, n, axis=0)
    return Quadratics(L, b), rng.standard_normal(d)


def homogeneous(
    *,
    n_rounds: int = 60,
    seed: int = 0,
    dim: int = 50,
    step_sizes: Sequence[float] = (0.1, 0.5, 1.0),
) -> Evidence:
    """Take d = n: D^-1/2 L D^-1/2 (eq. 29) with preconditioned Perm-1; each run is deterministic.

    Args:
        n_rounds: K.
        seed: of B, b and x^0.
        dim: d and n.
        step_sizes: gamma, a curve each; in (0, 1].
    """
    raw, x0 = gaussian_quadratics(dim, dim, seed, same=True)
    s = 1 / np.sqrt(raw.diagonals)
    problem = Quadratics(raw.L * s[:, :, None] * s[:, None, :], raw.b * s)
    sketch = PreconditionedPerm1(problem)
    h, form = h_17(sketch), problem.L_bar / 2
    floor = float(h @ form @ h)
    rows: list[Row] = []
    outcomes: list[Outcome] = []
    for gamma in step_sizes:
        curve = f"γ = {gamma:g}"
        gaps = simulate(
            Simulation(sketch, GradientSteps(problem, gamma), "update"),
            x0,
            measures=form[None],
            seeds=[seed],
            n_rounds=n_rounds,
        )[0, :, 0]
        moments = expected_preconditioned(sketch, x0, step_size=gamma)
        exact = along(form[None], moments, max(n_rounds, int(40 / gamma)))[:, 0]
        rows += [
            {"curve": curve, "k": k, "measured": float(gaps[k]), "exact": float(exact[k])}
            for k in runs.marks(n_rounds)
        ]
        claim = f"With {curve} the error tends to |h|^2_L / 2, which no step size removes"
        outcomes.append(equal(claim, "(17)", float(exact[-1]), floor, tolerance=1e-6))
    return Evidence("homogeneous", _said(problem, x0, h, n_rounds, seed), rows, outcomes)


def _said(problem: Quadratics, x0: Vector, h: Vector, n_rounds: int, seed: int) -> dict[str, Any]:
    """The config of `homogeneous`: how far everything is from everything."""
    return {
        "figure": "curves",
        "note": RECOLLECTED,
        "measure": "f(xᵏ) − f*",
        **evidence.sizes(problem, n_rounds=n_rounds, seed=seed),
        "condition": float(np.linalg.cond(problem.L_bar)),
        "size_of_solution": float(np.linalg.norm(problem.minimiser)),
        "size_of_limit": float(np.linalg.norm(problem.minimiser - h)),
        "distance_at_start": float(np.linalg.norm(x0 - problem.minimiser)),
        "distance_of_limit": float(np.linalg.norm(h)),
        "floor": float(h @ problem.L_bar @ h) / 2,
        "floor_name": "exact bias",
    }


@dataclass(frozen=True, eq=False)
class _Preconditioned:
    """C_i = sqrt(n) D_i^-1/2 P_i: preconditioned Perm-q by diagonals (eq. 12 for any q)."""

    problem: Quadratics

    @property
    def deal(self) -> Perm:
        return Perm(self.problem.n_workers)

    @property
    def dim(self) -> int:
        return self.problem.dim

    @property
    def scales(self) -> PerWorker:
        return np.sqrt(self.problem.n_workers / self.problem.diagonals)

    def cut(self, hands: Hands, /) -> DiagonalPartition:
        return diagonal_cut(self.scales, hands)

    def sample(self, seed: int, k: int, /) -> DiagonalPartition:
        return self.cut(self.deal.hands(self.dim, seed=seed, k=k))


def heterogeneous(
    *,
    n_rounds: int = 200,
    n_seeds: int = 2,
    seed: int = 0,
    dim: int = 1000,
    n_workers: int = 10,
    step_sizes: Sequence[float] = (1.0, 0.5, 0.1),
) -> Evidence:
    """Take d = qn: relative functional error of preconditioned Perm-q, update form (2).

    Args:
        n_rounds: K.
        n_seeds: runs a step size.
        seed: of the problem and of these runs' seeds.
        dim: d.
        n_workers: n.
        step_sizes: gamma, a curve each.
    """
    problem, x0 = gaussian_quadratics(n_workers, dim, seed, same=False)
    sketch, start = _Preconditioned(problem), problem.gap(x0)
    floor = problem.gap(_limit(sketch)) / start
    rows: list[Row] = []
    ends: list[float] = []
    for gamma in step_sizes:
        gaps = simulate(
            Simulation(sketch, GradientSteps(problem, gamma), "update"),
            x0,
            measures=problem.L_bar[None] / 2,
            seeds=evidence.run_seeds(seed, n_seeds),
            n_rounds=n_rounds,
        )[:, :, 0]
        ks = runs.marks(n_rounds)
        rows += runs.rows_of(f"γ = {gamma:g}", ks, gaps[:, ks] / start)
        ends.append(float(gaps[:, -1].mean() / start))
    config = {
        "figure": "curves",
        "note": RECOLLECTED,
        "measure": "(f(xᵏ) − f*) / (f(x⁰) − f*)",
        **evidence.sizes(problem, n_rounds=n_rounds, n_seeds=n_seeds, seed=seed),
        "first": start,
        "floor": floor,
        "floor_name": "exact bias",
    }
    end = _ordered(step_sizes, ends, floor, n_rounds)
    return Evidence("heterogeneous", config, rows, [end])


def _ordered(
    step_sizes: Sequence[float], ends: Sequence[float], floor: float, n_rounds: int
) -> Outcome:
    ordered = list(np.argsort(step_sizes)) == list(np.argsort(ends))
    return Outcome(
        f"After {n_rounds} rounds a smaller step size has the smaller error, and all are "
        "above the exact bias floor",
        "",
        min(ends),
        floor,
        verdict(ordered and min(ends) >= floor),
        record="heterogeneous",
    )


def _limit(sketch: _Preconditioned) -> Vector:
    """x_inf = E[B]^-1 E[u], one worker's matrix at a time."""
    problem = sketch.problem
    n, d = problem.n_workers, problem.dim
    rho = (d / n - 1) / (d - 1)  # n divides d
    s, H = 1 / np.sqrt(problem.diagonals), np.zeros((d, d))
    for L_i, s_i in zip(problem.L, s, strict=True):
        H += L_i * s_i[:, None] * s_i * rho / n
    H[np.diag_indices(d)] = 1.0
    return np.asarray(np.linalg.solve(H, (s * problem.b).mean(axis=0) / np.sqrt(n)))
