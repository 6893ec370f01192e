"""Tables of data: one row a sample, dense or sparse, and what problems need of a worker's rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy import sparse

from subnetwork.shapes import Floats, Matrix, Vector
from subnetwork.splits import Parts
from subnetwork.theory.linear import DENSE_DIM, largest_eigenvalue

if TYPE_CHECKING:
    CSR: TypeAlias = sparse.csr_array[np.float64]
    CSRIntegers: TypeAlias = sparse.csr_array[np.int64]
    CSC: TypeAlias = sparse.csc_array[np.float64]
else:
    CSR = CSRIntegers = sparse.csr_array
    CSC = sparse.csc_array

Rows: TypeAlias = Floats | CSR
"""Features with one row a sample; shape (m, d)."""
Columns: TypeAlias = Floats | CSC
"""The same, stored by columns: a worker holds coordinates, which are columns."""


@dataclass(frozen=True, eq=False)
class Table:
    """Samples with their targets.

    Attributes:
        features: one row a sample.
        targets: what a model predicts: -1 and +1 for two classes, a number otherwise.
        labels: what splits by label sort by; the targets, or finer classes.

    Raises:
        ValueError: no rows, counts that do not match, or a value that is not finite.
    """

    features: Rows
    targets: Floats
    labels: Floats

    def __post_init__(self) -> None:
        m = self.features.shape[0]
        if self.features.ndim != 2 or self.targets.shape != (m,) or self.labels.shape != (m,):
            raise ValueError(
                f"features of shape {self.features.shape}, targets of shape {self.targets.shape} "
                f"and labels of shape {self.labels.shape} do not match: wanted are (m, d), (m,) "
                "and (m,)."
            )
        if m == 0 or self.features.shape[1] == 0:
            raise ValueError(
                f"A table of shape {self.features.shape} holds no data. Use a row and a column or "
                "more."
            )
        bad = unfinished_row(self.features, self.targets)
        if bad is not None:
            raise ValueError(
                f"Row {bad} (counted from 0) of the table holds a value that is not finite (NaN or "
                "infinity). Drop or fill the rows of the data that hold one."
            )

    @property
    def n_rows(self) -> int:
        """Number of samples m."""
        return int(self.features.shape[0])

    @property
    def dim(self) -> int:
        """Number of features d."""
        return int(self.features.shape[1])


def unfinished_row(features: Rows, targets: Floats) -> int | None:
    """The first row with NaN or infinity in it, or None."""
    if isinstance(features, np.ndarray):
        bad = ~np.isfinite(features).all(axis=1)
    else:
        entries = ~np.isfinite(features.data)
        bad = np.zeros(features.shape[0], dtype=bool)
        bad[np.repeat(np.arange(features.shape[0]), np.diff(features.indptr))[entries]] = True
    bad |= ~np.isfinite(targets)
    return int(bad.argmax()) if bad.any() else None


def standardised(table: Table) -> Table:
    """The table with columns of mean 0 and variance 1; targets as they are.

    A sparse table stays sparse: its columns are divided by their root mean square and not centred.
    Columns that are constant (all zero, in a sparse table) are left at 0.
    """
    A = table.features
    if isinstance(A, np.ndarray):
        spread = A.std(axis=0)
        # std of equal numbers is rounding of their size, not 0
        constant = spread <= 1e-12 * np.abs(A).max(axis=0)
        centred = np.where(constant, 0.0, A - A.mean(axis=0))
        return Table(centred / np.where(constant, 1.0, spread), table.targets, table.labels)
    size = np.sqrt(column_squares(A.tocsc()) / table.n_rows)
    scale = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    return Table(sparse.csr_array(A.multiply(scale)), table.targets, table.labels)


def by_columns(rows: Rows) -> Columns:
    """The same numbers in column-major order."""
    return np.asfortranarray(rows) if isinstance(rows, np.ndarray) else rows.tocsc()


def stacked(parts: Sequence[Columns]) -> Columns:
    """All rows of all workers under each other."""
    dense = [A for A in parts if isinstance(A, np.ndarray)]
    if len(dense) == len(parts):
        return np.asfortranarray(np.concatenate(dense))
    return sparse.csc_array(sparse.vstack([sparse.csc_array(A) for A in parts], format="csc"))


def column_squares(A: Columns) -> Vector:
    """The sum of squares of every column: Diag(A'A)."""
    if isinstance(A, np.ndarray):
        return np.asarray(np.einsum("rj,rj->j", A, A))
    return np.asarray(A.multiply(A).sum(axis=0), dtype=np.float64).ravel()


def gram(A: Columns, weights: Floats | None = None) -> Matrix:
    """A' Diag(weights) A as a dense d x d matrix; A'A without weights."""
    W = A if weights is None else weighted(A, weights)
    product = A.T @ W
    return np.asarray(product if isinstance(product, np.ndarray) else product.toarray())


def weighted(A: Columns, weights: Floats) -> Columns:
    """Diag(weights) A."""
    if isinstance(A, np.ndarray):
        return np.asarray(weights[:, None] * A)
    return sparse.csc_array(A.multiply(weights[:, None]))


def largest_of_gram(A: Columns) -> float:
    """The largest eigenvalue of A'A, through the smaller of A'A and AA'."""
    m, d = A.shape
    if min(m, d) > DENSE_DIM:
        return largest_eigenvalue(lambda v: np.asarray(A.T @ (A @ v)), d)
    small = A if d <= m else A.T
    product = small.T @ small
    dense = product if isinstance(product, np.ndarray) else product.toarray()
    return max(float(np.linalg.eigvalsh(dense)[-1]), 0.0)


def require_parts(parts: Parts, n_rows: int) -> None:
    """Raise ValueError unless every worker has a row, and all rows are there."""
    empty = [i for i, rows in enumerate(parts) if len(rows) == 0]
    if not len(parts) or empty:
        raise ValueError(
            f"{len(empty)} of {len(parts)} workers get no row (the first is worker "
            f"{empty[0] if empty else 0}), but every f_i needs one. Use fewer workers, or a split "
            "that is more even."
        )
    highest = max(int(rows.max()) for rows in parts)
    if highest >= n_rows:
        raise ValueError(
            f"A worker is given row {highest}, but the table has {n_rows} rows. Split the same "
            "table that the problem is made of."
        )
