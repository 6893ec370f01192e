"""Rows for the rest of the deck: definitions, simplifications, limits of prior work, takeaways."""

from dataclasses import replace

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.outcome import Outcome, at_most, equal, verdict
from subnetwork.shapes import Vector
from subnetwork.theory import variants
from subnetwork.theory.curves import along, bias, expected, fixed_point
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.moments import mean_B
from subnetwork.theory.prior_work import BoundedGradient, CompressedIterates
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import Dealt, DiagonalPartition
from subnetwork.theory.stationary import growth, stability_limit, stationary
from subnetwork.theory.theorem_a import theorem_a
from subnetwork.theory.theorems import stationary_points
from subnetwork.theory.work import GradientSteps


def deck(problem: Quadratics, x: Vector) -> list[Outcome]:
    """Rows for (1), (3), (9), (20), (21), simplifications and takeaways, at the point x."""
    perm = Dealt(Perm(problem.n_workers), problem.dim, "paper")
    return [
        *_definitions(problem, perm, x),
        *_prior_work(problem),
        *_simplifications(problem),
        *_takeaways(problem, perm),
        *_beyond(problem, perm),
    ]


def _definitions(problem: Quadratics, perm: Dealt, x: Vector) -> list[Outcome]:
    n, eps = problem.n_workers, 1e-6
    each = np.mean([x @ L @ x / 2 - x @ b for L, b in zip(problem.L, problem.b, strict=True)])
    cut = next(every_draw(perm))

    def sketched(i: int, at: Vector) -> float:
        w = cut.select(at, i)
        return float(w @ problem.L[i] @ w / 2 - w @ problem.b[i])

    slopes = np.array(
        [
            [(sketched(i, x + eps * e) - sketched(i, x - eps * e)) / (2 * eps) for e in np.eye(n)]
            for i in range(n)
        ]
    )
    g = np.array([cut.pull(problem.worker_gradient(i, cut.select(x, i)), i) for i in range(n)])
    off = float(np.abs(slopes - g).max() / np.abs(g).max())
    return [
        equal("f is the mean of the f_i of (9)", "(1), (9)", problem.value(x), float(each)),
        equal(
            "C_i grad f_i(C_i x) is the gradient of x -> f_i(C_i x): by differences, relative",
            "(3)",
            off,
            0.0,
            tolerance=1e-6,
        ),
    ]


def _prior_work(problem: Quadratics) -> list[Outcome]:
    gdci = CompressedIterates(100.0)
    stable = gdci.growth(0.99 * gdci.threshold, gdci.best_step())
    bounded = BoundedGradient(problem, G=1e6)
    at = bounded.witness()
    squared = 0.0 if at is None else float(np.sum(problem.gradient(at) ** 2))
    return [
        at_most(
            "Stability of GDCI wants omega <~ kappa^-2 (kappa = 100): largest stable omega",
            "(20)",
            gdci.threshold,
            gdci.required,
        ).with_correction(
            "The proof wants it; on diagonal quadratics 4 kappa/(kappa-1)^2 is exact: q can be far "
            "from d",
            stable < 1 < gdci.growth(1.01 * gdci.threshold, gdci.best_step()),
        ),
        at_most(
            "|grad f(x)|^2 <= G for all x, with G = 10^6", "(7), (21)", squared, 1e6
        ).with_correction("False for every quadratic: a witness for any G", squared > 1e6),
    ]


