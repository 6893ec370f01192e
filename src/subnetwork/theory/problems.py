"""Problems by name: made up, bundled with scikit-learn, or LIBSVM files; quadratic or logistic."""

from collections.abc import Callable, Mapping

import numpy as np

from subnetwork.theory.factored import least_squares
from subnetwork.theory.quadratics import Quadratics, require_definite

__all__ = [
    "Quadratics",
    "breast_cancer",
    "gaussian",
    "least_squares",
    "problem_named",
    "require_definite",
    "trig",
]


def breast_cancer(n_workers: int = 30, *, ridge: float = 0.1) -> Quadratics:
    """Least squares on scikit-learn's breast_cancer: 569 rows, d = 30, targets -1 and 1.

    Columns are standardised over all rows; the default n = d is what Perm-1 asks for.
    """
    from sklearn.datasets import load_breast_cancer  # 1 s of CPU to import

    table, labels = load_breast_cancer(return_X_y=True)
    features = (table - table.mean(axis=0)) / table.std(axis=0)
    return least_squares(features, 2.0 * labels - 1.0, n_workers=n_workers, ridge=ridge)


def trig(n_workers: int = 5, dim: int = 5) -> Quadratics:
    """A small problem without randomness, the one the published figures of the lab refer to.

    With indices from 1: A_i[r,c] = sin(1.3i + 0.7r + 1.1c + 0.4rc), L_i = A_i' A_i / d + I / 2,
    b_i[c] = cos(0.9i + 1.7c).
    """
    i = np.arange(1.0, n_workers + 1)[:, None, None]
    r, c = np.arange(1.0, dim + 1)[:, None], np.arange(1.0, dim + 1)
    A = np.sin(1.3 * i + 0.7 * r + 1.1 * c + 0.4 * r * c)
    L = A.transpose(0, 2, 1) @ A / dim + np.eye(dim) / 2
    return Quadratics(L, np.cos(0.9 * i[:, 0] + 1.7 * c))


def gaussian(n_workers: int = 4, dim: int = 40, *, seed: int = 0, ridge: float = 0.1) -> Quadratics:
    """L_i = A_i' A_i / d + ridge I, all entries of A_i and b_i independent standard Gaussian."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n_workers, dim, dim))
    L = A.transpose(0, 2, 1) @ A / dim + ridge * np.eye(dim)
    return Quadratics(L, rng.standard_normal((n_workers, dim)))


PROBLEMS: Mapping[str, Callable[..., Quadratics]] = {
    "breast_cancer": breast_cancer,
    "gaussian": gaussian,
    "trig": trig,
}


def problem_named(name: str) -> Callable[..., Quadratics]:
    """The builder of a problem; raises ValueError with the known names for any other name."""
    if name not in PROBLEMS:
        raise ValueError(f"There is no problem {name!r}. Known problems: {', '.join(PROBLEMS)}.")
    return PROBLEMS[name]
