"""Quadratics whose matrices L_i share one sparse pattern: no d x d array, n up to thousands."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, eigvals_banded, solveh_banded
from scipy.sparse import csr_array

from subnetwork.shapes import Floats, PerWorker, Units, Vector
from subnetwork.theory.quadratics import Quadratics, not_definite
from subnetwork.theory.table import CSR, CSRIntegers


@dataclass(frozen=True, eq=False)
class SharedPattern:
    """f_i(x) = x' L_i x / 2 - x' b_i (eq. 9), the L_i in compressed rows on one pattern.

    Attributes:
        indptr: row j has the entries indptr[j] to indptr[j + 1].
        indices: the column of each entry.
        values: the entries of L_i, one row a worker.
        b: the vectors b_i.

    Raises:
        ValueError: arrays that do not belong together, an entry that is not finite, an index
            outside 0..d-1, or some L_i that is not symmetric.
    """

    indptr: Units
    indices: Units
    values: Floats
    b: PerWorker

    def __post_init__(self) -> None:
        d, nnz = self.b.shape[1], len(self.indices)
        if len(self.indptr) != d + 1 or self.indptr[-1] != nnz or len(self.b) != len(self.values):
            raise ValueError(
                f"A pattern of {len(self.indptr) - 1} rows and {self.indptr[-1]} entries, values "
                f"of shape {self.values.shape} and b of shape {self.b.shape} do not match: wanted "
                "are d rows, values (n, entries) and b (n, d)."
            )
        for name, array in (("values", self.values), ("b", self.b)):
            if not np.isfinite(array).all():
                worker = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise ValueError(
                    f"{name} of worker {worker} holds an entry that is not finite, so f has no "
                    "value. Drop or fill what made it."
                )
        self._require_symmetric()

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return int(self.b.shape[0])

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return int(self.b.shape[1])

    @cached_property
    def b_bar(self) -> Vector:
        """mean_i b_i, the vector of f."""
        return np.asarray(self.b.mean(axis=0))

    @cached_property
    def diagonals(self) -> PerWorker:
        """D_i = Diag(L_i), one diagonal a row."""
        rows = np.repeat(np.arange(self.dim), np.diff(self.indptr))
        on = np.flatnonzero(rows == self.indices)
        D = np.zeros_like(self.b)
        D[:, rows[on]] = self.values[:, on]
        return D

    @cached_property
    def minimiser(self) -> Vector:
        """x* = L_bar^-1 b_bar by banded Cholesky, O(d w^2) for the bandwidth w of the pattern.

        Raises:
            ValueError: L_bar is not positive definite.
        """
        band = self._band(self.values.mean(axis=0))
        lowest, highest = _extremes(band)
        if lowest <= self.dim * np.finfo(np.float64).eps * max(highest, 0.0):
            raise ValueError(not_definite("L_bar", lowest, highest))
        try:
            return np.asarray(solveh_banded(band, self.b_bar))
        except LinAlgError:  # so badly conditioned that rounding decides
            raise ValueError(not_definite("L_bar", lowest, highest)) from None

    @property
    def minimum(self) -> float:
        """f* = -x*' b_bar / 2."""
        return float(-self.minimiser @ self.b_bar / 2)

    def value(self, x: Vector) -> float:
        """f(x)."""
        return float(x @ (np.asarray(self._mean @ x) / 2 - self.b_bar))

    def gap(self, x: Vector) -> float:
        """f(x) - f* = |x - x*|^2_L / 2, without the cancellation of the difference."""
        error = x - self.minimiser
        return float(error @ np.asarray(self._mean @ error) / 2)

    def gradient(self, x: Vector) -> Vector:
        """Gradient of f: L_bar x - b_bar."""
        return np.asarray(self._mean @ x - self.b_bar)

    def worker_value(self, worker: int, x: Vector) -> float:
        """f_i(x)."""
        return float(x @ (self.worker_product(worker, x) / 2 - self.b[worker]))

    def worker_gradient(self, worker: int, x: Vector) -> Vector:
        """Gradient of f_i: L_i x - b_i."""
        return np.asarray(self.worker_product(worker, x) - self.b[worker])

    def worker_block_gradient(self, worker: int, units: Units, x_units: Vector) -> Vector:
        """[grad f_i(P_S x)]_S from the entries of x on S = `units`: the rows of S alone."""
        rows = self._places[units]  # csr whose entries are places in `values`
        x = np.zeros(self.dim)
        x[units] = x_units
        held = (self.values[worker, rows.data], rows.indices, rows.indptr)
        return np.asarray(csr_array(held, shape=rows.shape) @ x - self.b[worker, units])

    def worker_product(self, worker: int, v: Vector) -> Vector:
        """L_i v."""
        return np.asarray(self._matrix(self.values[worker]) @ v)

    def worker_smoothness(self, worker: int) -> float:
        """The largest eigenvalue of L_i."""
        return _extremes(self._band(self.values[worker]))[1]

    def worker_convexity(self, worker: int) -> float:
        """The smallest eigenvalue of L_i; f_i is convex if it is not negative."""
        return _extremes(self._band(self.values[worker]))[0]

    def minimised_at_zero(self) -> "SharedPattern":
        """The same L_i with b_i = 0: all f_i are minimal at zero (the slides' "interpolation")."""
        return SharedPattern(self.indptr, self.indices, self.values, np.zeros_like(self.b))

    def to_quadratics(self) -> Quadratics:
        """The same problem as dense matrices, n d^2 numbers: for tests and small d."""
        dense = [self._matrix(values).toarray() for values in self.values]
        return Quadratics(np.stack(dense), self.b)

    @cached_property
    def _mean(self) -> CSR:
        return self._matrix(self.values.mean(axis=0))

    @cached_property
    def _places(self) -> CSRIntegers:
        return csr_array(
            (np.arange(len(self.indices)), self.indices, self.indptr), shape=(self.dim, self.dim)
        )

    def _matrix(self, values: Floats) -> CSR:
        return csr_array((values, self.indices, self.indptr), shape=(self.dim, self.dim))

    def _band(self, values: Floats) -> Floats:
        """The upper band of a matrix on the pattern, as scipy.linalg wants it: (w + 1, d)."""
        rows = np.repeat(np.arange(self.dim), np.diff(self.indptr))
        above = self.indices - rows
        width = int(above.max(initial=0))
        band = np.zeros((width + 1, self.dim))
        upper = above >= 0
        band[width - above[upper], self.indices[upper]] = values[upper]
        return band

    def _require_symmetric(self) -> None:
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < self.dim:
            raise ValueError(
                f"The pattern has columns {self.indices.min()}..{self.indices.max()} in d="
                f"{self.dim} coordinates. Count columns from 0 to {self.dim - 1}."
            )
        numbered = self._places + 0
        numbered.data = numbered.data + 1  # a place 0 would be dropped as a zero
        turned = numbered.T.tocsr()
        turned.sort_indices()
        numbered.sort_indices()
        same = np.array_equal(turned.indices, numbered.indices) and np.array_equal(
            turned.indptr, numbered.indptr
        )
        gap = np.inf
        if same:
            mirrored = self.values[:, turned.data - 1] - self.values[:, numbered.data - 1]
            gap = float(np.abs(mirrored).max(initial=0.0))
        if gap > 1e-10 * np.abs(self.values).max(initial=0.0):
            raise ValueError(
                f"Some L_i differs from its transpose by {gap:.3g}, but eq. (9) wants symmetric "
                "matrices. Use (L + L')/2, which has the same f."
            )


