"""Lines 4-8 of Algorithm 1: what the workers do with their submodels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subnetwork.shapes import Units, Vector
from subnetwork.theory.problem import Problem
from subnetwork.theory.sketches import DiagonalPartition, LinearPartition


@dataclass(frozen=True)
class GradientSteps:
    """z^0 = w_i, z^{t+1} = z^t - gamma C_i grad f_i(z^t), for t < n_steps (lines 5 and 6).

    Raises:
        ValueError: the step size is not positive, or there are fewer than one step.
    """

    problem: Problem
    step_size: float
    n_steps: int = 1

    def __post_init__(self) -> None:
        require_step_size(self.step_size)
        if self.n_steps < 1:
            raise ValueError(
                f"A worker takes n_steps={self.n_steps} local steps, which trains nothing. Use "
                "n_steps=1 or more."
            )

    def __call__(
        self, k: int, partition: LinearPartition, submodels: Sequence[Vector]
    ) -> list[Vector]:
        """The trained submodels z_i^+, in the order of the workers; the same in every round k."""
        del k
        return [self._train(i, partition, w) for i, w in enumerate(submodels)]

    def _train(self, worker: int, partition: LinearPartition, z: Vector) -> Vector:
        for _ in range(self.n_steps):
            gradient = self.problem.worker_gradient(worker, z)
            z = z - self.step_size * partition.pull(gradient, worker)
        return z


@dataclass(frozen=True)
class UnequalSteps:
    """`GradientSteps` of workers that do not all finish: worker i takes n_steps[i] of them.

    To first order in gamma the problem with the weights n_steps[i] / sum(n_steps) is minimised.
    Multiplying worker i's displacement by `correction[i]` restores f (`variants.reweighted`).

    Raises:
        ValueError: the step size is not positive, or there is not one count >= 1 for each worker.
    """

    problem: Problem
    step_size: float
    n_steps: tuple[int, ...]

    def __post_init__(self) -> None:
        require_step_size(self.step_size)
        n = self.problem.n_workers
        if len(self.n_steps) != n or min(self.n_steps) < 1:
            raise ValueError(
                f"n_steps={self.n_steps} is not one number of steps >= 1 for each of {n} workers. "
                "A worker without a step is absent: use `variants.absent`."
            )

    @property
    def correction(self) -> Vector:
        """mean(n_steps) / n_steps[i]."""
        steps = np.array(self.n_steps, dtype=np.float64)
        return np.asarray(steps.mean() / steps)

    def __call__(
        self, k: int, partition: LinearPartition, submodels: Sequence[Vector]
    ) -> list[Vector]:
        """The trained submodels z_i^+, in the order of the workers; the same in every round k."""
        every = {
            tau: GradientSteps(self.problem, self.step_size, tau)(k, partition, submodels)
            for tau in set(self.n_steps)
        }
        return [every[tau][i] for i, tau in enumerate(self.n_steps)]


@dataclass(frozen=True)
class BlockSteps:
    """`GradientSteps` in the work of a submodel: only the entries that worker i holds are touched.

    The same numbers up to rounding for every sketch whose w_i = C_i x is zero outside S_i, since
    [C_i grad f_i(z)]_S needs z on S alone. Pays where the L_i or A_i are dense and d is large (ten
    local steps at d = 10,000, n = 10: 2.6 times faster a round); indexing sparse ones costs more.

    Raises:
        ValueError: as `GradientSteps`.
    """

    problem: Problem
    step_size: float
    n_steps: int = 1

    def __post_init__(self) -> None:
        GradientSteps(self.problem, self.step_size, self.n_steps)  # the same checks

    def __call__(
        self, k: int, partition: DiagonalPartition, submodels: Sequence[Vector]
    ) -> list[Vector]:
        """The trained submodels z_i^+, in the order of the workers; the same in every round k."""
        del k
        return [
            self._train(i, partition.hands[i], partition.scale[i], w)
            for i, w in enumerate(submodels)
        ]

    def _train(self, worker: int, hand: Units, scale: Vector, w: Vector) -> Vector:
        z, step = w[hand], self.step_size * scale[hand]
        for _ in range(self.n_steps):
            z = z - step * self.problem.worker_block_gradient(worker, hand, z)
        trained = w.copy()
        trained[hand] = z
        return trained


def require_step_size(step_size: float) -> None:
    """Raise ValueError unless the step size is a positive number."""
    if not 0 < step_size < float("inf"):
        raise ValueError(
            f"step_size={step_size} does not descend: Algorithm 1 wants gamma > 0. Use a positive "
            "one, such as 1/theta of the problem."
        )
