"""What else a round can be and stay exact: merges, local steps, shifts, noise, absence.

Every function gives an `Estimator` or its noise, so curves, floors and limits
hold for it as they are. Where a step size is an argument it is inside: use `step_size=1.0` there.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from subnetwork.deals import Full
from subnetwork.shapes import Floats, Matrices, Matrix, PerWorker, Vector
from subnetwork.theory.coincidences import off
from subnetwork.theory.estimator import Estimator, Noise, estimator, occupancy, share, sides
from subnetwork.theory.jacobi import Jacobi, Shifted
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.quadratics import require_quadratics
from subnetwork.theory.simulation import Form
from subnetwork.theory.sketches import DiagonalPartition, DiagonalSketch
from subnetwork.theory.work import GradientSteps, UnequalSteps


def one_round(
    work: GradientSteps | UnequalSteps, sketch: DiagonalSketch | Jacobi, form: Form
) -> Estimator:
    """A round of Algorithm 1 with any number of local steps and any merge; the step is inside.

    With tau = `work.n_steps` (of worker i), A_i = sum_{t < tau} (I - gamma C_i L_i)^t multiplies
    the one-step displacement. That is a closed form where A_i does not depend on who else is held:
    for one coordinate a worker, for `Full`, and for diagonal L_i. On other blocks the mean has one
    for 2 and 3 steps: `local_mean.mean_of_local_steps`.

    Raises:
        ValueError: several local steps on blocks of several coordinates; or the holders' merge for
            a sketch whose entries have several holders.
    """
    problem = work.problem
    forward, backward = sides(sketch)
    G, U = _displacements(work, sketch, forward, backward)
    n = problem.n_workers
    if form == "holders":
        if (forward != 1).any():
            raise ValueError(
                "The holders' merge is for 0/1 masks, but these sketches carry a scale. Use the "
                "semantics 'as trained', or the form 'update' or 'merge'."
            )
        s = share(sketch)
        return Estimator(s * G, s * U, occupancy(sketch.deal, problem.dim))
    G, U = G / n, U / n
    law = occupancy(sketch.deal, problem.dim)
    if form == "update":
        return Estimator(G, U, law)
    kept = forward[:, :, None] * np.eye(problem.dim) / n
    return Estimator(G - kept, U, law, drift=1.0)


def _displacements(
    work: GradientSteps | UnequalSteps,
    sketch: DiagonalSketch | Jacobi,
    forward: PerWorker,
    backward: PerWorker,
) -> tuple[Matrices, PerWorker]:
    """G_i, U_i with z_i - w_i = -(G_i x - U_i) on what worker i holds."""
    problem = require_quadratics(work.problem, "The closed form of a round")
    gamma, n = work.step_size, problem.n_workers
    taus = work.n_steps if isinstance(work, UnequalSteps) else (work.n_steps,) * n
    K = gamma * backward[:, :, None] * problem.L
    U = gamma * backward * problem.b
    if max(taus) > 1:
        if isinstance(sketch.deal, Full):
            pass
        elif occupancy(sketch.deal, problem.dim).together[2] == 0 or not off(problem.L).any():
            K = K * np.eye(problem.dim)  # one coordinate is held: the others do not act
        else:
            raise ValueError(
                f"{max(taus)} local steps on blocks of several coordinates have no closed form of "
                "second moments. Use `draws.enumerated` for a small problem, `mean_of_local_steps` "
                "for the mean of 2 or 3, one coordinate a worker, or n_steps=1."
            )
        A = np.stack(
            [_geometric(np.eye(len(K_i)) - K_i, t) for K_i, t in zip(K, taus, strict=True)]
        )
        K, U = A @ K, np.einsum("ijl,il->ij", A, U)
    return np.asarray(K * forward[:, None, :]), U


def _geometric(step: Matrix, tau: int) -> Matrix:
    """I + step + ... + step^(tau - 1)."""
    total = power = np.eye(len(step))
    for _ in range(tau - 1):
        power = power @ step
        total = total + power
    return np.asarray(total)


def shifted(problem: Quadratics, sketch: Shifted[DiagonalPartition]) -> Estimator:
    """The estimator of s + C_i (x - s): the sketch on b_i - L_i s, about s."""
    if not isinstance(sketch.sketch, DiagonalSketch | Jacobi):
        raise ValueError(
            "A shift has a closed form about a diagonal sketch only. Use `draws.enumerated` for "
            "a small problem."
        )
    about = Quadratics(problem.L, problem.b - problem.L @ sketch.shift)
    return replace(estimator(about, sketch.sketch), origin=sketch.shift)


def additive_noise(
    problem: Quadratics, sketch: DiagonalSketch | Jacobi, covariances: Matrices
) -> Noise:
    """Worker i's gradient carries noise of covariance `covariances[i]`, whatever x is."""
    n, d = problem.b.shape
    roots = [_root(S) for S in covariances]  # columns c with S = sum c c'
    backward = share(sketch) * sides(sketch)[1]
    U = np.concatenate([backward[i] * roots[i].T for i in range(n)])
    return Noise(np.zeros((n * d, d, d)), U, tuple(np.repeat(np.arange(n), d).tolist()))


