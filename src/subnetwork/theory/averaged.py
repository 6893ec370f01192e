"""F(x) = mean_i E f_i(C_i x) of any problem, as an average over the hands of a worker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.optimize import minimize

from subnetwork.shapes import Floats, PerWorker, Vector
from subnetwork.theory.hands import every_hand
from subnetwork.theory.problem import Problem
from subnetwork.theory.sketches import DiagonalSketch

ACCURACY = 1e-7  # |grad F(x_F)| beside |grad F(0)|, or beside 1


@dataclass(frozen=True, eq=False)
class AveragedObjective:
    """F as a weighted average over hands: of every hand, which is exact, or of drawn ones.

    Attributes:
        problem: any; a `worker_gradients` that takes many points at once makes it fast.
        scales: [C_i]_jj where worker i holds coordinate j.
        held: 0/1, shape (n, H, d): the H hands of each worker; (1, H, d) where they are the same.
        weights: of the hands, shape (H,), of sum 1.
        drawn: whether the hands are drawn, so that F is known up to a standard error only.
    """

    problem: Problem
    scales: PerWorker
    held: Floats
    weights: Floats
    drawn: bool

    def value(self, x: Vector) -> float:
        """F(x)."""
        return float(self.weights @ self._values(x))

    def standard_error(self, x: Vector) -> float:
        """Of `value(x)`; 0 where all hands are there."""
        if not self.drawn:
            return 0.0
        return float(self._values(x).std(ddof=1) / np.sqrt(len(self.weights)))

    def gradient(self, x: Vector) -> Vector:
        """Gradient of F."""
        total = np.zeros_like(x)
        for i in range(self.problem.n_workers):
            C = self._sketches(i)
            total += self.weights @ (C * _gradients(self.problem, i, C * x))
        return np.asarray(total / self.problem.n_workers)

    @cached_property
    def minimiser(self) -> Vector:
        """x_F with |grad F(x_F)| <= 1e-7 max(|grad F(0)|, 1), mostly 1e-8, by L-BFGS.

        Of drawn hands the minimiser of their average (sample average approximation); see
        `objective.bias_and_error` for how far that is from the truth.

        Raises:
            ValueError: it is not found, as where F has none.
        """
        return _minimiser(self.value, self.gradient, self.problem.dim)

    def batches(self, n_batches: int) -> "list[AveragedObjective]":
        """F from each of `n_batches` equal shares of the drawn hands; a remainder is left out.

        Raises:
            ValueError: hands that are not drawn, or fewer than two a batch.
        """
        size = len(self.weights) // n_batches if self.drawn else 0
        if size < 2:
            raise ValueError(
                f"{len(self.weights)} hands cannot be cut into n_batches={n_batches} samples. Use "
                f"`sampled` with n_draws={2 * n_batches} or more."
            )
        even = np.full(size, 1 / size)
        cuts = [slice(b * size, (b + 1) * size) for b in range(n_batches)]
        return [
            AveragedObjective(self.problem, self.scales, self.held[:, cut], even, drawn=True)
            for cut in cuts
        ]

    def _values(self, x: Vector) -> Floats:
        """mean_i f_i(C_i x), one a hand."""
        each = [
            _values(self.problem, i, self._sketches(i) * x) for i in range(self.problem.n_workers)
        ]
        return np.asarray(np.mean(each, axis=0))

    def _sketches(self, worker: int) -> PerWorker:
        """Diagonals of C_i, one hand a row."""
        held = self.held[worker if len(self.held) > 1 else 0]
        return np.asarray(held * self.scales[worker])


@runtime_checkable
class SymmetricDraw(Protocol):
    """A draw of (C_1, ..., C_n), all symmetric."""

    def select(self, x: Vector, worker: int, /) -> Vector:
        """C_i x."""
        ...


@dataclass(frozen=True, eq=False)
class DrawnObjective:
    """F over given draws of any sketch, by its definition: for symmetric C_i of every kind.

    The slow twin of `AveragedObjective`, for sketches that are not diagonal. An average over all
    equally likely draws is exact.

    Attributes:
        problem: any.
        draws: partitions whose C_i are symmetric.
    """

    problem: Problem
    draws: Sequence[SymmetricDraw]

    def value(self, x: Vector) -> float:
        """F(x) = mean f_i(C_i x) over draws and workers."""
        return float(self._each(x).mean())

    def standard_error(self, x: Vector) -> float:
        """Of `value(x)`, where the draws are independent."""
        return float(self._each(x).std(ddof=1) / np.sqrt(len(self.draws)))

    def gradient(self, x: Vector) -> Vector:
        """Gradient of F: mean C_i grad f_i(C_i x), as C_i' = C_i."""
        total = np.zeros_like(x)
        for draw in self.draws:
            for i in range(self.problem.n_workers):
                total += draw.select(self.problem.worker_gradient(i, draw.select(x, i)), i)
        return total / (len(self.draws) * self.problem.n_workers)

    @cached_property
    def minimiser(self) -> Vector:
        """x_F, as `AveragedObjective` has it."""
        return _minimiser(self.value, self.gradient, self.problem.dim)

    def _each(self, x: Vector) -> Floats:
        """mean_i f_i(C_i x), one a draw."""
        workers = range(self.problem.n_workers)
        return np.array(
            [
                np.mean([self.problem.worker_value(i, draw.select(x, i)) for i in workers])
                for draw in self.draws
            ]
        )


