"""Tables: scikit-learn's bundled ones, LIBSVM files, and rows with several labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from subnetwork import files
from subnetwork.nets.data.sets import DataSet, parted

WITHOUT = "breast_cancer, which comes with scikit-learn"
LIBSVM = {
    "a9a": (32_561, 123),
    "mushrooms": (8_124, 112),
    "phishing": (11_055, 68),
    "w8a": (49_749, 300),
}
TEST_SETS = {"a9a": ("a9a.t", 16_281)}


@dataclass(frozen=True)
class Known:
    """What a file of rows with several labels is known to hold."""

    train: int
    test: int
    features: int
    labels: int


MULTILABEL = {
    "bibtex": Known(4_880, 2_515, 1_836, 159),
    "delicious": Known(12_920, 3_185, 500, 983),
}


def bundled(name: str, seed: int) -> DataSet:
    """breast_cancer, iris or wine of scikit-learn, standardised; a fifth is the test set."""
    from sklearn import datasets

    load: Callable[..., tuple[Tensor, Tensor]] = getattr(datasets, f"load_{name}")
    X, y = map(np.asarray, load(return_X_y=True))
    inputs = torch.as_tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
    targets = torch.as_tensor(y, dtype=torch.int64)
    return parted(name, inputs, targets, int(targets.max()) + 1, seed)


@lru_cache(maxsize=4)
def libsvm(name: str, seed: int) -> DataSet:
    """A LIBSVM set of two classes, dense; a fifth is the test set where it has none of its own."""
    n_rows, dim = LIBSVM[name]
    inputs, targets = _libsvm(name, n_rows, dim)
    if name not in TEST_SETS:
        return parted(name, inputs, targets, 2, seed)
    return DataSet(name, inputs, targets, *_libsvm(*TEST_SETS[name], dim), n_classes=2)


def _libsvm(name: str, n_rows: int, dim: int) -> tuple[Tensor, Tensor]:
    holds = f"{n_rows} rows of LIBSVM text"
    path = files.found(name, [name], ["libsvm"], holds, WITHOUT)
    X, y = files.svmlight(path, dim, f"LIBSVM text of {n_rows} rows with indices from 1 to {dim}")
    files.require_rows(path, len(y), n_rows)
    n_labels, finite = len(np.unique(y)), np.isfinite(X.data).all()
    if n_labels != 2 or not finite:
        fault = "NaN or infinity" if not finite else f"{n_labels} different labels, not 2"
        raise ValueError(f"{path} holds {fault}: {files.AGAIN}")
    return torch.as_tensor(X.toarray(), dtype=torch.float32), torch.as_tensor(y == y.max()).long()


@lru_cache(maxsize=2)
def multilabel(name: str) -> DataSet:
    """Bibtex or Delicious: binary features as unit rows, a target of zero or one for each label."""
    known = MULTILABEL[name]
    holds = f"{known.train} training and {known.test} test rows"
    path = files.found(name, [f"{name}.npz"], ["multilabel"], holds, WITHOUT)
    held = files.npz(path)
    tensors = []
    for part, n in (("train", known.train), ("test", known.test)):
        for what, width in (("x", known.features), ("y", known.labels)):
            indptr, indices = f"{what}_indptr_{part}", f"{what}_indices_{part}"
            files.require_sparse(path, held, indptr, indices, (n, width))
            tensors.append(_dense(held[indptr], held[indices], width))
    train, train_labels, test, test_labels = tensors
    return DataSet(
        name, _unit_rows(train), train_labels, _unit_rows(test), test_labels, known.labels
    )


def _dense(indptr: np.ndarray, indices: np.ndarray, width: int) -> Tensor:
    from scipy.sparse import csr_array

    ones = np.ones(len(indices), np.float32)
    rows = csr_array((ones, indices.astype(np.int64), indptr), shape=(len(indptr) - 1, width))
    return torch.as_tensor(rows.toarray())


def _unit_rows(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x)


TABLES: Mapping[str, Callable[[int], DataSet]] = {
    **{name: partial(bundled, name) for name in ("breast_cancer", "iris", "wine")},
    **{name: partial(libsvm, name) for name in LIBSVM},
    "bibtex": lambda _: multilabel("bibtex"),
    "delicious": lambda _: multilabel("delicious"),
}
