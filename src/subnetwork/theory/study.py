"""The researcher's one call: what is proven and what is exactly true of a sketch on a problem."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, factorial, prod
from typing import Any

import numpy as np

from subnetwork.algorithm import Sketch
from subnetwork.deals import Bernoulli, Full, Perm, RandQ
from subnetwork.shapes import Floats, Vector
from subnetwork.theory import variants
from subnetwork.theory.copies import Fixed
from subnetwork.theory.curves import along, expected, fixed_point
from subnetwork.theory.declared import DECLARED, AnySketch
from subnetwork.theory.draws import enumerated, sampled
from subnetwork.theory.enumeration import CutByHands, sizes_law
from subnetwork.theory.estimator import estimator
from subnetwork.theory.jacobi import Jacobi, Shifted
from subnetwork.theory.matrix_sketches import AnyLaw, BlockPreconditioned
from subnetwork.theory.merges import holders_form, update_form
from subnetwork.theory.moments import Linear
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import Dealt, LinearPartition, PreconditionedPerm1
from subnetwork.theory.stationary import stability_limit, stationary
from subnetwork.theory.verdicts import Verdict, verdicts
from subnetwork.theory.work import GradientSteps, require_step_size

LISTED = 3000  # so many draws of a sketch are listed; beyond, as many are sampled
LARGEST_DIM = 200  # exact second moments up to here; the bias at any dim


@dataclass(frozen=True, eq=False)
class Study:
    """What `study` found. `print(study(...))` is the table.

    Attributes:
        problem: the quadratics.
        linear: the exact (or sampled) moments of a round, at step size 1.
        name: of the sketch.
        step_size: gamma.
        verdicts: one a theorem: does it speak here, for which step sizes, what floor.
        stable_step: no gamma above it is stable in mean square; None where d is too large.
        x_inf: where E x^k tends to.
        bias: f(x_inf) - f*, which no step size removes.
        distance: |x_inf - x*| / |x*|; infinite where x* = 0 is not reached.
        floor: lim E f(x^k) - f* at this step size; None where that does not exist.
        notes: why something is missing, or how sure it is.
    """

    problem: Quadratics
    linear: Linear
    name: str
    step_size: float
    verdicts: Sequence[Verdict]
    stable_step: float | None
    x_inf: Vector
    bias: float
    distance: float
    floor: float | None
    notes: Sequence[str]

    def curve(self, x0: Vector, n_rounds: int) -> Floats:
        """E f(x^k) - f* and E|x^k - x*|^2 for k = 0..n_rounds; shape (n_rounds + 1, 2).

        Raises:
            ValueError: more coordinates than exact second moments are meant for.
        """
        if self.stable_step is None:
            raise ValueError(
                f"d={self.problem.dim} is above {LARGEST_DIM}, where a round of the exact curve "
                "takes seconds. Simulate, or use `curves.expected`, which takes any d."
            )
        measures = np.stack([self.problem.L_bar / 2, np.eye(self.problem.dim)])
        moments = expected(self.problem, self.linear, x0, step_size=self.step_size)
        return along(measures, moments, n_rounds)

    def __str__(self) -> str:
        facts = [
            ("sketch", self.name),
            ("workers n, coordinates d", f"{self.problem.n_workers}, {self.problem.dim}"),
            ("Hessian variance", _number(self.problem.hessian_variance)),
            ("step size", f"{self.step_size:.4g}"),
            ("largest stable step", _number(self.stable_step)),
            ("bias f(x_inf) - f*", _number(self.bias)),
            ("|x_inf - x*| / |x*|", _number(self.distance)),
            ("floor E f(x^k) - f*", _number(self.floor)),
        ]
        header = ("theorem", "verdict", "steps up to", "floor", "of")
        rows = [v.row(self.step_size) for v in self.verdicts]
        lines = [f"{name:<26}{value}" for name, value in facts]
        lines += ["", *_aligned([header, *rows])]
        silent = [f"{v.equations} is silent: {why}" for v in self.verdicts for why in v.silent]
        return "\n".join([*lines, *(["", *silent] if silent else []), *self.notes])


def study(
    problem: Quadratics, sketch: AnySketch | AnyLaw | str, *, step_size: float | None = None
) -> Study:
    """Ask everything that the lab knows of one sketch on one problem.

    Args:
        problem: quadratics with a definite L_bar.
        sketch: a sketch, or its name in `declared.DECLARED`.
        step_size: gamma; the largest that a speaking theorem allows, or half the stable one.

    Raises:
        ValueError: L_bar is singular, the sketch does not fit the problem, or the step size is not
            positive. Says which assumption it is and what to do.
    """
    x_star = problem.minimiser  # refuses a singular L_bar
    sketch = named(problem, sketch) if isinstance(sketch, str) else sketch
    linear, notes = linear_of(problem, sketch)
    exact = problem.dim <= LARGEST_DIM
    said = verdicts(problem, sketch, linear) if exact else []
    limit = stability_limit(linear) if exact else None
    if not exact:
        notes.append(
            f"d={problem.dim} is above {LARGEST_DIM}: no second moments, so no theorem, curve or "
            "floor. The bias is exact; simulate for the rest."
        )
    gamma = _step(said, limit, step_size)
    x_inf = fixed_point(linear)
    floor = None
    if limit is not None and gamma < limit:
        floor = stationary(problem, linear, step_size=gamma).of(problem.L_bar / 2)
    elif limit is not None:
        notes.append(f"No floor: E|x|^2 grows at step sizes of {limit:.4g} or more.")
    size, off = float(np.linalg.norm(x_star)), float(np.linalg.norm(x_inf - x_star))
    distance = off / size if size > 0 else (0.0 if off == 0 else float("inf"))
    name = type(sketch).__name__ if not isinstance(sketch, Dealt) else _dealt(sketch)
    bias = problem.gap(x_inf)
    return Study(
        problem, linear, name, gamma, said, limit, x_inf, bias, distance, floor, tuple(notes)
    )


def named(problem: Quadratics, name: str) -> AnySketch:
    """The declared sketch of that name; names the way out where there are too many workers."""
    if name not in DECLARED:
        raise ValueError(f"There is no sketch {name!r}. Known sketches: {', '.join(DECLARED)}.")
    n, d = problem.n_workers, problem.dim
    if n > d and name not in ("identity", "rand_q", "bernoulli", "copies"):
        r = max(n // d, 1)
        raise ValueError(
            f"The sketch {name!r} wants n <= d, but there are n={n} workers for d={d} coordinates. "
            f"Use 'copies' with n={r * d} workers, or {d} workers, or 'bernoulli' or 'rand_q'."
        )
    return DECLARED[name].build(problem)


def linear_of(problem: Quadratics, sketch: AnySketch | AnyLaw) -> tuple[Linear, list[str]]:
    """Moments of a round at step size 1: in closed form, from all draws, or from a sample."""
    try:
        if isinstance(sketch, Shifted):
            return variants.shifted(problem, sketch), []
        if isinstance(sketch, Dealt | PreconditionedPerm1 | Jacobi):
            return estimator(problem, sketch), []
    except ValueError as reason:
        if not isinstance(sketch, Dealt | Shifted):
            raise
        notes = [f"No closed form: {reason}"]
    else:
        notes = []
    work = GradientSteps(problem, 1.0)
    trained = isinstance(sketch, Dealt) and sketch.semantics == "as trained"
    merge = holders_form if trained else update_form
    if not isinstance(sketch, AnyLaw) and _count(sketch) <= LISTED:
        listed: CutByHands[LinearPartition] = sketch
        notes.append(f"Moments from all {_count(sketch)} draws.")
        return enumerated(listed, work, merge), notes
    law: Sketch[LinearPartition] = sketch
    found = sampled(law, work, merge, dim=problem.dim, n_draws=LISTED)
    error = float(found.standard_error(found.u).max() / max(float(np.abs(found.u).max()), 1e-300))
    return found, [*notes, f"Moments from {LISTED} draws, E u to {error:.1%} (standard error)."]


def _count(
    sketch: Dealt | BlockPreconditioned | Shifted[Any] | PreconditionedPerm1 | Jacobi,
) -> int:
    deal, d = sketch.deal, sketch.dim
    match deal:
        case Full() | Fixed():
            return 1
        case Perm():
            return sum(_splits(sizes) for _, sizes in sizes_law(deal, d))
        case RandQ():
            return int(comb(d, deal.q) ** deal.n_workers)
        case Bernoulli():
            return int(2 ** (d * deal.n_workers))
        case _:
            return LISTED + 1


def _splits(sizes: tuple[int, ...]) -> int:
    return factorial(sum(sizes)) // prod(map(factorial, sizes))


def _step(said: Sequence[Verdict], limit: float | None, step_size: float | None) -> float:
    if step_size is not None:
        require_step_size(step_size)
        return step_size
    allowed = [v.largest_step for v in said if v.largest_step is not None]
    if allowed:
        return max(allowed)
    return 1.0 if limit is None else limit / 2


def _dealt(sketch: Dealt) -> str:
    return f"{sketch.deal}, {'on paper' if sketch.semantics == 'paper' else 'as trained'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
