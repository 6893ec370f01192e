"""Sums over coordinates by what coincides: the arithmetic behind `subnetwork.theory.moments`.

Split G_i into diagonal and rest, G_i = D_i + O_i. Entry (j, m) of B M B' sums over workers i, i'
and coordinates l, p of [G_i]_jl M_lp [G_i']_mp, times the probability that worker i holds {j, l}
and worker i' holds {m, p}. That probability depends only on which of the four coincide. So each of
the products DD, DO, OD, OO gets the weight of "all different", and then, for every coincidence
(p = j, l = m, l = p), the difference to its true weight. Nothing is assumed of M; G_i need not be
symmetric.
"""

from dataclasses import astuple, dataclass

import numpy as np

from subnetwork.shapes import Floats, Matrix, Vector


@dataclass(frozen=True)
class Weights:
    """Weights of one term of (B M B')_jm, j != m, by the coordinates that coincide."""

    dd: float  # {j}, {m}
    od: float  # {j, l}, {m}, all different
    do: float  # {j}, {m, p}, all different
    once: float  # three coordinates in OD, DO, that coincide to two: l = m, or p = j
    oo: float  # {j, l}, {m, p}, all different
    oo_once: float  # one coincidence among the four
    oo_twice: float  # l = m and p = j

    def minus(self, other: "Weights") -> "Weights":
        """The difference, weight by weight."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Weights(*(one - two for one, two in pairs))


NOTHING = Weights(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def own(G: Matrix, M: Matrix, p: tuple[float, ...], less: Weights = NOTHING) -> Matrix:
    """E[P G P M P G' P] for one worker that holds r given coordinates with probability p[r].

    Off the diagonal `less` is taken from the weights: the terms of two workers, which are a sum
    over all pairs of workers without the pairs of one with itself.
    """
    same = Weights(dd=p[2], od=p[3], do=p[3], once=p[2], oo=p[4], oo_once=p[3], oo_twice=p[2])
    FM = off(G) @ M
    block = off_diagonal(G, M, same.minus(less), FM)
    np.fill_diagonal(block, _diagonal(G, M, p, FM))
    return block


def off_diagonal(G: Matrix, M: Matrix, w: Weights, FM: Matrix) -> Matrix:
    """sum_lp weight(j, l, m, p) G_jl M_lp G_mp for j != m; the diagonal holds no meaning.

    FM is off(G) @ M. Two products of matrices where M is symmetric, as in all curves.
    """
    f, F, M_diag = np.diag(G), off(G), np.diag(M)
    MF = FM.T if np.array_equal(M, M.T) else M @ F.T
    DD = np.outer(f, f) * M
    DO, DO_hit = f[:, None] * MF, (f * M_diag)[:, None] * F.T  # hit: p = j
    OD, OD_hit = FM * f, F * (M_diag * f)  # hit: l = m
    OO = (w.oo * FM + (w.oo_once - w.oo) * (F * M_diag)) @ F.T  # all different, and l = p
    hits = F * np.diag(MF) + np.diag(FM)[:, None] * F.T  # l = m, p = j
    both = F * M.T * F.T  # l = m and p = j, counted twice in hits
    return np.asarray(
        w.dd * DD
        + w.do * DO
        + w.od * OD
        + (w.once - w.do) * DO_hit
        + (w.once - w.od) * OD_hit
        + OO
        + (w.oo_once - w.oo) * hits
        + (w.oo_twice - 2 * w.oo_once + w.oo) * both
    )


def _diagonal(G: Matrix, M: Matrix, p: tuple[float, ...], FM: Matrix) -> Vector:
    """E[(P G P M P G' P)_jj]: one coordinate (DD), two (DO, OD), two or three (OO)."""
    f, F = np.diag(G), off(G)
    single = f**2 * np.diag(M) * p[1]
    double = f * ((F * M.T).sum(axis=1) + (M * F).sum(axis=1)) * p[2]
    squares = F**2 @ np.diag(M)  # l = p
    return np.asarray(single + double + p[2] * squares + p[3] * ((FM * F).sum(axis=1) - squares))


def off(G: Floats) -> Floats:
    """G (the last two axes) with a zero diagonal."""
    return np.asarray(G * (1 - np.eye(G.shape[-1])))


def with_diagonal(off: Matrix, like: Matrix) -> Matrix:
    """`off` with the diagonal of `like`."""
    result = off.copy()
    np.fill_diagonal(result, np.diag(like))
    return result