def sampled_rows(
    problem: Quadratics,
    sketch: DiagonalSketch | Jacobi,
    rows: Sequence[tuple[Floats, Floats]],
    *,
    batch: int = 1,
) -> Noise:
    """Worker i's gradient is that of `batch` rows of (A_i, y_i), drawn with replacement.

    Raises:
        ValueError: the rows are not those of the problem, L_i = A_i'A_i/m_i + ridge I and
            b_i = A_i'y_i/m_i.
    """
    forward, backward = sides(sketch)
    backward = share(sketch) * backward
    G, U, worker = [], [], []
    for i, (A, y) in enumerate(rows):
        _require_rows(problem, i, A, y)
        root = np.sqrt(1 / (batch * len(A)))
        for a, target in zip(A, y, strict=True):
            dL = np.outer(a, a) - A.T @ A / len(A)
            G.append(root * backward[i][:, None] * dL * forward[i])
            U.append(root * backward[i] * (target * a - A.T @ y / len(A)))
            worker.append(i)
    return Noise(np.array(G), np.array(U), tuple(worker))


def absent(e: Estimator, p: Vector) -> Estimator:
    """Worker i takes part with probability p_i, independently; entries without holder stay.

    (delta_i - p_i) G_i is one more noise of worker i, of variance p_i (1 - p_i). The fixed point
    solves sum_i p_i (H_i x - u_i) = 0; dividing worker i's update by p_i restores the old one.
    """
    _require_probabilities(e, p)
    p_G, p_U, spread = p[:, None, None] * e.G, p[:, None] * e.U, np.sqrt(p * (1 - p))
    workers = tuple(range(len(p)))
    own = Noise(spread[:, None, None] * e.G, spread[:, None] * e.U, workers)
    here = np.sqrt([p[i] for i in e.noise.worker])  # noise comes with its worker
    rest = Noise(here[:, None, None] * e.noise.G, here[:, None] * e.noise.U, e.noise.worker)
    return replace(e, G=p_G, U=p_U, noise=_joined(own, rest))


def some_take_part(e: Estimator, m: int) -> Estimator:
    """Only m of the n workers, drawn at random, take part in a round; entries without holder stay.

    With `e.drift` = 1, the literal merge (4), blocks of the others become zero. The fixed point of
    the update form is that of all workers.

    Raises:
        ValueError: hands that are independent, or m outside 1..n.
    """
    n, law = len(e.U), e.occupancy
    if not 1 <= m <= n or not law.disjoint:
        raise ValueError(
            f"m={m} of n={n} workers cannot take part, or their hands are independent. Use 1 to "
            f"{n} with Perm, or `absent` with p_i, which takes any deal."
        )
    r, both = m / n, m * (m - 1) / max(n * (n - 1), 1)
    together = (1.0, *(r * t for t in law.together[1:]))
    apart = tuple(tuple(both * c for c in row) for row in law.apart)
    shared = both * law.shared
    return replace(e, occupancy=replace(law, together=together, apart=apart, shared=shared))


def reweighted(e: Estimator, factors: Vector) -> Estimator:
    """Worker i's displacement times `factors[i]`, such as `Perm.correction` or 1 / p_i."""
    own = np.array([factors[i] for i in e.noise.worker])
    noise = Noise(own[:, None, None] * e.noise.G, own[:, None] * e.noise.U, e.noise.worker)
    return replace(e, G=factors[:, None, None] * e.G, U=factors[:, None] * e.U, noise=noise)


def _joined(one: Noise, other: Noise) -> Noise:
    if not other.worker:
        return one
    G, U = np.concatenate([one.G, other.G]), np.concatenate([one.U, other.U])
    return Noise(G, U, one.worker + other.worker)


def _root(S: Floats) -> Floats:
    values, V = np.linalg.eigh(S)
    if values[0] < -1e-12 * max(values[-1], 0.0) or not np.allclose(S, S.T):
        raise ValueError(
            f"A covariance has the eigenvalue {values[0]:.3g} or is not symmetric. Use V V'."
        )
    return np.asarray(V * np.sqrt(np.maximum(values, 0.0)))


def _require_rows(problem: Quadratics, i: int, A: Floats, y: Floats) -> None:
    rest = problem.L[i] - A.T @ A / len(A)
    ridge = np.trace(rest) / problem.dim
    off = max(
        float(np.abs(rest - ridge * np.eye(problem.dim)).max()),
        float(np.abs(problem.b[i] - A.T @ y / len(A)).max()),
    )
    if off > 1e-8 * max(1.0, float(np.abs(problem.L[i]).max())):
        raise ValueError(
            f"The rows of worker {i} are not those of the problem: L_i or b_i differ by {off:.3g}. "
            "Use the rows that `least_squares` was given, cut by np.array_split."
        )


def _require_probabilities(e: Estimator, p: Vector) -> None:
    if p.shape != (len(e.U),) or not ((p > 0) & (p <= 1)).all():
        raise ValueError(
            f"p={p} are not probabilities in (0, 1], one for each of {len(e.U)} workers. A worker "
            "that never comes is left out of the problem."
        )
