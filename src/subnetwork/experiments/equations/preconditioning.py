"""(12)-(13): which scale makes E B = I: that of the slides, of the first version, by blocks?"""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.equations.points import deviations, of_identities, zero
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome
from subnetwork.shapes import Matrices, PerWorker
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.matrix_sketches import BlockPreconditioned, inverse_root
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt

SCALES = {"√(n/[L]ⱼⱼ), (12)": "diagonal", "√n[L^−½]ⱼⱼ, v1": "root", "√n[L_SS]^−½": "block"}


def run(*, dim: int = 6) -> Evidence:
    """The largest |E B - I| over all draws, for every q that divides d, L_i of `trig`."""
    qs = [q for q in range(1, dim) if dim % q == 0]
    found = {
        kind: [float(np.abs(_mean_B(trig(dim // q, dim), kind) - np.eye(dim)).max()) for q in qs]
        for kind in SCALES.values()
    }
    rows = [
        row for label, kind in SCALES.items() for row in deviations(label, "q", qs, found[kind])
    ]
    config = of_identities("q", "coordinates of a worker, q", "largest |E B − I|, all draws")
    return Evidence("eq_12_13", config | {"dim": dim}, rows, _outcomes(found))


def _mean_B(problem: Quadratics, kind: str) -> PerWorker:
    n, d = problem.n_workers, problem.dim
    if kind == "block":
        draws = [p.C for p in every_draw(BlockPreconditioned(problem))]
        return np.asarray(np.mean([_B(C, problem) for C in draws], axis=0))
    if kind == "diagonal":
        s = np.sqrt(n / problem.diagonals)
    else:
        s = np.stack([np.sqrt(n) * np.diag(inverse_root(L)) for L in problem.L])
    masks = [p.scale for p in every_draw(Dealt(Perm(n), d, "as trained"))]
    Cs = [(mask * s)[:, :, None] * np.eye(d) for mask in masks]
    return np.asarray(np.mean([_B(C, problem) for C in Cs], axis=0))


def _B(C: Matrices, problem: Quadratics) -> PerWorker:
    """mean_i C_i L_i C_i."""
    return np.asarray((C @ problem.L @ C).mean(axis=0))


def _outcomes(found: dict[str, list[float]]) -> list[Outcome]:
    first, rest = found["diagonal"][0], min(found["diagonal"][1:])
    return [
        zero("E B = I with the scale of (12), q = 1", "(12)-(13)", first),
        zero("E B = I with the scale of (12), q > 1", "(13)", rest).with_correction(
            "For q > 1 it takes the block root C_i = sqrt(n) [(L_i)_SS]^-1/2",
            max(found["block"]) < 1e-10,
        ),
        zero(
            "E B = I with the scale sqrt(n) [L_i^-1/2]_jj", "v1 (23)", found["root"][0]
        ).with_correction("The scale of the slides, sqrt(n / [L_i]_jj) (12), is right", True),
    ]
