"""The gradient estimator g(x) = B x - u of eqs. (10)-(11) as data, and the law of who holds what.

For diagonal sketches B = sum_i P_i G_i P_i and u = sum_i P_i U_i, where P_i keeps the coordinates
of worker i: G and U are fixed by the problem and the scales, the P_i are random. So every moment of
B and u is a function of `Estimator`; `subnetwork.theory.moments` has them.
"""

from dataclasses import dataclass, field, replace
from math import perm

import numpy as np

from subnetwork.deals import Bernoulli, Deal, Full, Perm, RandQ
from subnetwork.shapes import Floats, Matrices, Matrix, PerWorker, Vector
from subnetwork.theory.copies import Copies
from subnetwork.theory.jacobi import Jacobi
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import Dealt, DiagonalPartition, DiagonalSketch


@dataclass(frozen=True)
class Occupancy:
    """How likely given coordinates are held together; the same for all coordinates.

    Attributes:
        together: together[r] = P(r given coordinates are all with worker i), r = 0..4.
        apart: apart[a][b] = P(a given coordinates are with worker i and b other ones with another
            worker i'), a, b = 0..2. Says something for hands drawn together only.
        disjoint: hands are drawn together; if False, hands of two workers are independent.
        shared: P(worker i and another worker i' both hold a given coordinate); 0 but for `Copies`.
        sizes: |S_i| where the workers' shares differ. `together` and `apart` are then those of
            given coordinates and given *places* in the hands; `of_worker` counts the places.
    """

    together: tuple[float, ...]
    apart: tuple[tuple[float, ...], ...]
    disjoint: bool
    shared: float = 0.0
    sizes: tuple[int, ...] = ()

    def of_worker(self, worker: int) -> tuple[float, ...]:
        """`together` of one worker."""
        if not self.sizes:
            return self.together
        places = (perm(self.sizes[worker], r) for r in range(5))
        return tuple(p * ways for p, ways in zip(self.together, places, strict=True))

    def of_workers(self, r: int, n: int) -> Floats:
        """P(r given coordinates are all with worker i) for i = 0..n-1."""
        return np.array([self.of_worker(i)[r] for i in range(n)])


def occupancy(deal: Deal, dim: int) -> Occupancy:
    """The occupancy of a deal on an axis of `dim` coordinates.

    Raises:
        ValueError: Perm with weights that leave sizes to chance, or a deal without a closed form.
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
        case Perm(weights=weights) if weights and dim % sum(weights) == 0:
            return with_sizes(tuple(dim // sum(weights) * w for w in weights))
        case Copies():
            return _copied(deal, dim)
    raise ValueError(
        f"Moments of {deal} on {dim} units have no closed form here. Use equal weights, weights "
        "whose sum divides the units, `draws.enumerated` for a small problem, or simulate."
    )


def with_sizes(sizes: tuple[int, ...]) -> Occupancy:
    """Perm whose worker i always holds sizes[i] coordinates."""
    d = sum(sizes)
    together = tuple(_ratio(1.0, d, r) for r in range(5))
    apart = tuple(tuple(_ratio(1.0, d, a + b) for b in range(3)) for a in range(3))
    return Occupancy(together, apart, disjoint=True, sizes=sizes)


def _copied(deal: Copies, d: int) -> Occupancy:
    r, n = deal.holders(d), deal.n_workers
    two = 0.0 if n == 1 else r / (n - 1) / d  # two given workers on two given coordinates
    apart = ((1.0, 1 / d, 0.0), (1 / d, two, 0.0), (0.0, 0.0, 0.0))
    both = 0.0 if n == 1 else (r - 1) / (n - 1) / d
    return Occupancy((1.0, 1 / d, 0.0, 0.0, 0.0), apart, disjoint=True, shared=both)


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
class Noise:
    """Independent parts of mean zero: worker[a] adds G[a], U[a] to its own, with a random sign.

    Any noise of the workers' gradients that is independent between workers has the same first and
    second moments as such a sum, and the curves need no more.
    """

    G: Matrices
    U: PerWorker
    worker: tuple[int, ...]


NO_NOISE = Noise(np.zeros((0, 0, 0)), np.zeros((0, 0)), ())


@dataclass(frozen=True, eq=False)
class Estimator:
    """g(x) = B (x - s) - u with B = drift I + sum_i P_i G_i P_i, u = sum_i P_i U_i (eqs. 10-11).

    Attributes:
        G: what worker i multiplies by, on the coordinates it holds.
        U: what it adds.
        occupancy: the law of the P_i.
        drift: 0 for the update form (2); 1 for the merge (4), which forgets x.
        noise: of the workers' gradients; their G_i and U_i are then means.
        origin: the shift s of the model (MAST); None for zero.
    """

    G: Matrices
    U: PerWorker
    occupancy: Occupancy
    drift: float = 0.0
    noise: Noise = field(default=NO_NOISE)
    origin: Vector | None = None

    @property
    def transposed(self) -> "Estimator":
        """The same with G_i' for G_i, so that B' takes the place of B."""
        noise = replace(self.noise, G=self.noise.G.transpose(0, 2, 1))
        return replace(self, G=self.G.transpose(0, 2, 1), noise=noise)

    @property
    def diagonals(self) -> PerWorker:
        """The diagonal of G_i in row i: for q = 1 all of G_i that matters."""
        return np.array(np.einsum("ijj->ij", self.G))


def estimator(problem: Quadratics, sketch: DiagonalSketch | Jacobi) -> Estimator:
    """The estimator of a sketch on a problem: x+ = x - gamma g(x).

    On paper the update form (2) is meant: G_i = C_i L_i C_i / n and U_i = C_i b_i / n on the
    coordinates worker i holds. As trained, the holders' merge is meant, which multiplies the
    displacement of an entry's only holder by 1 in place of 1/n.

    Raises:
        ValueError: a deal without closed-form moments; as trained, a deal whose number of holders
            is random, as the merge divides by it.
    """
    forward, backward = sides(sketch)
    backward = share(sketch) * backward
    G = backward[:, :, None] * problem.L * forward[:, None, :]
    return Estimator(G, backward * problem.b, occupancy(sketch.deal, problem.dim))


def sides(sketch: DiagonalSketch | Jacobi) -> tuple[PerWorker, PerWorker]:
    """What x is multiplied by on the way down and the gradient on the way up, where held."""
    if isinstance(sketch, Jacobi):
        return np.ones_like(sketch.backward), sketch.backward
    return sketch.scales, sketch.scales


def share(sketch: DiagonalSketch | Jacobi) -> float:
    """What the merge multiplies a displacement by: 1/n on paper (2), 1 as trained by Perm."""
    if isinstance(sketch, Jacobi):
        return 1.0
    if isinstance(sketch, Dealt) and sketch.semantics == "as trained":
        return share_as_trained(sketch.deal)
    return 1 / sketch.deal.n_workers


def share_as_trained(deal: Deal) -> float:
    """1 / holders of an entry; raises ValueError where their number is left to chance."""
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
    B = np.einsum("ij,ijl,il->jl", held, e.G, held) + e.drift * np.eye(len(held.T))
    shift = 0.0 if e.origin is None else B @ e.origin
    return B, np.asarray((held * e.U).sum(axis=0) + shift)
