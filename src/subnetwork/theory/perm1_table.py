"""All that Perm-1 sees of quadratics: two n x d tables in place of n matrices."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from subnetwork.shapes import Matrix, PerWorker, Vector
from subnetwork.theory.factored import Factored
from subnetwork.theory.quadratics import Quadratics, require_definite
from subnetwork.theory.sparse import SharedPattern


@dataclass(frozen=True, eq=False)
class Perm1Table:
    """[L_i]_jj and b_ij, which fix every round of Perm-1, and L_bar, in which f is measured.

    Attributes:
        diagonals: Diag(L_i), one diagonal a row.
        b: the vectors b_i.
        L_bar: mean_i L_i; the one d x d matrix.
    """

    diagonals: PerWorker
    b: PerWorker
    L_bar: Matrix

    @cached_property
    def minimiser(self) -> Vector:
        """x* = L_bar^-1 b_bar; raises ValueError where L_bar is not positive definite."""
        require_definite(self.L_bar, "L_bar")
        return np.asarray(cho_solve(cho_factor(self.L_bar), self.b.mean(axis=0)))

    @cached_property
    def fixed_point(self) -> Vector:
        """x_inf of unscaled Perm-1: mean_i b_i over mean_i Diag(L_i); Perm (C_i = n P_i) / n."""
        return np.asarray(self.b.mean(axis=0) / self.diagonals.mean(axis=0))

    def gap(self, x: Vector) -> float:
        """f(x) - f* = |x - x*|^2_L / 2."""
        error = x - self.minimiser
        return float(error @ self.L_bar @ error / 2)


def perm1_table(problem: Quadratics | SharedPattern | Factored) -> Perm1Table:
    """The table of a problem: 2 n d + d^2 numbers, so that n = d = 2000 fits in 100 MB."""
    return Perm1Table(problem.diagonals, problem.b, problem.L_bar)
