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
    one = bool((scales == scales[0, 0]).all())
    line = one and n_steps == 1 and isinstance(deal, Perm)
    keep, rate, lift = _line(float(scales[0, 0]), gamma, n, form) if line else (0.0, 0.0, 1.0)
    setup = dense_kernel.Dense(
        L=np.ascontiguousarray(problem.L).reshape(-1),
        b=np.ascontiguousarray(lift * problem.b).reshape(-1),
        scales=scales[:1, :1].reshape(-1) if one else np.ascontiguousarray(scales).reshape(-1),
        mask=np.uint64(0 if one else 2**64 - 1),
        law=law(deal, d),
        step_size=float(gamma),
        n_steps=n_steps,
        form=FORMS[form],
        tile=max(4, CACHE // (8 * d)),
        line=line,
        keep=keep,
        rate=rate,
    )
    return Plan(d, _width(8 * n * d * d, 48 * d), partial(_dense, setup))


def _line(s: float, gamma: float, n: int, form: str) -> tuple[float, float, float]:
    """A round of Perm, C_i = s P_i, one step: x_j <- keep x_j - rate [L_i x]_j + lift b_ij.

    z = s x - gamma s (s L_i x - b_i) on what worker i holds; the merge takes z, z/n, or moves x by
    (z - s x)/n.
    """
    if form == "holders":
        return s, gamma * s**2, gamma * s
    return 1.0 if form == "update" else s / n, gamma * s**2 / n, gamma * s / n


def perm1(
    diagonals: PerWorker,
    b: PerWorker,
    deal: Deal,
    scales: Floats,
    gamma: float,
    n_steps: int,
    form: str,
) -> Plan:
    """Perm on n = d workers: n_steps steps on one coordinate are one line a x + c."""
    n, d = b.shape
    shrink = 1 - gamma * scales * diagonals
    powers = np.ones_like(shrink)
    intercept = np.zeros_like(shrink)
    for _ in range(n_steps):
        intercept += powers
        powers *= shrink
    intercept *= gamma * scales * b
    table = _merged(powers * scales, intercept, scales, form)
    lines, rows = _by_coordinate(*table)
    setup = single.Single(lines, rows, law(deal, d), tile=_table_tile(n))
    return Plan(d, _width(lines.nbytes, 10 * d), partial(_single, setup))


def banded(
    arrays: tuple[PerWorker, Floats, PerWorker, Floats],
    deal: Perm,
    gamma: float,
    n_steps: int,
    form: str,
) -> Plan:
    """Perm on tridiagonal L_i, given as (diag, off, b, scales)."""
    diag, off, b, scales = arrays
    n, d = diag.shape
    scales = np.array(np.broadcast_to(scales, (n, d)))
    rate = gamma * scales
    a, c, sides = 1 - rate * diag, rate * b, np.zeros((n, d, 2))
    sides[:, 1:, 0] = -rate[:, 1:] * off
    sides[:, :-1, 1] = -rate[:, :-1] * off
    if n_steps == 1:  # tables for x in place of z = s x
        a, c = _merged(a * scales, c, scales, form)
        sides[:, 1:, 0] *= scales[:, :-1]
        sides[:, :-1, 1] *= scales[:, 1:]
        sides /= 1 if form == "holders" else n
    lines, rows = _by_coordinate(a, c)
    setup = bands.Bands(
        table=lines,
        rows=rows,
        sides=sides.reshape(-1),
        scales=scales.reshape(-1),
        law=law(deal, d),
        n_steps=n_steps,
        form=FORMS[form],
        tile=_table_tile(n),
    )
    return Plan(d, _width(lines.nbytes, 10 * d), partial(_banded, setup))


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


def _merged(
    slope: PerWorker, intercept: PerWorker, scales: Floats, form: str
) -> tuple[PerWorker, PerWorker]:
    """The x after the merge as a line of the x before it, given z as one."""
    n = len(slope)
    if form == "holders":
        return slope, intercept
    if form == "merge":
        return slope / n, intercept / n
    return 1 + (slope - scales) / n, intercept / n


def _by_coordinate(a: PerWorker, c: PerWorker) -> tuple[Floats, Span]:
    """(a, c) side by side, all workers of a coordinate together; where a coordinate's row begins.

    A coordinate with the numbers of the one before it shares its row: the quadratics of the PermK
    papers have two, which stay in cache where d would not.
    """
    n, d = a.shape
    new = np.ones(d, dtype=bool)
    new[1:] = ((a[:, 1:] != a[:, :-1]) | (c[:, 1:] != c[:, :-1])).any(axis=0)
    lines = np.stack([a.T[new], c.T[new]], axis=-1).reshape(-1)
    return lines, 2 * n * (new.cumsum() - 1)


def _table_tile(n_workers: int) -> int:
    return max(16, CACHE // (64 * n_workers))


def _width(shared: int, own: int) -> int:
    """Seeds in lockstep, where all read `shared` bytes and each has `own` bytes for itself."""
    return WIDEST if shared > CACHE else max(16, min(WIDEST, CACHE // (4 * own)))


def deck(m: int, dim: int, law: draws.Law) -> draws.Deck:
    """Room for the draws of m seeds."""
    n = len(law.weights)
    cards = draws.Deck(
        positions=np.empty(dim, dtype=np.uint16),
        swaps=_from_line_start(dim),
        own=np.empty(m * dim, dtype=np.uint16),
        hands=np.empty(m * dim, dtype=np.uint16),
        ends=np.empty(max(m * 2, n + 1 if law.even else m * (n + 1)), dtype=np.int64),
        at=np.empty(n, dtype=np.uint64),
    )
    if law.kind == draws.PERM and law.even:
        sizes = dim * law.weights // law.weights.sum()
        cards.ends[0], cards.ends[1 : n + 1] = 0, sizes.cumsum()
        cards.positions[:] = np.repeat(np.arange(n), sizes)
    elif law.kind == draws.RAND_Q:
        cards.positions[:] = np.arange(dim) >= law.number
    return cards


def _from_line_start(size: int) -> NDArray[np.uint32]:
    """Numbers that are written by vectors and read singly: twice as slow across two lines."""
    room = np.empty(size + 16, dtype=np.uint32)
    skip = -room.ctypes.data % 64 // 4
    return room[skip : skip + size]


def _dense(setup: dense_kernel.Dense, X: Floats, keys: Keys, span: Span) -> None:
    m, d = X.shape
    sums = 0 if setup.law.kind == draws.PERM else m * d
    desk = dense_kernel.Desk(
        z=np.empty(m * d),
        grad=np.empty(m * d),
        done=np.empty(m, dtype=np.uint64),
        moved=np.zeros(sums),
        holders=np.zeros(sums),
    )
    cards = deck(m, d, setup.law)
    dense_kernel.dense_rounds(setup, X.reshape(-1), keys, span, cards, desk)


def _single(setup: single.Single, X: Floats, keys: Keys, span: Span) -> None:
    cards = deck(len(X), X.shape[1], setup.law)
    single.single_rounds(setup, X.reshape(-1), keys, span, cards)


def _banded(setup: bands.Bands, X: Floats, keys: Keys, span: Span) -> None:
    cards = deck(len(X), X.shape[1], setup.law)
    bands.bands_rounds(setup, X.reshape(-1), keys, span, cards)
