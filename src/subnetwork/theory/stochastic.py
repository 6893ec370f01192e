"""Line 5 with stochastic gradients: sampled rows and noise, keyed by (seed, round, worker)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from subnetwork.keys import NOISE, below, key, words
from subnetwork.shapes import Units, Vector
from subnetwork.theory.factored import Factored
from subnetwork.theory.glm import GeneralisedLinear
from subnetwork.theory.problem import Problem
from subnetwork.theory.sketches import DiagonalPartition
from subnetwork.theory.work import require_step_size


def n_rows(problem: Problem, worker: int) -> int:
    """Rows of worker i; 0 for a problem that keeps none."""
    match problem:
        case GeneralisedLinear():
            return int(problem.rows[worker].shape[0])
        case Factored():
            return int(problem.A[worker].shape[0])
    return 0


def rows_gradient(
    problem: GeneralisedLinear | Factored, worker: int, rows: Units, x: Vector
) -> Vector:
    """Gradient of f_i with the mean over these of its rows alone; they may be repeated."""
    if isinstance(problem, GeneralisedLinear):
        Z = problem.rows[worker][rows]
        slopes = problem.loss.slope(np.asarray(Z @ x))
    else:
        Z = problem.A[worker][rows]
        slopes = np.asarray(Z @ x) - problem.y[worker][rows]
    return np.asarray(np.asarray(Z.T @ slopes) / len(rows) + problem.ridge * x)


@dataclass(frozen=True)
class Sampling:
    """What makes gradients stochastic: grad f_i(x; xi) + sigma eps, keyed by (seed, k, worker, t).

    xi: `batch` rows of worker i, drawn with replacement, or all of them for batch = 0; eps: a
    standard Gaussian vector. A worker that takes several gradients at once (MARINA at two points,
    halves of a block) takes them with the same xi and eps.

    Raises:
        ValueError: a negative sigma or batch.
    """

    seed: int = 0
    sigma: float = 0.0
    batch: int = 0

    def __post_init__(self) -> None:
        if self.sigma < 0 or self.batch < 0:
            raise ValueError(
                f"sigma={self.sigma} and batch={self.batch} are no noise: use sigma >= 0, and "
                "batch >= 0, where 0 means all rows."
            )

    def require_rows(self, problem: Problem) -> None:
        """Raise ValueError where rows are to be drawn and the problem keeps none."""
        if self.batch and not n_rows(problem, 0):
            raise ValueError(
                f"batch={self.batch} draws rows, but {type(problem).__name__} has none. Use "
                "batch=0 with sigma > 0, or a problem that keeps rows, as logistic:gaussian."
            )

    def gradient(self, problem: Problem, worker: int, x: Vector, k: int, t: int = 0) -> Vector:
        """The gradient of f_i at x in round k, at local step t."""
        stream = key(self.seed, NOISE, k, worker, t)
        if self.batch and isinstance(problem, GeneralisedLinear | Factored):
            drawn, m = words(key(stream, 1)), n_rows(problem, worker)
            rows = np.array([below(drawn, m) for _ in range(self.batch)], dtype=np.int64)
            return rows_gradient(problem, worker, rows, x) + self._noise(stream, len(x))
        return problem.worker_gradient(worker, x) + self._noise(stream, len(x))

    def noise(self, worker: int, size: int, k: int, t: int = 0) -> Vector | float:
        """Sigma eps alone, 0 for sigma = 0."""
        return self._noise(key(self.seed, NOISE, k, worker, t), size)

    def _noise(self, stream: int, size: int) -> Vector | float:
        return self.sigma * gaussian(stream, size) if self.sigma else 0.0


EXACT = Sampling()
"""Whole gradients without noise."""


@dataclass(frozen=True)
class StochasticSteps:
    """z^{t+1} = z^t - gamma C_i (grad f_i(z^t; xi) + sigma eps), t < n_steps (lines 5 and 6).

    xi and eps as in `Sampling`. The noise has a seed of its own, so that the same noise can meet
    different partitions.

    Raises:
        ValueError: no positive step size, fewer than one step, a negative sigma or batch, or a
            batch of a problem without rows.
    """

    problem: Problem
    step_size: float
    seed: int
    n_steps: int = 1
    sigma: float = 0.0
    batch: int = 0

    def __post_init__(self) -> None:
        require_step_size(self.step_size)
        if self.n_steps < 1 or self.sigma < 0 or self.batch < 0:
            raise ValueError(
                f"n_steps={self.n_steps}, sigma={self.sigma} and batch={self.batch} are no local "
                "work: use n_steps >= 1, sigma >= 0, and batch >= 0, where 0 means all rows."
            )
        self.xi.require_rows(self.problem)

    @property
    def xi(self) -> Sampling:
        """The noise of its gradients."""
        return Sampling(self.seed, self.sigma, self.batch)

    def __call__(
        self, k: int, partition: DiagonalPartition, submodels: Sequence[Vector]
    ) -> list[Vector]:
        """The trained submodels z_i^+, in the order of the workers."""
        return [self._train(k, i, partition.scale[i], w) for i, w in enumerate(submodels)]

    def _train(self, k: int, worker: int, scale: Vector, z: Vector) -> Vector:
        for t in range(self.n_steps):
            g = self.xi.gradient(self.problem, worker, z, k, t)
            z = z - self.step_size * scale * g
        return z


def gaussian(stream: int, size: int) -> Vector:
    """Independent standard Gaussian numbers from a key, one from each 32-bit word.

    >>> gaussian(key(0), 3).round(3).tolist()
    [0.392, 0.528, -0.287]
    """
    drawn = words(stream)
    uniform = (np.array([next(drawn) for _ in range(size)]) + 0.5) / 2**32
    return np.asarray(ndtri(uniform))