def _simplifications(problem: Quadratics) -> list[Outcome]:
    d = problem.dim
    ist = Dealt(Perm(d), d, "as trained")

    def floor(tau: int) -> float:
        e = variants.one_round(GradientSteps(problem, 0.2, tau), ist, "holders")
        return stationary(problem, e, step_size=1.0).of(problem.L_bar / 2)

    one, many = floor(1), floor(50)
    e = estimator(problem, ist)
    quiet = stationary(problem, e, step_size=0.2).of(problem.L_bar / 2)
    noise = variants.additive_noise(problem, ist, np.stack([np.eye(d)] * d))
    loud = stationary(problem, replace(e, noise=noise), step_size=0.2).of(problem.L_bar / 2)
    x = np.linspace(-1, 2, d)
    gap = max(
        float(np.abs(drawn(e, p)[0] @ x - drawn(e, p)[1] - _g(problem, p, x)).max())
        for p in every_draw(ist)
    )
    return [
        at_most(
            "Simplification 1, full gradients: noise of covariance I can only raise the floor",
            "deck",
            quiet,
            loud,
        ),
        at_most(
            "Simplification 2, one descent step: the floor at 1 local step against 50",
            "deck",
            one,
            many,
        ),
        equal("Simplification 3, quadratics: g = B x - u in every round", "deck", gap, 0.0),
    ]


def _g(problem: Quadratics, p: DiagonalPartition, x: Vector) -> Vector:
    total = np.zeros_like(x)
    for i in range(problem.n_workers):
        total += p.pull(problem.worker_gradient(i, p.select(x, i)), i)
    return total


def _takeaways(problem: Quadratics, perm: Dealt) -> list[Outcome]:
    e = estimator(problem, perm)
    gamma = stability_limit(e) / 2
    end = stationary(problem, e, step_size=gamma).of(problem.L_bar / 2)
    curve = expected(problem, e, np.ones(problem.dim), step_size=gamma)
    last = along(problem.L_bar[None] / 2, curve, 200)[-1, 0]
    left = bias(problem, e)
    H, O_bar = mean_B(e) / problem.n_workers, problem.L_bar - np.diag(np.diag(problem.L_bar))
    rest = np.linalg.solve(H, O_bar @ problem.minimiser)  # rho = 0, and x_inf times n
    by_3 = problem.n_workers * fixed_point(e) - problem.minimiser
    return [
        equal(
            '"IST can be precisely analysed": E f(x^200) - f* is the stationary value, relative',
            "deck",
            float(abs(last / end - 1)),
            0.0,
            tolerance=1e-6,
        ),
        Outcome(
            '"Naive IST may not converge to the exact solution": f(x_inf) - f* > 0, at any step',
            "deck",
            left,
            0.0,
            verdict(left > 1e-6),
        ),
        equal(
            "n x_inf - x* = (1 - rho) H^-1 O x*, O the off-diagonal part of L_bar: deviation",
            "deck",
            float(np.abs(by_3 - rest).max()),
            0.0,
        ),
    ]


def _beyond(problem: Quadratics, perm: Dealt) -> list[Outcome]:
    """Ours, beside the deck: theorem A, a silent theorem that is no divergence, absent workers."""
    e = estimator(problem, perm)
    a = theorem_a(e)
    end = stationary(problem, e, step_size=a.largest_step)
    about = fixed_point(e) - problem.minimiser
    spread = float(np.trace(end.M) - about @ about)
    L = np.array([[1.0, 3.0], [3.0, 10.0]])
    pair = Quadratics(np.stack([L, L]), np.zeros((2, 2)))
    perm2 = Dealt(Perm(2), 2, "paper")
    silent = stationary_points(pair, perm2).check()
    factor = growth(
        estimator(pair, perm2), step_size=theorem_a(estimator(pair, perm2)).largest_step
    )
    p = np.linspace(0.3, 1.0, problem.n_workers)
    back = fixed_point(variants.reweighted(variants.absent(e, p), 1 / p))
    return [
        at_most(
            "Theorem A: E|x^k - x_inf|^2 ends below 2 gamma s2/mu",
            "A",
            spread,
            a.floor(a.largest_step),
        ),
        Outcome(
            "Where W-bar is indefinite, (22)-(24) is silent and E|x|^2 shrinks: factor a round",
            "(22)",
            factor,
            1.0,
            verdict(bool(silent) and factor < 1),
        ),
        equal(
            "Workers present with p_i: dividing by p_i restores x_inf, deviation",
            "A",
            float(np.abs(back - fixed_point(e)).max()),
            0.0,
        ),
    ]
