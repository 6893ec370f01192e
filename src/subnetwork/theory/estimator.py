"""The gradient estimator g(x) = B x - u of eqs. (10)-(11) as data, and the law of who holds what.

For diagonal sketches B = sum_i P_i G_i P_i and u = sum_i P_i U_i, where P_i keeps the coordinates
of worker i: G and U are fixed by the problem and the scales, the P_i are random. So every moment of
B and u is a function of `Estimator`; `subnetwork.theory.moments` has them.
"""

from dataclasses import dataclass
from math import perm

import numpy as np

from subnetwork.deals import Bernoulli, Deal, Full, Perm, RandQ
from subnetwork.shapes import Matrices, Matrix, PerWorker, Vector
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import Dealt, DiagonalPartition, DiagonalSketch


@dataclass(frozen=True)
class Occupancy:
    """How likely given coordinates are held together; the same for all workers and coordinates.

    Attributes:
        together: together[r] = P(r given coordinates are all with worker i), r = 0..4.
        apart: apart[a][b] = P(a given coordinates are with worker i and b other ones with another
            worker i'), a, b = 0..2. Says something for disjoint hands only.
        disjoint: no coordinate has two holders; if False, hands of two workers are independent.
    """

    together: tuple[float, ...]
    apart: tuple[tuple[float, ...], ...]
    disjoint: bool


def occupancy(deal: Deal, dim: int) -> Occupancy:
    """The occupancy of a deal on an axis of `dim` coordinates.

    Raises:
        ValueError: Perm with weights, whose workers differ, or a deal without a closed form.
    """
    match deal:
        case Full():
            return Occupancy((1.0,) * 5, (), disjoint=False)
        case Bernoulli():
            return Occupancy(tuple(deal.p**r for r in range(5)), (), disjoint=False)
        case RandQ():
            together = tuple(_ratio(float(perm(deal.q, r)), dim, r) for r in range(5))
            return Occupancy(together, (), disjoint=False)
        case Perm(weights=None):
            return _dealt_out(deal.n_workers, dim)
    raise ValueError(
        f"Moments of {deal} have no closed form here, as its workers are not exchangeable. Use "
        "equal weights, or simulate."
    )


def _dealt_out(n: int, d: int) -> Occupancy:
    """Perm: sizes are q = floor(d/n), with one more for d mod n workers drawn at random."""
    q, more = divmod(d, n)
    together = tuple(
        _ratio(((n - more) * perm(q, r) + more * perm(q + 1, r)) / n, d, r) for r in range(5)
    )
    if n == 1:
        return Occupancy(together, ((0.0,) * 3,) * 3, disjoint=True)
    pairs = (
        (q, q, (n - more) * (n - more - 1)),
        (q, q + 1, (n - more) * more),
        (q + 1, q, (n - more) * more),
        (q + 1, q + 1, more * (more - 1)),
    )

    def both(a: int, b: int) -> float:
        """P(a given coordinates with worker i, b others with worker i')."""
        mean = sum(perm(s, a) * perm(t, b) * count for s, t, count in pairs) / (n * (n - 1))
        return _ratio(mean, d, a + b)

    apart = tuple(tuple(both(a, b) for b in range(3)) for a in range(3))
    return Occupancy(together, apart, disjoint=True)


def _ratio(ways: float, d: int, r: int) -> float:
    """`ways` out of the d (d-1) .. (d-r+1) places for r coordinates; 0 where d < r."""
    return ways / perm(d, r) if r <= d else 0.0


@dataclass(frozen=True, eq=False)
class Estimator:
    """g(x) = B x - u with B = sum_i P_i G_i P_i and u = sum_i P_i U_i (eqs. 10-11)."""

    G: Matrices
    U: PerWorker
    occupancy: Occupancy

    @property
    def diagonals(self) -> PerWorker:
        """The diagonal of G_i in row i: for q = 1 all of G_i that matters."""
        return np.array(np.einsum("ijj->ij", self.G))


def estimator(problem: Quadratics, sketch: DiagonalSketch) -> Estimator:
    """The estimator of a sketch on a problem: x+ = x - gamma g(x).

    On paper the update form (2) is meant: G_i = C_i L_i C_i / n and U_i = C_i b_i / n on the
    coordinates worker i holds. As trained, the holders' merge is meant, which multiplies the
    displacement of an entry's only holder by 1 in place of 1/n.

    Raises:
        ValueError: a deal without closed-form moments; as trained, a deal whose number of holders
            is random, as the merge divides by it.
    """
    s = sketch.scales
    share = 1 / problem.n_workers
    if isinstance(sketch, Dealt) and sketch.semantics == "as trained":
        share = _share_as_trained(sketch.deal)
    G = share * problem.L * s[:, :, None] * s[:, None, :]
    return Estimator(G, share * s * problem.b, occupancy(sketch.deal, problem.dim))


def _share_as_trained(deal: Deal) -> float:
    if isinstance(deal, Perm):
        return 1.0
    if isinstance(deal, Full):
        return 1 / deal.n_workers
    raise ValueError(
        f"As trained, {deal} leaves the number of holders of an entry to chance and the merge "
        "divides by it, so g is not of the form (10). Use Perm or Full, or the semantics 'paper'."
    )


def drawn(e: Estimator, partition: DiagonalPartition) -> tuple[Matrix, Vector]:
    """(B, u) of one draw, by dense matrices: the slow definition that the moments are tested with.

    >>> from subnetwork.deals import Full
    >>> from subnetwork.theory.problems import trig
    >>> problem = trig(2, 3)
    >>> sketch = Dealt(Full(2), 3, "paper")
    >>> B, u = drawn(estimator(problem, sketch), sketch.sample(0, 0))
    >>> bool(np.allclose(B, problem.L_bar)), bool(np.allclose(u, problem.b_bar))
    (True, True)
    """
    held = (partition.scale != 0).astype(np.float64)
    B = np.einsum("ij,ijl,il->jl", held, e.G, held)
    return B, np.asarray((held * e.U).sum(axis=0))
