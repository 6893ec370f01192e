"""PEPit, a solver for worst cases of first-order methods, as an independent witness.

It knows nothing of this package's formulas: it maximises over all functions of a class. The extra
`oracle` installs it; without it these tests are skipped.
"""

from itertools import permutations

import numpy as np
import pytest

pepit = pytest.importorskip("PEPit")
pytestmark = pytest.mark.filterwarnings("ignore")
functions = pytest.importorskip("PEPit.functions")

SOLVER = "CLARABEL"


@pytest.mark.parametrize("n_rounds", [1, 2, 5])
@pytest.mark.parametrize("smooth", ["smooth", "convex quadratic"])
def test_26_is_tight(n_rounds, smooth):
    """sup (1/K) sum |grad f(x^k)|^2 with f(x^0) - f(x^K) <= 1 and L = 1 is 2/K exactly."""
    problem = pepit.PEP()
    if smooth == "smooth":
        f = problem.declare_function(functions.SmoothFunction, L=1.0)
    else:
        f = problem.declare_function(functions.SmoothStronglyConvexQuadraticFunction, L=1.0, mu=0.0)
    x = start = problem.set_initial_point()
    total = 0.0
    for _ in range(n_rounds):
        gradient = f.gradient(x)
        total += gradient**2
        x = x - gradient
    problem.set_initial_condition(f(start) - f(x) <= 1)
    problem.set_performance_metric(total / n_rounds)
    found = problem.solve(verbose=0, solver=SOLVER)

    from subnetwork.theory.problems import Quadratics
    from subnetwork.theory.special_cases import gradient_descent

    unit = Quadratics(np.array([[[1.0]]]), np.array([[0.0]]))
    assert found == pytest.approx(gradient_descent(unit).bound(1.0, 1.0, n_rounds), rel=1e-5)


@pytest.mark.parametrize(("mu", "gamma"), [(0.1, 0.5), (0.1, 0.25), (0.0, 0.5), (0.1, 0.9)])
def test_one_perm_step_of_2_workers_contracts_as_the_closed_form_says(mu, gamma):
    """E|x+|^2 / |x|^2 over all f_i with mu I <= L_i <= I, b_i = 0: the worse of two ends."""
    n, problem = 2, pepit.PEP()
    blocks = problem.declare_block_partition(d=n)
    cls = functions.SmoothStronglyConvexQuadraticFunction
    fs = [problem.declare_function(cls, mu=mu, L=1.0) for _ in range(n)]
    x = problem.set_initial_point()
    for f in fs:
        problem.add_constraint(f.stationary_point() ** 2 <= 0)
    problem.set_initial_condition(x**2 <= 1)
    part = {
        (i, j): blocks.get_block(fs[i].gradient(n * blocks.get_block(x, j)), j)
        for i in range(n)
        for j in range(n)
    }
    ends = []
    for deal in permutations(range(n)):
        ends.append(
            (x - gamma * sum((part[i, deal[i]] for i in range(1, n)), part[0, deal[0]])) ** 2
        )
    problem.set_performance_metric(sum(ends[1:], ends[0]) / len(ends))
    found = problem.solve(verbose=0, solver=SOLVER)
    assert found == pytest.approx(max((1 - n * gamma * mu) ** 2, (1 - n * gamma) ** 2), abs=1e-5)

    from subnetwork import Perm
    from subnetwork.theory.curves import along, expected
    from subnetwork.theory.estimator import estimator
    from subnetwork.theory.problems import Quadratics
    from subnetwork.theory.sketches import Dealt

    worst = []
    for ends_of in (mu, 1.0):
        L = np.stack([ends_of * np.eye(n)] * n)
        if ends_of == 0:
            worst.append(1.0)
            continue
        quadratics = Quadratics(L, np.zeros((n, n)))
        e = estimator(quadratics, Dealt(Perm(n), n, "paper"))
        curve = expected(quadratics, e, np.array([1.0, 0.0]), step_size=gamma)
        worst.append(along(np.eye(n)[None], curve, 1)[1, 0])
    assert found == pytest.approx(max(worst), abs=1e-5)
