"""Readers: LIBSVM text (plain, .xz, .gz, .bz2), .npz, and scikit-learn's bundled sets.

Files are looked for where the environment variable SUBNETWORK_DATA says, and in its folder
`libsvm`. Whatever is wrong with a file is said with its name and what was expected of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from scipy import sparse

from subnetwork import files
from subnetwork.shapes import Floats
from subnetwork.theory.table import Rows, Table, standardised, unfinished_row


@dataclass(frozen=True)
class Known:
    """What a LIBSVM set is known to hold."""

    rows: int
    dim: int


LIBSVM: Mapping[str, Known] = {
    "a9a": Known(32_561, 123),
    "a9a.t": Known(16_281, 123),
    "mushrooms": Known(8_124, 112),
    "phishing": Known(11_055, 68),
    "w8a": Known(49_749, 300),
}


def libsvm_named(name: str) -> Table:
    """A LIBSVM set from the data folder, its rows and columns counted; sparse, targets -1 and +1.

    Raises:
        ValueError: an unknown name, SUBNETWORK_DATA is not set, no such file, a file that cannot be
            read, or another number of rows or columns than the set has.
    """
    if name not in LIBSVM:
        raise ValueError(
            f"There is no LIBSVM set {name!r}. Known sets: {', '.join(LIBSVM)}; `read_libsvm` "
            "reads any file."
        )
    known = LIBSVM[name]
    return read_libsvm(_find(name), dim=known.dim, n_rows=known.rows)


def read_libsvm(
    path: Path, *, dim: int | None = None, n_rows: int | None = None, binary: bool = True
) -> Table:
    """A file of lines `label index:value ...`, indices from 1; plain, or .xz, .gz, .bz2.

    Args:
        path: the file.
        dim: d; a file may lack the last columns, so it is better said. The largest index if None.
        n_rows: how many rows are expected; any if None.
        binary: two labels, of which the larger becomes +1 and the other one -1. If False, labels
            are targets as they are.

    Returns:
        Sparse features.

    Raises:
        ValueError: the file is missing or cannot be read, has other counts than expected, holds NaN
            or infinity, or has other than two labels though `binary`.
    """
    X, labels = files.svmlight(path, dim, f"LIBSVM text{_counts(n_rows, dim)}")
    features = sparse.csr_array(X, dtype=np.float64)
    if n_rows is not None and features.shape[0] != n_rows:
        raise ValueError(
            f"{path} has {features.shape[0]} rows, but {n_rows} were expected: it is cut off, or "
            "another version. Fetch the file again, or use read_libsvm without n_rows."
        )
    targets = _signs(labels, path) if binary else labels
    return _finite(path, features, targets)


def read_npz(path: Path, *, features: str = "X", targets: str = "y") -> Table:
    """Two arrays of a NumPy archive, never unpickled; features of any shape become (m, d).

    Args:
        path: the file.
        features: the name in it of an array with one sample a row.
        targets: the name in it of one number a sample, kept as they are.

    Raises:
        ValueError: the file is missing or cannot be read, lacks an array, has Python objects in it,
            or holds NaN or infinity.
    """
    arrays = files.npz(path, features, targets)
    X, y = arrays[features], arrays[targets]
    try:
        if not {X.dtype.kind, y.dtype.kind} <= set("biuf"):
            raise TypeError(f"they are {X.dtype} and {y.dtype}")
        table = np.asarray(X, dtype=np.float64).reshape(len(X), -1)
        numbers = np.asarray(y, dtype=np.float64).reshape(len(X))
    except (ValueError, TypeError) as reason:
        expected = f"{features!r} and {targets!r} as numbers, one row a sample"
        raise ValueError(files.unreadable(path, expected, reason)) from None
    return _finite(path, table, numbers)


def breast_cancer_table() -> Table:
    """569 rows, d = 30, dense: malignant -1, benign +1."""
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    return Table(X, 2.0 * y - 1.0, 2.0 * y - 1.0)


def digits_table() -> Table:
    """1,797 images of 8 x 8, dense: even digits -1, odd ones +1; labels are the ten digits."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return Table(X, 2.0 * (y % 2) - 1.0, y.astype(np.float64))


def diabetes_table() -> Table:
    """442 rows, d = 10, dense: disease progression, standardised; no classes."""
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    targets = (y - y.mean()) / y.std()
    return standardised(Table(X, targets, targets))


Reader: TypeAlias = Callable[[], Table]

TABLES: Mapping[str, Reader] = {
    "breast_cancer": lambda: standardised(breast_cancer_table()),
    "digits": lambda: standardised(digits_table()),
    "diabetes": diabetes_table,
    **{name: partial(libsvm_named, name) for name in LIBSVM},
}
"""Tables by name; dense ones standardised, sparse ones as they are in the file."""


def table_named(name: str) -> Table:
    """The table of that name; raises ValueError with the known names for any other name."""
    if name not in TABLES:
        raise ValueError(f"There is no table {name!r}. Known tables: {', '.join(TABLES)}.")
    return TABLES[name]()


def _find(name: str) -> Path:
    """The file of a set, in the data folder or its folder `libsvm`, packed or not."""
    holds = f"{LIBSVM[name].rows} rows of LIBSVM text"
    without = "breast_cancer, which comes with scikit-learn"
    return files.found(name, [name], ["libsvm"], holds, without)


def _counts(n_rows: int | None, dim: int | None) -> str:
    rows = "" if n_rows is None else f" of {n_rows} rows"
    columns = "" if dim is None else f" with indices from 1 to {dim}"
    return rows + (columns or " with indices from 1")


def _signs(labels: Floats, path: Path) -> Floats:
    """-1 for the smaller label, +1 for the larger one."""
    different = np.unique(labels)
    if len(different) != 2:
        first = ", ".join(f"{label:g}" for label in different[:4])
        raise ValueError(
            f"{path} has {len(different)} different labels ({first}..), but two classes were "
            "expected. Use binary=False, and least squares on the labels as they are."
        )
    return np.where(labels == different[1], 1.0, -1.0)


def _finite(path: Path, features: Rows, targets: Floats) -> Table:
    bad = unfinished_row(features, targets)
    if bad is not None:
        raise ValueError(
            f"{path} holds NaN or infinity in row {bad + 1} of {features.shape[0]}, but every "
            "value has to be finite. Drop or fill such rows."
        )
    return Table(features, targets, targets)
