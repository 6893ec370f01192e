"""Modifications of IST that remove its bias, for the one loop: anchors, stale copies, reweighting.

All work with the masks P_i as trained and one gradient a round. x* is a fixed point of each; which
of them get there linearly and which keep a noise floor is measured in `experiments.bias_removal`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from subnetwork.deals import Perm
from subnetwork.shapes import PerWorker, Vector
from subnetwork.theory.compressed import itself
from subnetwork.theory.estimator import occupancy
from subnetwork.theory.methods import (
    Cost,
    Cut,
    Gradients,
    Method,
    Sending,
    block_cost,
    gathered,
    wide_cost,
)
from subnetwork.theory.problem import Problem
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import Dealt, DiagonalPartition
from subnetwork.theory.stochastic import EXACT, Sampling
from subnetwork.theory.work import require_step_size

Rule: TypeAlias = Literal["plain", "sag", "saga"]
RULES: tuple[Rule, ...] = ("plain", "sag", "saga")


@dataclass(frozen=True, eq=False)
class Anchored:
    """The state of anchored IST: the model, the anchor v, and row i: grad f_i(v)."""

    x: Vector
    v: Vector
    gradients: PerWorker


def anchored(
    problem: Problem, x0: Vector, *, step_size: float, period: int = 0, eta: float = 1.0
) -> Method[Anchored]:
    """Anchored IST (M2): SVRG on submodels, MAST with a moving shift.

    Every `period` rounds (2n unless given) v <- v + eta (x - v), everyone is sent v, returns
    grad f_i(v), and x = v - gamma grad f(v). In between, w_i = v + P_i (x - v) and
    x+ = x - gamma (grad f(v) + sum_i P_i (grad f_i(w_i) - grad f_i(v))).

    Stable in the mean for gamma <= 1 / lambda_max(H) and eta lambda_max(H^-1 L_bar) < 2, H = E[B].
    """
    require_step_size(step_size)
    n, d = problem.n_workers, problem.dim
    every = period or 2 * n
    if every < 1 or eta <= 0:
        raise ValueError(
            f"An anchor moves every period={period} rounds by eta={eta}, but it has to move: use "
            "period >= 1 (0 means 2n) and eta > 0."
        )

    def moved(state: Anchored) -> Vector:
        return np.asarray(state.v + eta * (state.x - state.v))

    def send(state: Anchored, cut: Cut[Anchored], worker: int) -> Vector:
        if cut.full:
            return moved(state)
        return np.asarray(state.v + cut.draw.scale[worker] * (state.x - state.v))

    def merge(state: Anchored, cut: Cut[Anchored], returned: Sequence[Vector]) -> Anchored:
        if cut.full:
            v, gradients = moved(state), np.stack(returned)
            return Anchored(v - step_size * gradients.mean(axis=0), v, gradients)
        differences = np.stack(returned) - cut.draw.scale * state.gradients
        g = state.gradients.mean(axis=0) + gathered(cut.draw, list(differences))
        return replace(state, x=state.x - step_size * g)

    return Method(
        "anchored",
        Anchored(x0, x0, np.zeros((n, d))),
        Sending(Dealt(Perm(n), d, "as trained"), send, lambda _, k: k % every == 0),
        Gradients(problem),
        merge,
        lambda state: state.x,
        lambda cut: block_cost(cut.draw),
    )


@dataclass(frozen=True, eq=False)
class Stale:
    """The state of stale-copy methods: the model, row i: worker i's copy y_i, and the table.

    Entry (i, j) of the table is the last [grad f_i(y_i)]_j that worker i returned.
    """

    x: Vector
    copies: PerWorker
    table: PerWorker


def stale(problem: Problem, x0: Vector, *, step_size: float, rule: Rule = "sag") -> Method[Stale]:
    """Stale copies (M3): worker i overwrites y_i on S_i with x, returns [grad f_i(y_i)]_{S_i}.

    The server steps along sum_i P_i grad f_i(y_i) (rule "plain"), along the mean of its table
    ("sag"), or unbiasedly along sum_i P_i (new - old) + mean of the old table ("saga"). Round 0
    sends x^0 and fills the table in full.
    """
    require_step_size(step_size)
    if rule not in RULES:
        raise ValueError(f"There is no rule {rule!r} for a table. Known are: {', '.join(RULES)}.")
    n, d = problem.n_workers, problem.dim

    def send(state: Stale, cut: Cut[Stale], worker: int) -> Vector:
        return np.where(cut.draw.scale[worker] != 0, state.x, state.copies[worker])

    def merge(state: Stale, cut: Cut[Stale], returned: Sequence[Vector]) -> Stale:
        held, new = cut.draw.scale != 0, np.stack(returned)
        table = np.where(held, new, state.table)
        match rule:
            case "plain":
                g = gathered(cut.draw, returned)
            case "sag":
                g = table.mean(axis=0)
            case "saga":
                g = gathered(cut.draw, list(table - state.table)) + state.table.mean(axis=0)
        return Stale(state.x - step_size * g, np.where(held, state.x, state.copies), table)

    return Method(
        "stale" if rule == "plain" else f"stale_{rule}",
        Stale(x0, np.zeros((n, d)), np.zeros((n, d))),
        Sending(Dealt(Perm(n), d, "as trained"), send, lambda _, k: k == 0),
        Gradients(problem),
        merge,
        lambda state: state.x,
        lambda cut: wide_cost(cut.draw),
    )


def stale_plain(problem: Problem, x0: Vector, *, step_size: float) -> Method[Stale]:
    """Stale copies without a table (M3): no bias, but the noise of heterogeneity stays."""
    return stale(problem, x0, step_size=step_size, rule="plain")


def stale_sag(problem: Problem, x0: Vector, *, step_size: float) -> Method[Stale]:
    """Stale copies with a table, averaged as in SAG (M3)."""
    return stale(problem, x0, step_size=step_size, rule="sag")


def stale_saga(problem: Problem, x0: Vector, *, step_size: float) -> Method[Stale]:
    """Stale copies with a table, unbiased as in SAGA (M3)."""
    return stale(problem, x0, step_size=step_size, rule="saga")


@dataclass(frozen=True, eq=False)
class _Reweighted:
    """P_i (D_i w + O_i w / rho - b_i) for w = P_i x, whose expectation over hands is grad f / n."""

    problem: Quadratics
    rho: float
    xi: Sampling = EXACT

    def __call__(self, k: int, cut: Cut[Vector], points: Sequence[Vector]) -> list[Vector]:
        noise = [self.xi.noise(i, len(w), k) for i, w in enumerate(points)]
        return [cut.draw.scale[i] * (self._estimate(i, w) + noise[i]) for i, w in enumerate(points)]

    def _estimate(self, worker: int, w: Vector) -> Vector:
        diagonal = np.diag(self.problem.L[worker]) * w
        off = self.problem.L[worker] @ w - diagonal
        return np.asarray(diagonal + off / self.rho - self.problem.b[worker])


def reweighted(
    problem: Quadratics, x0: Vector, *, step_size: float, decay: float = 0.0
) -> Method[Vector]:
    """In-block reweighting (M1a): the off-diagonal of L_i times 1/rho. Unbiased, quadratics only.

    rho is the probability that the holder of a coordinate holds a given other one. Step gamma /
    (1 + k / decay), constant for decay = 0.

    Raises:
        ValueError: one coordinate a worker, where no off-diagonal entry is ever seen.
    """
    deal = Perm(problem.n_workers)
    together = occupancy(deal, problem.dim).together
    if together[2] == 0:
        raise ValueError(
            f"With d={problem.dim} coordinates for n_workers={problem.n_workers} no worker sees an "
            "off-diagonal entry of L_i, so nothing can be reweighted. Use at most "
            f"n_workers={problem.dim // 2}, or stale_sag."
        )
    work = _Reweighted(problem, together[2] / together[1])
    sketch = Sending(Dealt(deal, problem.dim, "as trained"), send_block)
    merge = Descent(step_size, decay)
    return Method("reweighted", x0, sketch, work, merge, itself, lambda cut: block_cost(cut.draw))


@dataclass(frozen=True, eq=False)
class _Halved:
    """A cut whose hands are halved: worker i holds hands 2i and 2i + 1 of `halves`."""

    k: int
    draw: DiagonalPartition
    halves: DiagonalPartition

    @property
    def n_workers(self) -> int:
        return self.draw.n_workers

    def select(self, x: Vector, worker: int, /) -> Vector:
        return self.draw.select(x, worker)


@dataclass(frozen=True, eq=False)
class _Halving:
    """Perm among 2n, dealt two hands to a worker: blocks and random halves of them."""

    n_workers: int
    dim: int

    def sample(self, seed: int, k: int, /) -> _Halved:
        halves = Dealt(Perm(2 * self.n_workers), self.dim, "as trained").sample(seed, k)
        pairs = zip(halves.hands[::2], halves.hands[1::2], strict=True)
        hands = tuple(np.sort(np.concatenate(pair)) for pair in pairs)
        return _Halved(k, DiagonalPartition(halves.scale[::2] + halves.scale[1::2], hands), halves)


@dataclass(frozen=True, eq=False)
class _TwoResolutions:
    """(2n - 1) P_i grad f_i(P_i x) - (2n - 2) sum over halves P' of P' grad f_i(P' x)."""

    problem: Problem
    xi: Sampling = EXACT

    def __call__(self, k: int, cut: _Halved, points: Sequence[Vector]) -> list[Vector]:
        return [self._estimate(i, cut, w, k) for i, w in enumerate(points)]

    def _estimate(self, worker: int, cut: _Halved, w: Vector, k: int) -> Vector:
        def gradient(worker: int, x: Vector) -> Vector:
            return self.xi.gradient(self.problem, worker, x, k)

        n = cut.n_workers
        whole = cut.draw.scale[worker] * gradient(worker, w)
        halves = [mask * gradient(worker, mask * w) for mask in cut.halves.scale[2 * worker :][:2]]
        return np.asarray((2 * n - 1) * whole - (2 * n - 2) * (halves[0] + halves[1]))


def two_resolutions(
    problem: Problem, x0: Vector, *, step_size: float, decay: float = 0.0
) -> Method[Vector]:
    """Two resolutions (M1b): block and half-block gradients, extrapolated to the whole.

    Unbiased on quadratics where 2n divides d; on other problems not even close (logistic
    regression: `experiments.logistic`). Step as in `reweighted`.

    Raises:
        ValueError: 2n does not divide d, so that there are no equal halves.
    """
    n, d = problem.n_workers, problem.dim
    if d % (2 * n):
        raise ValueError(
            f"Halves of equal size want 2n to divide d, but d={d} leaves {d % (2 * n)} over for "
            f"n_workers={n}. Use d={d - d % (2 * n) or 2 * n}, or reweighted, which takes any d."
        )

    def cost(cut: _Halved) -> Cost:
        block, halves = block_cost(cut.draw), block_cost(cut.halves)
        return replace(block, work=block.work + halves.work)

    work, merge = _TwoResolutions(problem), Descent(step_size, decay)
    return Method("two_resolutions", x0, _Halving(n, d), work, merge, itself, cost)


@dataclass(frozen=True, eq=False)
class Descent:
    """x+ = x - gamma_k g with g gathered from the holders; gamma_k = gamma / (1 + k / decay)."""

    step_size: float
    decay: float = 0.0

    def __post_init__(self) -> None:
        require_step_size(self.step_size)
        if self.decay < 0:
            raise ValueError(f"decay={self.decay} rounds. Use a positive number, or 0 for none.")

    def at(self, k: int) -> float:
        """gamma_k."""
        return self.step_size / (1 + k / self.decay) if self.decay else self.step_size

    def __call__(self, x: Vector, cut: Any, returned: Sequence[Vector]) -> Vector:  # noqa: ANN401
        """The next model."""
        return x - self.at(cut.k) * gathered(cut.draw, returned)


def send_block(x: Vector, cut: Cut[Vector], worker: int) -> Vector:
    """P_i x."""
    return cut.draw.select(x, worker)
