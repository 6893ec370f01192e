"""Problems by name: made up, bundled with scikit-learn, or LIBSVM files; quadratic or logistic.

`problem_named` builds dense quadratics, which every theorem takes; `any_problem_named` knows the
others as well: sparse and factored quadratics, and losses that are not quadratic.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from subnetwork.splits import Parts, by_label, consecutive, dirichlet, iid
from subnetwork.theory.data import LIBSVM, TABLES, table_named
from subnetwork.theory.factored import Factored, factored, least_squares
from subnetwork.theory.glm import GeneralisedLinear, generalised_linear, logistic_gaussian
from subnetwork.theory.losses import loss_named
from subnetwork.theory.problem import Problem
from subnetwork.theory.quadratics import Quadratics, require_definite
from subnetwork.theory.sparse import tridiagonal
from subnetwork.theory.table import Table, by_columns, largest_of_gram, standardised

__all__ = [
    "OTHER_PROBLEMS",
    "PROBLEMS",
    "Quadratics",
    "any_problem_named",
    "breast_cancer",
    "gaussian",
    "least_squares",
    "on_table",
    "problem_named",
    "require_definite",
    "split",
    "trig",
]

_MOST_NUMBERS = 5e8  # 4 GB of float64: above, a dense stack of L_i is refused


def breast_cancer(n_workers: int = 30, *, ridge: float = 0.1) -> Quadratics:
    """Least squares on scikit-learn's breast_cancer: 569 rows, d = 30, targets -1 and 1.

    Columns are standardised over all rows; the default n = d is what Perm-1 asks for.
    """
    table = table_named("breast_cancer")
    return factored(table, consecutive(table.n_rows, n_workers), ridge=ridge).to_quadratics()


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


def split(table: Table, n_workers: int, *, how: str, alpha: float, seed: int) -> Parts:
    """A split of a table by its name: rows, iid, label or dirichlet.

    Args:
        table: what is split.
        n_workers: n.
        how: "rows" (in their order), "iid" (shuffled), "label" (sorted by label), "dirichlet".
        alpha: concentration of "dirichlet".
        seed: of "iid" and "dirichlet".

    Raises:
        ValueError: another name, or a split that leaves a worker without rows.
    """
    match how:
        case "rows":
            return consecutive(table.n_rows, n_workers)
        case "iid":
            return iid(table.n_rows, n_workers, seed=seed)
        case "label":
            return by_label(table.labels, n_workers)
        case "dirichlet":
            return dirichlet(table.labels, n_workers, alpha=alpha, seed=seed)
    raise ValueError(f"There is no split {how!r}. Known splits: rows, iid, label, dirichlet.")


def on_table(  # noqa: PLR0913 - the options of a problem in a configuration file
    name: str,
    n_workers: int = 10,
    *,
    loss: str | None = None,
    how: str = "iid",
    alpha: float = 0.5,
    seed: int = 0,
    standardise: bool = False,
    ridge: float | None = None,
    relative_ridge: float | None = None,
) -> Factored | GeneralisedLinear:
    """Least squares, or a loss of the margin, on a table by name.

    Args:
        name: of the table; see `data.TABLES`.
        n_workers: n.
        loss: a name in `losses.LOSSES`; least squares on the targets if None.
        how: the split over workers; see `split`.
        alpha: concentration of the split "dirichlet".
        seed: of the split.
        standardise: divide the columns of a sparse table by their root mean square. Dense tables
            are standardised always.
        ridge: the regulariser as a number.
        relative_ridge: the regulariser as a part of the largest eigenvalue that sup phi'' A'A / m
            of all rows has without it. 0.1 if neither is given.

    Raises:
        ValueError: an unknown name, both ridges, or what reading and splitting raise.
    """
    table = table_named(name)
    if standardise:
        table = standardised(table)
    parts = split(table, n_workers, how=how, alpha=alpha, seed=seed)
    if ridge is not None and relative_ridge is not None:
        raise ValueError(
            f"ridge={ridge} and relative_ridge={relative_ridge} name two regularisers. Give one."
        )
    if ridge is None:
        share = 0.1 if relative_ridge is None else relative_ridge
        steepest = 1.0 if loss is None else loss_named(loss).largest
        ridge = share * steepest * largest_of_gram(by_columns(table.features)) / table.n_rows
    if loss is None:
        return factored(table, parts, ridge=ridge)
    return generalised_linear(table, parts, loss=loss_named(loss), ridge=ridge)


def _dense_on_table(name: str, n_workers: int = 10, **options: object) -> Quadratics:
    """Least squares on a table by name, as dense matrices; options as `on_table`."""
    problem = on_table(name, n_workers, **options)  # type: ignore[arg-type]
    numbers = problem.n_workers * problem.dim**2
    if numbers > _MOST_NUMBERS:
        raise ValueError(
            f"{name} on n_workers={n_workers} would take {8 * numbers / 1e9:.3g} GB as dense "
            f"matrices. Use at most {int(_MOST_NUMBERS / problem.dim**2)} workers, or "
            "any_problem_named, which keeps the rows."
        )
    if not isinstance(problem, Factored):
        raise ValueError(
            f"{name} with a loss is not quadratic, so it has no L_i and b_i. Leave the loss out, "
            "or use any_problem_named."
        )
    return problem.to_quadratics()


PROBLEMS: Mapping[str, Callable[..., Quadratics]] = {
    "breast_cancer": breast_cancer,
    "gaussian": gaussian,
    "trig": trig,
    **{name: partial(_dense_on_table, name) for name in ("digits", "diabetes", *LIBSVM)},
}
"""Dense quadratics, which every sketch, curve and theorem takes."""

OTHER_PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "tridiagonal": tridiagonal,
    "logistic:gaussian": logistic_gaussian,
    **{f"rows:{name}": partial(on_table, name) for name in TABLES},
    **{
        f"logistic:{name}": partial(on_table, name, loss="logistic")
        for name in TABLES
        if name != "diabetes"
    },
}
"""Problems without d x d matrices, and without quadratics; "rows:" is least squares by its rows."""


def problem_named(name: str) -> Callable[..., Quadratics]:
    """The builder of dense quadratics; raises ValueError with the known names for any other name.

    All builders take `n_workers`; those on tables take the keywords of `on_table`.
    """
    if name in OTHER_PROBLEMS:
        raise ValueError(
            f"{name!r} is not stored as dense quadratics, which is what this theorem is about. Use "
            f"one of {', '.join(PROBLEMS)}."
        )
    if name not in PROBLEMS:
        raise ValueError(f"There is no problem {name!r}. Known problems: {', '.join(PROBLEMS)}.")
    return PROBLEMS[name]


def any_problem_named(name: str) -> Callable[..., Problem]:
    """The builder of a problem of any kind; raises ValueError with the known names otherwise."""
    builders = {**PROBLEMS, **OTHER_PROBLEMS}
    if name not in builders:
        raise ValueError(f"There is no problem {name!r}. Known problems: {', '.join(builders)}.")
    return builders[name]
