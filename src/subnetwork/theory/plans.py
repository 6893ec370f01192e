"""What a simulation hands to its compiled rounds: arrays in their order, and how many seeds share.

A plan is picked by the matrices and the deal alone, never by the number of seeds, so that a seed's
bits are the same in any company.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from subnetwork.deals import Bernoulli, Deal, Full, Perm, RandQ
from subnetwork.shapes import Floats, PerWorker
from subnetwork.theory.kernels import bands, draws, single
from subnetwork.theory.kernels import dense as dense_kernel
from subnetwork.theory.problems import Quadratics

FORMS = {
    "update": dense_kernel.UPDATE,
    "merge": dense_kernel.MERGE,
    "holders": dense_kernel.HOLDERS,
}
CACHE = 1 << 20  # bytes; half of what recent cores have for themselves
WIDEST = 256  # seeds that share a read of L_i where it comes from memory
LARGEST = (1 << 16) - 1  # workers and coordinates are 16-bit numbers in the kernels

Keys = NDArray[np.uint64]
Span = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """Compiled rounds.

    Attributes:
        dim: d.
        width: seeds to run in lockstep.
        advance: (X, keys, span) takes the rows of X, one a seed, through rounds span[0] to
            span[1] - 1; `keys` are those of the seeds.
    """

    dim: int
    width: int
    advance: Callable[[Floats, Keys, Span], None]


def dense(
    problem: Quadratics, deal: Deal, scales: PerWorker, gamma: float, n_steps: int, form: str
) -> Plan:
    """Any deal of `law`, whole L_i."""
    n, d = problem.b.shape
    setup = dense_kernel.Dense(
        L=np.ascontiguousarray(problem.L).reshape(-1),
        b=np.ascontiguousarray(problem.b),
        scales=np.ascontiguousarray(scales),
        law=law(deal, d),
        step_size=float(gamma),
        n_steps=n_steps,
        form=FORMS[form],
        tile=max(4, CACHE // (8 * d)),
    )
    columns = n if isinstance(deal, Perm) else 1
    return Plan(d, _width(8 * n * d * d, 48 * d + 8 * n), partial(_dense, setup, columns))


def perm1(
    problem: Quadratics, deal: Deal, scales: PerWorker, gamma: float, n_steps: int, form: str
) -> Plan:
    """Perm on n = d workers: n_steps steps on one coordinate are one line a x + c."""
    n, d = problem.b.shape
    shrink = 1 - gamma * scales * problem.diagonals
    powers = np.ones_like(shrink)
    intercept = np.zeros_like(shrink)
    for _ in range(n_steps):
        intercept += powers
        powers *= shrink
    intercept *= gamma * scales * problem.b
    slope = powers * scales
    if form == "update":
        slope = 1 + (powers - 1) * scales / n
    elif form == "merge":
        slope = slope / n
    if form != "holders":
        intercept /= n
    setup = single.Single(
        table=np.stack([slope.T, intercept.T], axis=-1).reshape(-1),
        law=law(deal, d),
        tile=max(16, CACHE // (64 * n)),
    )
    return Plan(d, _width(16 * n * d, 10 * d + 8 * n), partial(_single, setup))


def banded(
    arrays: tuple[PerWorker, Floats, PerWorker, Floats],
    deal: Perm,
    gamma: float,
    n_steps: int,
    form: str,
) -> Plan:
    """Perm on tridiagonal L_i, given as (diag, off, b, scales)."""
    n, d = arrays[0].shape
    diag, off, b, scales = (np.ascontiguousarray(array) for array in arrays)
    setup = bands.Bands(
        diag, off, b, scales, law(deal, d), float(gamma), n_steps=n_steps, form=FORMS[form]
    )
    return Plan(d, _width(0, 10 * d + 8 * n), partial(_banded, setup))


def law(deal: Deal, dim: int) -> draws.Law:
    """A deal in the numbers of its compiled twin; raises ValueError where it has none."""
    if max(dim, deal.n_workers) > LARGEST:
        raise ValueError(
            f"The compiled simulation counts to {LARGEST}, but there are d={dim} coordinates and "
            f"n_workers={deal.n_workers}. Use `rounds`."
        )
    ones = np.ones(deal.n_workers, dtype=np.int64)
    match deal:
        case Full():
            return draws.Law(draws.FULL, 0, ones, 0, True)
        case Perm():
            weights = np.array(deal.weights or ones, dtype=np.int64)
            even = not (dim * weights % weights.sum()).any()
            return draws.Law(draws.PERM, 0, weights, 0, bool(even))
        case RandQ():
            return draws.Law(draws.RAND_Q, deal.q, ones, 0, True)
        case Bernoulli():
            return draws.Law(draws.BERNOULLI, round(deal.p * 2**32), ones, 0, True)
    raise ValueError(
        f"The compiled simulation deals by Full, Perm, RandQ or Bernoulli, not by {deal}. Use "
        "`rounds`, which takes any deal."
    )


def _width(shared: int, own: int) -> int:
    """Seeds in lockstep, where all read `shared` bytes and each has `own` bytes for itself."""
    return WIDEST if shared > CACHE else max(16, min(WIDEST, CACHE // (4 * own)))


def _dense(setup: dense_kernel.Dense, columns: int, X: Floats, keys: Keys, span: Span) -> None:
    m, d = X.shape
    desk = dense_kernel.Desk(
        own=np.empty((m, d), dtype=np.uint16),
        hands=np.empty((m, d), dtype=np.uint16),
        ends=np.empty((m, columns + 1), dtype=np.int64),
        at=np.empty(m, dtype=np.int64),
        z=np.empty((m, d)),
        grad=np.empty((m, d)),
        moved=np.zeros((m, d)),
        holders=np.zeros((m, d)),
    )
    dense_kernel.dense_rounds(setup, X, keys, span, desk)


def _single(setup: single.Single, X: Floats, keys: Keys, span: Span) -> None:
    m, d = X.shape
    n = len(setup.law.weights)
    desk = single.SingleDesk(np.empty((m, d), np.uint16), np.empty((m, n + 1), np.int64))
    single.single_rounds(setup, X, keys, span, desk)


def _banded(setup: bands.Bands, X: Floats, keys: Keys, span: Span) -> None:
    m, d = X.shape
    n = len(setup.law.weights)
    room = (np.empty(d) for _ in range(7))
    desk = bands.BandsDesk(np.empty((m, d), np.uint16), np.empty((m, n + 1), np.int64), *room)
    bands.bands_rounds(setup, X, keys, span, desk)
