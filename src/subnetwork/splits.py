"""Which rows of a data set go to which worker: even, by label, Dirichlet, or by given clients.

The lab and the engine share them. Random splits are keyed by an integer seed alone, as deals are.
Every split gives each row to one worker and each worker a row, or says why it cannot.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from subnetwork.keys import DATA, key, shuffled, words
from subnetwork.shapes import Floats, Units

Parts: TypeAlias = Sequence[Units]
"""Which rows each worker has; one array a worker."""


_MOST_LABELS = 100  # more different labels than this are measurements and no classes
_MOST_DRAWS = 100  # of Dirichlet's shares, until each worker has a row


def consecutive(n_rows: int, n_workers: int) -> Parts:
    """Rows in their order, m/n a worker, the first m mod n workers one more.

    Raises:
        ValueError: no workers, or more workers than rows.

    >>> [rows.tolist() for rows in consecutive(5, 2)]
    [[0, 1, 2], [3, 4]]
    """
    return _cut(np.arange(n_rows), n_workers)


def iid(n_rows: int, n_workers: int, *, seed: int) -> Parts:
    """Rows in random order, m/n a worker; raises as `consecutive`.

    >>> [rows.tolist() for rows in iid(5, 2, seed=0)]
    [[1, 2, 4], [0, 3]]
    """
    return _cut(_shuffled(np.arange(n_rows), seed, 0), n_workers)


def by_label(labels: Floats, n_workers: int) -> Parts:
    """Rows sorted by label, then cut evenly: most workers see one label; raises as `consecutive`.

    >>> [rows.tolist() for rows in by_label(np.array([1.0, -1.0, 1.0, -1.0]), 2)]
    [[1, 3], [0, 2]]
    """
    return _cut(np.argsort(labels, kind="stable"), n_workers)


def dirichlet(labels: Floats, n_workers: int, *, alpha: float, seed: int) -> Parts:
    """Each label's rows dealt out in shares from a symmetric Dirichlet(alpha) law over workers.

    Small alpha: a label sits with few workers; large alpha: iid. Shares that leave a worker without
    a row are drawn anew, up to 100 times. A seed names the same split on every machine as long as
    NumPy keeps its gamma variates (a test holds the first ones).

    Args:
        labels: the class of each row.
        n_workers: n.
        alpha: concentration, positive.
        seed: of the order of rows and of the shares.

    Raises:
        ValueError: alpha is not positive, labels are no classes, more workers than rows, or no
            draw gives each worker a row.
    """
    _require_rows(len(labels), n_workers)
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha={alpha} is no concentration. Use a positive one, such as 0.5.")
    classes = np.unique(labels)
    if len(classes) > _MOST_LABELS:
        raise ValueError(
            f"The rows have {len(classes)} different labels, which are measurements and no "
            "classes. Split iid, or round the labels to classes first."
        )
    rows = [
        _shuffled(np.flatnonzero(labels == label), seed, 2 + c) for c, label in enumerate(classes)
    ]
    rng = np.random.default_rng(key(seed, DATA, 1))
    for _ in range(_MOST_DRAWS):
        parts = _shared_out(rows, rng.dirichlet(np.full(n_workers, alpha), size=len(rows)))
        empty = sum(len(part) == 0 for part in parts)
        if not empty:
            return parts
    raise ValueError(
        f"Dirichlet with alpha={alpha:g} leaves {empty} of {n_workers} workers without a row, as "
        f"did {_MOST_DRAWS} draws. Use alpha={max(10 * alpha, 1.0):g} or more, or fewer workers."
    )


def _shared_out(rows: Sequence[Units], shares: Floats) -> Parts:
    """Each label's rows by its line of shares, one a worker."""
    n_workers = shares.shape[1]
    hands: list[list[Units]] = [[] for _ in range(n_workers)]
    for of_label, share in zip(rows, shares, strict=True):
        ends = np.rint(np.cumsum(share)[:-1] * len(of_label)).astype(np.int64)
        for hand, piece in zip(hands, np.split(of_label, ends), strict=True):
            hand.append(piece)
    return _sorted(np.concatenate(hand) for hand in hands)


def by_client(clients: Iterable[object]) -> Parts:
    """One worker for each client id, in ascending order of the ids; `clients` has one a row.

    Raises:
        ValueError: there are no ids.

    >>> [rows.tolist() for rows in by_client(["b", "a", "b"])]
    [[1], [0, 2]]
    """
    ids = np.asarray(list(clients))
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError(
            f"Client ids of shape {ids.shape} name no client for each row. Give one id a row."
        )
    return tuple(np.flatnonzero(ids == client) for client in np.unique(ids))


def _cut(order: Units, n_workers: int) -> Parts:
    _require_rows(len(order), n_workers)
    return _sorted(np.array_split(order, n_workers))


def _sorted(parts: Iterable[Units]) -> Parts:
    return tuple(np.sort(rows) for rows in parts)


def _shuffled(rows: Units, seed: int, axis: int) -> Units:
    order = shuffled(len(rows), words(key(seed, DATA, axis)))
    return rows[np.asarray(order, dtype=np.int64)]


def _require_rows(n_rows: int, n_workers: int) -> None:
    if not 1 <= n_workers <= n_rows:
        raise ValueError(
            f"{n_rows} rows cannot be dealt over n_workers={n_workers}: every f_i needs a row. Use "
            f"1 to {n_rows} workers."
        )