def tridiagonal(
    n_workers: int = 10,
    dim: int = 1000,
    *,
    noise: float = 0.1,
    smallest: float = 1e-6,
    seed: int = 0,
) -> SharedPattern:
    """The quadratics of the PermK papers (Szlendak, Tyurin & Richtarik 2022), heterogeneous by s.

    L_i = nu_i/4 tridiag(-1, 2, -1) + mu I, b_i = nu_i/4 (-1 + s xi_i^b) e_1, nu_i = 1 + s xi_i,
    with xi standard Gaussian and mu so that the smallest eigenvalue of L_bar is `smallest`.

    Checked against public experiment code for these papers (`create_worst_case_functions` of
    `distributed_optimization_library`), which draws in the same order but in float32. From memory,
    not checked: that the papers run it with smallest = 1e-6 and d = 1000, from x^0 = sqrt(d) e_1.
    For large s some nu_i are negative: those f_i are not convex, while f is.

    Args:
        n_workers: n.
        dim: d.
        noise: s, the dial of heterogeneity; 0 makes all f_i equal.
        smallest: lambda_min(L_bar), positive.
        seed: of the Gaussians.

    Raises:
        ValueError: no workers or coordinates, or `smallest` is not positive.
    """
    if n_workers < 1 or dim < 1:
        raise ValueError(f"There is no problem on n_workers={n_workers}, dim={dim}. Use 1 or more.")
    if smallest <= 0:
        raise ValueError(
            f"smallest={smallest} would leave f without a minimiser. Use the papers' 1e-6."
        )
    xi, xi_b = np.random.default_rng(seed).standard_normal((n_workers, 2)).T
    nu = 1 + noise * xi
    T = csr_array(_second_differences(dim))
    T.sort_indices()
    on = np.repeat(np.arange(dim), np.diff(T.indptr)) == T.indices
    values = nu[:, None] * T.data
    lowest = _eigenvalue_of_differences(dim, float(nu.mean()))
    values[:, on] += smallest - lowest
    b = np.zeros((n_workers, dim))
    b[:, 0] = nu / 4 * (-1 + noise * xi_b)
    return SharedPattern(T.indptr.astype(np.int64), T.indices.astype(np.int64), values, b)


def _second_differences(dim: int) -> CSR:
    """tridiag(-1, 2, -1) / 4."""
    j = np.arange(dim)
    rows, columns = np.concatenate([j, j[1:], j[:-1]]), np.concatenate([j, j[:-1], j[1:]])
    entries = np.concatenate([np.full(dim, 0.5), np.full(2 * dim - 2, -0.25)])
    return csr_array((entries, (rows, columns)), shape=(dim, dim))


def _eigenvalue_of_differences(dim: int, nu: float) -> float:
    """The smallest eigenvalue of nu tridiag(-1, 2, -1) / 4: nu (1 -+ cos(pi / (d + 1))) / 2."""
    angle = np.pi / (dim + 1)
    return nu * float(np.sin(angle / 2) ** 2 if nu > 0 else np.cos(angle / 2) ** 2)


def _extremes(band: Floats) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of a banded matrix."""
    last = band.shape[1] - 1
    lowest = eigvals_banded(band, select="i", select_range=(0, 0))
    highest = eigvals_banded(band, select="i", select_range=(last, last))
    return float(lowest[0]), float(highest[0])
