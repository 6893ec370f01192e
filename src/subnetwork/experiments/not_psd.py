"""W-bar not psd on real data: theorem (22)-(24) is silent there, and what the method does."""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments import evidence, runs
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.record import Row
from subnetwork.theory.curves import along, expected, expected_perm1
from subnetwork.theory.data import breast_cancer_table
from subnetwork.theory.estimator import estimator
from subnetwork.theory.factored import least_squares
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.simulation import Simulation, simulate
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.theorem_a import theorem_a
from subnetwork.theory.theorems import stationary_points
from subnetwork.theory.work import GradientSteps

NAME = "not_psd"
CLAIM = "(22): W-bar is psd, so that theorem (22)-(24) speaks"


def run(
    problem: Quadratics | None = None,
    *,
    n_rounds: int = 600,
    n_seeds: int = 20,
    seed: int = 0,
    n_threads: int = 1,
) -> Evidence:
    """Run Perm-q with b_i = 0 at gamma = 1/theta_I of the Euclidean theorem A.

    Theorem A (ours): with H = E[B] > 0 and E[B'B] <= theta_I H, for gamma <= 1/theta_I,
    E|x^k|^2 <= (1 - gamma lambda_min(H))^k |x^0|^2, whether W-bar is psd or not.

    Args:
        problem: quadratics; their b_i are set to zero. breast_cancer, its columns scaled to [0, 1],
            over 10 workers without ridge where None. (Standardised columns make W-bar psd there.)
        n_rounds: K.
        n_seeds: runs.
        seed: the seed of these runs' seeds.
        n_threads: threads that share the seeds; changes no number.
    """
    evidence.require_runs(n_rounds, n_seeds)
    problem = (_scaled_breast_cancer() if problem is None else problem).minimised_at_zero()
    n, d = problem.n_workers, problem.dim
    sketch = Dealt(Perm(n), d, "paper")
    spectrum = np.linalg.eigvalsh(stationary_points(problem, sketch).W).tolist()
    theorem = theorem_a(estimator(problem, sketch))
    gamma = theorem.largest_step
    ks = runs.marks(n_rounds)
    squares = simulate(
        Simulation(sketch, GradientSteps(problem, gamma), "update"),
        np.ones(d),
        measures=np.eye(d)[None],
        seeds=evidence.run_seeds(seed, n_seeds),
        n_rounds=n_rounds,
        n_threads=n_threads,
    )[:, ks, 0]
    columns = {"bound": [theorem.bound(float(d), gamma, k) for k in ks]}
    if n == d or d <= 40:
        columns["exact"] = _exact(problem, gamma, ks)
    rows = runs.rows_of("Perm-q", ks, squares, columns)
    config = {
        "figure": "curves",
        "measure": "‖xᵏ‖², b = 0",
        "bound_name": "theorem A",
        "sketch": f"Perm-{d / n:g}",
        **evidence.sizes(problem, n_rounds=n_rounds, n_seeds=n_seeds, seed=seed),
        "step_size": gamma,
        "lowest_of_W": spectrum[0],
        "largest_of_W": spectrum[-1],
    }
    return Evidence(NAME, config, rows, [_psd(spectrum), _below(rows)])


def _scaled_breast_cancer() -> Quadratics:
    """Least squares on columns scaled to [0, 1]; what LIBSVM's scaled sets look like."""
    table = breast_cancer_table()
    low, high = (np.asarray(getattr(table.features, f)(axis=0)) for f in ("min", "max"))
    A = (np.asarray(table.features) - low) / (high - low)
    return least_squares(A, table.targets, n_workers=10)


def _psd(spectrum: list[float]) -> Outcome:
    """The assumption (22): silent where it fails, as the theorem is no statement then."""
    ratio, silent = spectrum[0] / spectrum[-1], spectrum[0] < 0
    return Outcome(CLAIM, "(22)", ratio, 0.0, "silent" if silent else "holds", record=NAME)


def _below(rows: list[Row]) -> Outcome:
    """Theorem A at every round, on the exact expectation where there is one."""
    followed = [row.get("exact", row["measured"]) for row in rows]
    bounds = [row["bound"] for row in rows]
    return Outcome(
        "Theorem A holds where (22) fails: E|x|^2 is below (1 - gamma lambda_min(H))^k |x^0|^2",
        "theorem A",
        float(followed[-1]),
        bounds[-1],
        verdict(all(x <= b * (1 + 1e-9) for x, b in zip(followed, bounds, strict=True))),
        record=NAME,
    )


def _exact(problem: Quadratics, gamma: float, ks: list[int]) -> list[float]:
    """E|x^k|^2 at the marks."""
    d = problem.dim
    e = estimator(problem, Dealt(Perm(problem.n_workers), d, "paper"))
    curve = expected_perm1 if problem.n_workers == d else expected
    moments = curve(problem, e, np.ones(d), step_size=gamma)
    return [float(v) for v in along(np.eye(d)[None], moments, ks[-1])[ks, 0]]