def _minimiser(
    value: Callable[[Vector], float], gradient: Callable[[Vector], Vector], dim: int
) -> Vector:
    """Where |gradient| <= 1e-7 max(|gradient(0)|, 1), mostly 1e-8, by L-BFGS.

    Raises:
        ValueError: it does not get there, or goes on falling at twice the point: no minimiser.
    """
    start = np.zeros(dim)
    scale = max(float(np.linalg.norm(gradient(start))), 1.0)
    found = minimize(
        value,
        start,
        jac=gradient,
        method="L-BFGS-B",
        options={"maxcor": 30, "ftol": 0.0, "gtol": 1e-9 * scale, "maxiter": 2000},
    )
    x = np.asarray(found.x, dtype=np.float64)
    left = float(np.linalg.norm(gradient(x)))
    falling = float(np.linalg.norm(x)) > 1e-3 and value(2 * x) < value(x)
    if left > ACCURACY * scale or falling:
        raise ValueError(
            f"The search for argmin F stops at |grad F| = {left:.3g}, |x| = "
            f"{np.linalg.norm(x):.3g}{', where F still falls' if falling else ''}: F may have no "
            "minimiser. Add a ridge to the problem, such as 0.001 of its largest smoothness "
            "constant."
        )
    return x


def enumerated(problem: Problem, sketch: DiagonalSketch) -> AveragedObjective:
    """F exactly, from every hand that a worker can hold.

    Raises:
        ValueError: there are more than 100,000, or the workers differ.
    """
    held, weights = every_hand(sketch.deal, problem.dim)
    return AveragedObjective(problem, sketch.scales, held[None], weights, drawn=False)


def sampled(
    problem: Problem, sketch: DiagonalSketch, *, n_draws: int, seed: int = 0
) -> AveragedObjective:
    """F by Monte Carlo over the rounds 0..n_draws-1 of the sketch; the same hands at every x.

    Raises:
        ValueError: fewer than two draws.
    """
    if n_draws < 2:
        raise ValueError(f"n_draws={n_draws} has no standard error. Use 2 or more, better 1000.")
    held = np.zeros((problem.n_workers, n_draws, problem.dim))
    for k in range(n_draws):
        for i, hand in enumerate(sketch.deal.hands(problem.dim, seed=seed, k=k)):
            held[i, k, hand] = 1.0
    weights = np.full(n_draws, 1 / n_draws)
    return AveragedObjective(problem, sketch.scales, held, weights, drawn=True)


@runtime_checkable
class _AtManyPoints(Protocol):
    def worker_values(self, worker: int, points: PerWorker) -> Floats: ...

    def worker_gradients(self, worker: int, points: PerWorker) -> PerWorker: ...


def _values(problem: Problem, worker: int, points: PerWorker) -> Floats:
    if isinstance(problem, _AtManyPoints):
        return problem.worker_values(worker, points)
    return np.array([problem.worker_value(worker, point) for point in points])


def _gradients(problem: Problem, worker: int, points: PerWorker) -> PerWorker:
    if isinstance(problem, _AtManyPoints):
        return problem.worker_gradients(worker, points)
    return np.stack([problem.worker_gradient(worker, point) for point in points])
