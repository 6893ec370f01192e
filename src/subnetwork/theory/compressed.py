"""Methods the paper compares itself with: each is a few lines handed to the one loop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from subnetwork.deals import Full, Perm, RandQ
from subnetwork.keys import key, words
from subnetwork.shapes import Floats, Vector
from subnetwork.theory.merges import holders_form, merge_form, update_form
from subnetwork.theory.methods import (
    Cost,
    Cut,
    Gradients,
    Method,
    Sending,
    block_cost,
    wide_cost,
)
from subnetwork.theory.problem import Problem
from subnetwork.theory.sketches import Dealt, DiagonalPartition, DiagonalSketch
from subnetwork.theory.stochastic import EXACT, Sampling, StochasticSteps
from subnetwork.theory.work import require_step_size


def itself(x: Vector) -> Vector:
    """The model of a method whose state is the model."""
    return x


def ist(
    problem: Problem,
    x0: Vector,
    *,
    step_size: float,
    n_steps: int = 1,
) -> Method[Vector]:
    """Independent subnetwork training as trained: masks P_i, a block goes back where it was."""
    sketch = Dealt(Perm(problem.n_workers), problem.dim, "as trained")
    work = StochasticSteps(problem, step_size, 0, n_steps)
    return Method("ist", x0, sketch, work, holders_form, itself, _steps_cost(n_steps))


def perm(
    problem: Problem, x0: Vector, *, step_size: float, n_steps: int = 1, readout: float = 1.0
) -> Method[Vector]:
    """Algorithm 1 with Perm-q on paper, C_i = n P_i (eq. 5), in the update form (2).

    `readout` times x is reported: with n it is IST in another variable (y = n x).
    """
    sketch = Dealt(Perm(problem.n_workers), problem.dim, "paper")
    work = StochasticSteps(problem, step_size, 0, n_steps)
    cost = _steps_cost(n_steps)
    return Method("perm", x0, sketch, work, update_form, lambda x: readout * x, cost)


def rand_q(
    problem: Problem, x0: Vector, *, step_size: float, q: int | None = None
) -> Method[Vector]:
    """Algorithm 1 with independent Rand-q sketches in the update form (2), q = d/n unless given."""
    sketch = Dealt(
        RandQ(problem.n_workers, q or problem.dim // problem.n_workers), problem.dim, "paper"
    )
    work = StochasticSteps(problem, step_size, 0)
    return Method("rand_q", x0, sketch, work, update_form, itself, block_cost)


def gd(problem: Problem, x0: Vector, *, step_size: float) -> Method[Vector]:
    """Gradient descent, C_i = I (eqs. 25-26)."""
    sketch = Dealt(Full(problem.n_workers), problem.dim, "paper")
    work = StochasticSteps(problem, step_size, 0)
    return Method("gd", x0, sketch, work, update_form, itself, block_cost)


def compressed_gd(
    problem: Problem, x0: Vector, *, step_size: float, sketch: DiagonalSketch | None = None
) -> Method[Vector]:
    """x+ = x - gamma mean_i C_i grad f_i(x): only the gradient is compressed, so E g = grad f.

    Everyone is sent all of x; the sketch is Perm-q on paper unless another is given.
    """
    require_step_size(step_size)
    n, d = problem.n_workers, problem.dim
    sending = Sending(sketch or Dealt(Perm(n), d, "paper"), _send_x)

    def merge(x: Vector, cut: Cut[Vector], returned: Sequence[Vector]) -> Vector:
        del cut
        return np.asarray(x - step_size * np.mean(returned, axis=0))

    def cost(cut: Cut[Vector]) -> Cost:
        return replace(wide_cost(cut.draw), down=n * d)

    return Method("compressed_gd", x0, sending, Gradients(problem), merge, itself, cost)


@dataclass(frozen=True, eq=False)
class Shared:
    """One C for all workers: what GD with compressed iterates is stated for."""

    one: DiagonalSketch
    n_workers: int

    def sample(self, seed: int, k: int, /) -> DiagonalPartition:
        """The C of round k, n times."""
        drawn, n = self.one.sample(seed, k), self.n_workers
        return DiagonalPartition(np.repeat(drawn.scale, n, axis=0), drawn.hands * n)


@dataclass(frozen=True, eq=False)
class Descents:
    """z_i = w_i - gamma grad f_i(w_i): the gradient is not sketched, unlike in line 6."""

    problem: Problem
    step_size: float
    xi: Sampling = EXACT

    def __call__(
        self, k: int, partition: DiagonalPartition, submodels: Sequence[Vector]
    ) -> list[Vector]:
        """The z_i, in the order of the workers."""
        del partition
        gradient = partial(self.xi.gradient, self.problem)
        return [w - self.step_size * gradient(i, w, k) for i, w in enumerate(submodels)]


def gdci(
    problem: Problem, x0: Vector, *, step_size: float, one: DiagonalSketch | None = None
) -> Method[Vector]:
    """GD with compressed iterates, x+ = C(x) - gamma grad f(C(x)) (Khaled & Richtarik 2019).

    `one` is the law of C, for one worker; Rand-q with q = d/2 unless another is given.
    """
    require_step_size(step_size)
    n, d = problem.n_workers, problem.dim
    sketch = Shared(one or Dealt(RandQ(1, max(1, d // 2)), d, "paper"), n)

    def cost(draw: DiagonalPartition) -> Cost:
        sent = sum(len(hand) for hand in draw.hands)
        return Cost(sent, n * d, sent * d)

    return Method("gdci", x0, sketch, Descents(problem, step_size), merge_form, itself, cost)


@dataclass(frozen=True, eq=False)
class Drifting:
    """The state of MARINA: x, the point before it, and the estimate g of grad f(x)."""

    x: Vector
    before: Vector
    g: Vector


@dataclass(frozen=True, eq=False)
class _Differences:
    """C_i (grad f_i(x) - grad f_i(before)); the whole gradient in a full round."""

    problem: Problem
    xi: Sampling = EXACT

    def __call__(self, k: int, cut: Cut[Any], points: Sequence[Floats]) -> list[Vector]:
        def gradient(worker: int, x: Vector) -> Vector:
            return self.xi.gradient(self.problem, worker, x, k)

        if cut.full:
            return [gradient(i, x) for i, (x, _) in enumerate(points)]
        pairs = enumerate(points)
        return [cut.draw.scale[i] * (gradient(i, x) - gradient(i, y)) for i, (x, y) in pairs]


def marina(
    problem: Problem, x0: Vector, *, step_size: float, p: float | None = None
) -> Method[Drifting]:
    """MARINA with PermK (Gorbunov et al. 2021; Szlendak et al. 2022).

    g is the full gradient with probability p (1/n unless given) and in round 0, otherwise the last
    g plus mean_i C_i (grad f_i(x) - grad f_i(before)); then x+ = x - gamma g.
    """
    require_step_size(step_size)
    n, d = problem.n_workers, problem.dim
    threshold = round((1 / n if p is None else p) * 2**32)

    def is_full(seed: int, k: int) -> bool:
        return k == 0 or next(words(key(seed, k, 1))) < threshold

    def send(state: Drifting, cut: Cut[Drifting], worker: int) -> Floats:
        del cut, worker
        return np.stack([state.x, state.before])

    def merge(state: Drifting, cut: Cut[Drifting], returned: Sequence[Vector]) -> Drifting:
        g = np.mean(returned, axis=0) + (0 if cut.full else state.g)
        return Drifting(state.x - step_size * g, state.x, g)

    def cost(cut: Cut[Drifting]) -> Cost:
        wide = replace(wide_cost(cut.draw), down=n * d)
        return wide if cut.full else replace(wide, work=2 * wide.work)

    return Method(
        "marina",
        Drifting(x0, x0, np.zeros(d)),
        Sending(Dealt(Perm(n), d, "paper"), send, is_full),
        _Differences(problem),
        merge,
        lambda state: state.x,
        cost,
    )


@dataclass(frozen=True, eq=False)
class Copied:
    """The state of MARINA-P: x, and row i: the model w_i that worker i has."""

    x: Vector
    copies: Floats


@dataclass(frozen=True, eq=False)
class _WholeGradients:
    """Worker i returns grad f_i(w_i), all of it."""

    problem: Problem
    xi: Sampling = EXACT

    def __call__(self, k: int, cut: Cut[Any], points: Sequence[Vector]) -> list[Vector]:
        del cut
        return [self.xi.gradient(self.problem, i, w, k) for i, w in enumerate(points)]


def marina_p(
    problem: Problem, x0: Vector, *, step_size: float, p: float | None = None
) -> Method[Copied]:
    """MARINA-P with PermK (Gruntkowska, Tyurin & Richtarik 2024): differences of models are sent.

    x+ = x - gamma mean_i grad f_i(w_i); then w_i+ = x+ with probability p (1/n unless given), the
    same coin for all, else w_i + C_i (x+ - x). The mean of the w_i stays x, so that workers with
    equal Hessians add no noise. Every worker returns a full gradient.
    """
    require_step_size(step_size)
    n, d = problem.n_workers, problem.dim
    threshold = round((1 / n if p is None else p) * 2**32)

    def is_full(seed: int, k: int) -> bool:
        return next(words(key(seed, k, 1))) < threshold

    def merge(state: Copied, cut: Cut[Copied], returned: Sequence[Vector]) -> Copied:
        x = state.x - step_size * np.mean(returned, axis=0)
        if cut.full:
            return Copied(x, np.tile(x, (n, 1)))
        return Copied(x, state.copies + cut.draw.scale * (x - state.x))

    def cost(cut: Cut[Copied]) -> Cost:
        return Cost(sum(len(hand) for hand in cut.draw.hands), n * d, n * d * d)

    return Method(
        "marina_p",
        Copied(x0, np.tile(x0, (n, 1))),
        Sending(Dealt(Perm(n), d, "paper"), lambda s, _, i: np.asarray(s.copies[i]), is_full),
        _WholeGradients(problem),
        merge,
        lambda state: state.x,
        cost,
    )


def mast(
    problem: Problem, x0: Vector, *, step_size: float, shift: Vector | None = None
) -> Method[Vector]:
    """Shifted IST (MAST, Demidovich et al. 2023): w_i = v + C_i (x - v), C_i = n P_i.

    x+ = x - gamma mean_i C_i grad f_i(w_i). `shift` is v, 0 unless given; v = x* has no bias.
    """
    require_step_size(step_size)
    n, d = problem.n_workers, problem.dim
    v = np.zeros(d) if shift is None else shift

    def send(x: Vector, cut: Cut[Vector], worker: int) -> Vector:
        return np.asarray(v + cut.draw.scale[worker] * (x - v))

    def merge(x: Vector, cut: Cut[Vector], returned: Sequence[Vector]) -> Vector:
        del cut
        return np.asarray(x - step_size * np.mean(returned, axis=0))

    sending = Sending(Dealt(Perm(n), d, "paper"), send)
    work = Gradients(problem)
    return Method("mast", x0, sending, work, merge, itself, lambda cut: wide_cost(cut.draw))


def _steps_cost(n_steps: int) -> Any:  # noqa: ANN401 - a cost of any partition
    return lambda draw: block_cost(draw, n_steps=n_steps)


def _send_x(x: Vector, cut: Cut[Vector], worker: int) -> Vector:
    del cut, worker
    return x
