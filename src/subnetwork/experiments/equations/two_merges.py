"""(2), (4): the merge of Algorithm 1 and the update form, one method or two."""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments import runs
from subnetwork.experiments.equations.points import points, zero
from subnetwork.experiments.evidence import Evidence, run_seeds
from subnetwork.experiments.outcome import Outcome
from subnetwork.shapes import Curve
from subnetwork.theory import variants
from subnetwork.theory.curves import along, expected
from subnetwork.theory.problems import trig
from subnetwork.theory.simulation import Form, Simulation, simulate
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.work import GradientSteps

FORMS: tuple[tuple[Form, str], ...] = (("update", "(2)"), ("merge", "(4)"))


def run(*, n_rounds: int = 30, n_seeds: int = 400, seed: int = 0) -> Evidence:
    """E f - f* of both forms, with the sketches (5) and (12) on trig(5, 5), from (1, ..., 1)."""
    problem, ks, rows = trig(5, 5), runs.marks(n_rounds), []
    exact: dict[tuple[str, str], Curve] = {}
    measure = problem.L_bar[None] / 2
    for name, sketch, gamma in (
        ("sketch (5)", Dealt(Perm(5), 5, "paper"), 0.1),
        ("sketch (12)", PreconditionedPerm1(problem), 0.5),
    ):
        work = GradientSteps(problem, gamma)
        for form, equation in FORMS:
            curve = expected(
                problem, variants.one_round(work, sketch, form), np.ones(5), step_size=1.0
            )
            exact[name, form] = along(measure, curve, n_rounds)[:, 0]
            gaps = simulate(
                Simulation(sketch, work, form),
                np.ones(5),
                measures=measure,
                seeds=run_seeds(seed, n_seeds),
                n_rounds=n_rounds,
            )[:, ks, 0]
            both = gaps.mean(axis=0).tolist(), exact[name, form][ks].tolist()
            rows += points(f"{name}, form {equation}", "k", ks, both[0], exact=both[1])
    config = {"figure": "curves", "measure": "f(xᵏ) − f*", "n_workers": 5, "dim": 5}
    config |= {"n_rounds": n_rounds, "n_seeds": n_seeds, "seed": seed}
    return Evidence("eq_4", config, rows, _outcomes(exact))


def _outcomes(exact: dict[tuple[str, str], Curve]) -> list[Outcome]:
    def apart(name: str) -> float:
        both = exact[name, "update"], exact[name, "merge"]
        return float(np.abs(both[0] - both[1]).max())

    claim = "E f(x^k) - f* is the same with (4) and (2), with the sketch"
    return [
        zero(f"{claim} (5)", "(2), (4)", apart("sketch (5)")),
        zero(f"{claim} (12)", "(4)", apart("sketch (12)")).with_correction(
            "(4) equals (2) if and only if mean_i C_i = I, which (12) lacks", True
        ),
    ]
