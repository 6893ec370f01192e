"""Definite systems that are known by their products only: conjugate gradients, refined."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg, eigsh

from subnetwork.shapes import Vector

Product: TypeAlias = Callable[[Vector], Vector]

DENSE_DIM = 2000  # up to this many coordinates a d x d matrix is formed and factorised
RESIDUAL = 1e-12  # |A x - b| / |b| of a solution


def solve_definite(product: Product, b: Vector, diagonal: Vector, name: str) -> Vector:
    """X with A x = b to a relative residual of 1e-12, for a positive definite A.

    Conjugate gradients with the diagonal as preconditioner, started again on the true residual
    until it is small: the recursion's own residual drifts away from it.

    Args:
        product: v -> A v.
        b: the right side.
        diagonal: of A, positive.
        name: of A, for the message.

    Raises:
        ValueError: the residual stays above 1e-12 |b|: A is singular, or too badly conditioned.
    """
    size = float(np.linalg.norm(b))
    x = np.zeros_like(b)
    if size == 0:
        return x
    if diagonal.min() <= 0:
        raise ValueError(_unsolved(name, f"a diagonal entry is {diagonal.min():.3g}"))
    A = LinearOperator((len(b), len(b)), matvec=product, dtype=np.float64)
    scaled = LinearOperator(A.shape, matvec=lambda v: v / diagonal, dtype=np.float64)
    residual, left = b, 1.0
    for _ in range(20):
        # a restart has to halve the residual at least; rounding is what stops it otherwise
        x = x + cg(A, residual, rtol=1e-8, maxiter=10 * len(b), M=scaled)[0]
        residual = b - product(x)
        before, left = left, float(np.linalg.norm(residual)) / size
        if left <= RESIDUAL:
            return x
        if not left < before / 2:
            break
    raise ValueError(_unsolved(name, f"the residual stays at {left:.2g} of |b|"))


def largest_eigenvalue(product: Product, dim: int) -> float:
    """The largest eigenvalue of a symmetric psd matrix known by its products."""
    if dim <= 3:
        return float(np.linalg.eigvalsh(np.stack([product(e) for e in np.eye(dim)]))[-1])
    A = LinearOperator((dim, dim), matvec=product, dtype=np.float64)
    start = np.cos(np.arange(dim))  # fixed, and orthogonal to no eigenvector that occurs
    return float(eigsh(A, k=1, which="LA", v0=start, return_eigenvectors=False)[0])


def _unsolved(name: str, seen: str) -> str:
    return (
        f"{name} could not be solved with to a residual of {RESIDUAL:g}: {seen}, so it is singular "
        "or badly conditioned. Add a ridge, such as 0.001 of the largest eigenvalue."
    )
