"""Rows for what the paper's first version (v1) prints differently, and for how far claims reach."""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.outcome import Outcome, at_most, equal, verdict
from subnetwork.shapes import Vector
from subnetwork.theory.curves import fixed_point
from subnetwork.theory.estimator import estimator
from subnetwork.theory.matrix_sketches import inverse_root
from subnetwork.theory.moments import mean_B
from subnetwork.theory.perm1 import dealt_b, h_17, sigma2_18
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1


def first_version(problem: Quadratics, x: Vector) -> list[Outcome]:
    """v1 (21), (23), (27), (28), (30) on a problem with n = d, at the point x."""
    return [
        _smallest_eigenvalue(problem),
        _root_of_L(problem),
        _stray_square(problem),
        _norm_of_h(problem),
        *_mean_iterate(problem, x),
        _growing_n(),
        _units(problem),
    ]


def _smallest_eigenvalue(problem: Quadratics) -> Outcome:
    root = np.sqrt(np.diag(problem.L_bar))
    values = np.linalg.eigvalsh(problem.L_bar / np.outer(root, root))
    # |grad|^2 in the norm of L-tilde^-1 is at least 1/lambda_max |grad|^2, which (31) uses
    return equal(
        "lambda_min(L-tilde^-1) = lambda_max(L-tilde)", "v1 (21)", 1 / values[-1], values[-1]
    ).with_correction("lambda_min(L-tilde^-1) = 1/lambda_max(L-tilde)", True)


def _root_of_L(problem: Quadratics) -> Outcome:
    n = problem.n_workers
    s = np.stack([np.sqrt(n) * np.diag(inverse_root(L)) for L in problem.L])
    diagonal = (s**2 * problem.diagonals / n).mean(axis=0)  # of E B with this scale
    right = mean_B(estimator(problem, PreconditionedPerm1(problem)))
    return equal(
        "E B = I with the scale sqrt(n) [L_i^-1/2]_jj: largest diagonal entry",
        "v1 (23)",
        float(diagonal.max()),
        1.0,
    ).with_correction(
        "The scale of the slides, sqrt(n / [L_i]_jj) (12), is right",
        bool(np.abs(right - np.eye(n)).max() < 1e-12),
    )


def _stray_square(problem: Quadratics) -> Outcome:
    n = problem.n_workers
    D = problem.diagonals.mean(axis=0)
    B = mean_B(estimator(problem, Dealt(Perm(n), n, "paper")))
    return equal(
        "E B = n^2 D, as an intermediate line has it: largest entry",
        "v1 before (27)",
        float(B.max()),
        float(n**2 * D.max()),
    ).with_correction("E B = n D (27)", bool(np.allclose(np.diag(B), n * D, rtol=1e-12)))


def _norm_of_h(problem: Quadratics) -> Outcome:
    sketch = PreconditionedPerm1(problem)
    h, L = h_17(sketch), problem.L_bar
    # one step at gamma = 1: E f(x^1) - f* = (|h|^2_L + sigma^2) / 2, whatever x^0
    end = fixed_point(estimator(problem, sketch)) - problem.minimiser
    exact = float(end @ L @ end) + sigma2_18(sketch)
    return equal(
        "2 (E f(x^1) - f*) = h' L^2 h + sigma^2 at gamma = 1",
        "v1 (30)",
        exact,
        float(h @ L @ L @ h) + sigma2_18(sketch),
    ).with_correction(
        "The norm of h is that of L_bar, as on the slides (19)",
        abs(exact - float(h @ L @ h) - sigma2_18(sketch)) < 1e-10,
    )


def _mean_iterate(problem: Quadratics, x: Vector) -> list[Outcome]:
    sketch, gamma, k = PreconditionedPerm1(problem), 0.3, 7
    e, x_inf = estimator(problem, sketch), dealt_b(sketch).mean(axis=0)
    m = x
    for _ in range(k):
        m = m - gamma * (mean_B(e) @ m - x_inf)
    closed = (1 - gamma) ** k * x + (1 - (1 - gamma) ** k) * x_inf
    off = float(np.abs(m - closed).max())
    return [
        equal("E x^k = (1-gamma)^k x^0 + (1-(1-gamma)^k) x_inf: deviation", "v1 (28)", off, 0.0)
    ]


def correlated(n: int) -> Quadratics:
    """Equal L_i = 0.7 I + 0.3 11' and b_i = (-1)^j: a correlation that n does not change."""
    L = 0.7 * np.eye(n) + 0.3 * np.ones((n, n))
    return Quadratics(np.stack([L] * n), np.stack([(-1.0) ** np.arange(n)] * n))


def _growing_n() -> Outcome:
    def share(n: int) -> float:
        problem = correlated(n)
        h = h_17(PreconditionedPerm1(problem))
        return float(np.linalg.norm(h) / np.linalg.norm(problem.minimiser))

    few, many = share(4), share(64)
    return at_most(
        "|x_inf - x*|/|x*| shrinks as n = d grows: n = 64 against n = 4", "v1 after (28)", many, few
    ).with_correction(
        "x_inf tends to 0 while x* does not: 1 - 0.7/sqrt(n) for L_i = 0.7 I + 0.3 11'",
        abs(many - (1 - 0.7 / 8)) < 1e-10,
    )


def _units(problem: Quadratics) -> Outcome:
    size = np.linalg.norm(problem.minimiser)
    off = []
    for c in (0.1, 1.0, 10.0):
        scaled = PreconditionedPerm1(Quadratics(c * problem.L, c * problem.b))
        off.append(float(np.linalg.norm(h_17(scaled)) / size))
    return Outcome(
        "x_inf of (12) depends on the units of f: |h|/|x*| for f and for 0.1 f "
        f"(for 10 f it is {off[2]:.3f}); that of the Jacobi scheme does not",
        "(12), (17)",
        off[0],
        off[1],
        verdict(abs(off[0] - off[1]) > 1e-6),
    )
