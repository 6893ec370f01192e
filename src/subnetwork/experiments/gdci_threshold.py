"""GD with compressed iterates: the omega that eq. (20) asks for, beside the largest that works."""

from collections.abc import Sequence

import numpy as np

from subnetwork.deals import Bernoulli
from subnetwork.experiments.evidence import STANDARD_ERRORS, Evidence, run_seeds
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.theory.compressed import gdci
from subnetwork.theory.methods import course
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import Dealt

NAME = "gdci_threshold"


def exact_threshold(kappa: float) -> float:
    """4 kappa / (kappa - 1)^2: E|x^k|^2 -> 0 on diagonal quadratics iff omega is below it.

    With x+ = (I - gamma L) C(x) a coordinate's second moment is multiplied by (1 + omega)
    (1 - gamma lambda)^2; the best gamma = 2 / (mu + L) gives (1 + omega) ((k - 1) / (k + 1))^2.
    """
    return 4 * kappa / (kappa - 1) ** 2


def run(*, n_seeds: int = 4000, seed: int = 0, kappas: Sequence[float] = (10.0, 100.0)) -> Evidence:
    """The threshold against the condition number kappa, and a check by draws on both sides of it.

    Args:
        n_seeds: single rounds drawn for each check.
        seed: the seed of these rounds' seeds.
        kappas: where draws check the growth factor of E|x|^2.

    Returns:
        omega of eq. (20), kappa^-2, and the exact threshold; a verdict for each check.
    """
    grid = np.geomspace(2, 10_000, 60).tolist()
    rows = [
        {"curve": curve, "kappa": kappa, "measured": value}
        for curve, values in (
            ("exact: 4κ/(κ−1)²", [exact_threshold(kappa) for kappa in grid]),
            ("eq. (20): κ⁻²", [kappa**-2 for kappa in grid]),
        )
        for kappa, value in zip(grid, values, strict=True)
    ]
    outcomes = [_drawn(kappa, side, n_seeds, seed) for kappa in kappas for side in (0.5, 2.0)]
    config = {
        "figure": "curves",
        "x_scale": "log",
        "x": "kappa",
        "x_label": "condition number κ",
        "measure": "largest ω = d/q − 1 with which GDCI converges",
        "n_seeds": n_seeds,
        "seed": seed,
    }
    return Evidence(NAME, config, rows, outcomes)


def _drawn(kappa: float, side: float, n_seeds: int, seed: int) -> Outcome:
    """E|x^1|^2 / |x^0|^2 by draws, at `side` times the threshold, from the slowest direction."""
    omega = side * exact_threshold(kappa)
    problem = Quadratics(np.diag([1.0, kappa])[None], np.zeros((1, 2)))
    one = Dealt(Bernoulli(1, 1 / (1 + omega)), 2, "paper")
    method = gdci(problem, np.array([1.0, 0.0]), step_size=2 / (1 + kappa), one=one)
    ends = [list(course(method, seed=s, n_rounds=1))[-1].state for s in run_seeds(seed, n_seeds)]
    squares = np.array([float(x @ x) for x in ends])
    error = float(squares.std(ddof=1) / np.sqrt(n_seeds))
    factor = (1 + omega) * ((kappa - 1) / (kappa + 1)) ** 2
    direction = "shrinks" if side < 1 else "grows"
    z = abs(float(squares.mean()) - factor) / error
    return Outcome(
        f"kappa = {kappa:g}, omega = {omega:.3g}, {omega * kappa**2:.3g} times (20): E|x|^2 "
        f"{direction} by {factor:.4g} a round",
        "(20)",
        float(squares.mean()),
        factor,
        verdict(z <= STANDARD_ERRORS and (factor < 1) == (side < 1)),
        record=NAME,
    )
