"""Compiled runs: the same iterates as `rounds`, the same bits however they are run."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from subnetwork import Bernoulli, Full, Perm, RandQ, rounds
from subnetwork.theory import plans
from subnetwork.theory.merges import holders_form, merge_form, update_form
from subnetwork.theory.problems import Quadratics, gaussian, trig
from subnetwork.theory.simulation import (
    BandedSimulation,
    Simulation,
    iterates,
    measured,
    running_means,
    simulate,
)
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.work import GradientSteps

FORMS = {"update": update_form, "merge": merge_form, "holders": holders_form}
SEEDS = [0, 3, 2**64 - 1]


def paper(deal, d):
    return Dealt(deal, d, "paper")


def trained(deal, d):
    return Dealt(deal, d, "as trained")


SKETCHES = [
    (5, paper(Perm(5), 5)),
    (5, trained(Perm(5), 5)),
    (5, PreconditionedPerm1(trig(5, 5))),
    (3, paper(Perm(3), 8)),
    (3, paper(Perm(3, (1, 2, 2)), 13)),
    (2, paper(Perm(2), 23)),
    (2, trained(Perm(2), 7)),
    (1, paper(Perm(1), 6)),
    (3, paper(RandQ(3, 6), 9)),
    (3, trained(RandQ(3, 2), 9)),
    (3, trained(Bernoulli(3, 0.6), 9)),
    (2, paper(Full(2), 7)),
]


@pytest.mark.parametrize(("n", "sketch"), SKETCHES, ids=lambda v: str(getattr(v, "deal", v)))
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_iterates_are_those_of_rounds_to_1e_12(n, sketch, form, n_steps):
    d = sketch.scales.shape[1]
    problem, x0, K = trig(n, d), np.linspace(-1, 2, d), 25
    work = GradientSteps(problem, 0.02, n_steps)
    fast = dict(iterates(Simulation(sketch, work, form), x0, seeds=SEEDS, at=range(K + 1)))
    np.testing.assert_array_equal(fast[0], np.tile(x0, (3, 1)))
    for row, seed in enumerate(SEEDS):
        for r in rounds(x0, sketch, work, FORMS[form], seed=seed, n_rounds=K):
            size = np.abs(r.x).max()
            np.testing.assert_allclose(fast[r.k + 1][row], r.x, rtol=1e-12, atol=1e-12 * size)


def test_hands_of_every_size_and_tiles_of_every_height_give_the_product(monkeypatch):
    """Groups of four rows, rows left over, and tiles that cut through both."""
    d, bits = 41, None
    problem, x0 = gaussian(3, d), np.linspace(-1, 2, d)
    sketch = paper(Perm(3, (1, 5, 7)), d)
    simulation = Simulation(sketch, GradientSteps(problem, 0.01), "update")
    slow = [
        list(rounds(x0, sketch, simulation.work, update_form, seed=s, n_rounds=9))[-1].x
        for s in range(9)  # fewer seeds come one by one, without tiles
    ]
    for cache in (1, 8 * d * 5, 8 * d * 7, 8 * d * 40, 1 << 20):
        monkeypatch.setattr(plans, "CACHE", cache)
        ((_, X),) = iterates(simulation, x0, seeds=range(9), at=[9])
        ((_, alone),) = iterates(simulation, x0, seeds=[8], at=[9])
        np.testing.assert_array_equal(alone, X[8:])
        np.testing.assert_allclose(X, slow, rtol=1e-12, atol=1e-12)
        bits = X if bits is None else bits
        np.testing.assert_array_equal(X, bits)


def tridiagonal(n, d):
    """L_i = nu_i / 4 tridiag(-1, 2, -1) + shift, as PermK's authors generate them."""
    nu = 1 + 0.3 * np.sin(np.arange(n))[:, None]
    b = np.cos(np.arange(n)[:, None] + 2.0 * np.arange(d))
    return nu * np.full(d, 0.5) + 0.01, -nu * np.full(d - 1, 0.25), b


def as_dense(diag, off, b):
    L = np.stack(
        [np.diag(m) + np.diag(o, 1) + np.diag(o, -1) for m, o in zip(diag, off, strict=True)]
    )
    return Quadratics(L, b)


BANDED = [
    (Perm(1), 1, "paper"),
    (Perm(2), 9, "paper"),
    (Perm(3, (1, 2, 4)), 16, "paper"),
    (Perm(3), 16, "as trained"),
    (Perm(7), 7, "preconditioned"),
    (Perm(6), 9, "paper"),
]


@pytest.mark.parametrize(("deal", "d", "semantics"), BANDED, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_steps", [1, 4])
def test_bands_take_the_steps_of_the_dense_problem(deal, d, semantics, form, n_steps):
    arrays = tridiagonal(deal.n_workers, d)
    problem, x0 = as_dense(*arrays), np.linspace(-1, 2, d)
    sketch = (
        PreconditionedPerm1(problem) if semantics == "preconditioned" else Dealt(deal, d, semantics)
    )
    work = GradientSteps(problem, 0.3, n_steps)
    banded = BandedSimulation(*arrays, sketch.scales, deal, 0.3, form, n_steps)
    fast = dict(iterates(banded, x0, seeds=SEEDS, at=range(20)))
    for row, seed in enumerate(SEEDS):
        for r in rounds(x0, sketch, work, FORMS[form], seed=seed, n_rounds=19):
            size = np.abs(r.x).max()
            np.testing.assert_allclose(fast[r.k + 1][row], r.x, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize("n_steps", [1, 2])
@pytest.mark.parametrize(("deal", "form"), [(Perm(3), "update"), (Perm(12), "merge")], ids=str)
def test_coordinates_share_a_row_of_the_table_only_if_every_worker_agrees(deal, form, n_steps):
    """One diagonal for a worker, as in the PermK papers; one entry of b differs at one worker."""
    n, d = deal.n_workers, 12
    rng = np.random.default_rng(3)
    diag, off, b = np.repeat(rng.random((n, 1)) + 1, d, 1), rng.random((n, d - 1)), np.ones((n, d))
    b[2, 5] = 4.0
    sketch, x0 = Dealt(deal, d, "paper"), np.linspace(-1, 2, d)
    banded = BandedSimulation(diag, off, b, sketch.scales, deal, 0.02, form, n_steps)
    assert len(banded.plan.advance.args[0].table) == 3 * n * 2  # rows of 0-4, 5, 6-11
    fast = dict(iterates(banded, x0, seeds=SEEDS, at=[30]))
    work = GradientSteps(as_dense(diag, off, b), 0.02, n_steps)
    for row, seed in enumerate(SEEDS):
        *_, last = rounds(x0, sketch, work, FORMS[form], seed=seed, n_rounds=30)
        np.testing.assert_allclose(fast[30][row], last.x, rtol=1e-11)


def test_one_scale_for_all_is_the_table_of_it():
    arrays, x0 = tridiagonal(4, 30), np.ones(30)
    table = BandedSimulation(*arrays, np.full((4, 30), 4.0), Perm(4), 0.1, "update")
    one = BandedSimulation(*arrays, np.full((1, 1), 4.0), Perm(4), 0.1, "update")
    (_, X), (_, Y) = (next(iterates(b, x0, seeds=SEEDS, at=[12])) for b in (table, one))
    np.testing.assert_array_equal(X, Y)


def simulations():
    """One of every compiled path: (simulation, d)."""
    dense, single = trig(3, 18), trig(6, 6)
    return {
        "dense": Simulation(paper(Perm(3), 18), GradientSteps(dense, 0.05), "update"),
        "weights": Simulation(paper(Perm(3, (1, 2, 2)), 18), GradientSteps(dense, 0.02), "merge"),
        "overlap": Simulation(paper(RandQ(3, 7), 18), GradientSteps(dense, 0.05, 2), "update"),
        "single": Simulation(paper(Perm(6), 6), GradientSteps(single, 0.05), "update"),
        "banded": BandedSimulation(
            *tridiagonal(3, 18), np.full((1, 1), 3.0), Perm(3), 0.1, "update"
        ),
    }


PATHS = list(simulations())


def end(simulation, seeds, *, at=(200,), start=0, x0=None, n_threads=1):
    d = simulation.plan.dim
    x0 = np.linspace(-1, 1, d) if x0 is None else x0
    return [
        X for _, X in iterates(simulation, x0, seeds=seeds, at=at, start=start, n_threads=n_threads)
    ][-1]


@pytest.mark.parametrize("path", PATHS)
def test_200_rounds_are_100_and_100_more_to_the_bit(path):
    simulation = simulations()[path]
    whole, half = end(simulation, SEEDS), end(simulation, SEEDS, at=[100])
    np.testing.assert_array_equal(end(simulation, SEEDS, start=100, x0=half), whole)
    np.testing.assert_array_equal(end(simulation, SEEDS, at=[1, 2, 17, 199, 200]), whole)
    assert (half != whole).any()


@pytest.mark.parametrize("path", PATHS)
def test_a_seed_computes_the_same_bits_in_any_company(path, monkeypatch):
    simulation, seeds = simulations()[path], list(range(37))
    together = end(simulation, seeds)
    assert len(np.unique(together[:, 0])) == 37
    for n_threads in (2, 3, 50):
        np.testing.assert_array_equal(end(simulation, seeds, n_threads=n_threads), together)
    for few in ([0], [36], [5, 30, 7]):
        np.testing.assert_array_equal(end(simulation, few), together[few])
    monkeypatch.setattr(plans, "_width", lambda *_: 5)
    monkeypatch.setattr(plans, "_table_tile", lambda _: 4)
    np.testing.assert_array_equal(end(simulation, seeds), together)


CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from test_simulation import end, simulations
from subnetwork.theory.kernels import dense
for path in sys.argv[2:]:
    print(end(simulations()[path], [0, 5]).tobytes().hex())
print("hits", sum(dense.dense_rounds.stats.cache_hits.values()))
"""
NO_FOLDER = """
import numba
njit = numba.njit
def without_cache(*function, cache=False, **options):
    if cache:
        raise RuntimeError("cannot cache function")
    return njit(*function, **options)
numba.njit = without_cache
"""


def bits_elsewhere(code, folder, paths):
    command = [sys.executable, "-c", code, str(Path(__file__).parent), *paths]
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def bits_here(paths):
    return [end(simulations()[path], [0, 5]).tobytes().hex() for path in paths]


def test_without_a_cache_on_disk_the_bits_are_the_same(tmp_path):
    paths = ["dense"]  # 10 s to compile, and the most inlined of them
    assert bits_elsewhere(NO_FOLDER + CODE, tmp_path, paths) == [*bits_here(paths), "hits 0"]
    assert not list(tmp_path.rglob("*.nbc"))


@pytest.mark.slow
def test_with_a_new_and_with_a_used_cache_the_bits_are_the_same(tmp_path):
    assert bits_elsewhere(NO_FOLDER + CODE, tmp_path, PATHS) == [*bits_here(PATHS), "hits 0"]
    assert bits_elsewhere(CODE, tmp_path, PATHS) == [*bits_here(PATHS), "hits 0"]
    assert list(tmp_path.rglob("*.nbc"))
    assert bits_elsewhere(CODE, tmp_path, PATHS) == [*bits_here(PATHS), "hits 1"]


def test_measures_at_some_rounds_are_those_at_all():
    problem = trig(3, 8)
    simulation = Simulation(paper(Perm(3), 8), GradientSteps(problem, 0.1), "update")
    measures = np.stack([problem.L_bar / 2, np.eye(8)])
    given = {"measures": measures, "seeds": SEEDS}
    every = simulate(simulation, np.ones(8), n_rounds=30, **given)
    assert every.shape == (3, 31, 2)
    some = simulate(simulation, np.ones(8), n_rounds=30, at=[0, 1, 8, 30], **given)
    np.testing.assert_array_equal(some, every[:, [0, 1, 8, 30]])
    np.testing.assert_allclose(every[:, 0, 0], problem.gap(np.ones(8)), rtol=1e-12)
    means = running_means(simulation, np.ones(8), at=[1, 8, 30], **given)
    for a, K in enumerate([1, 8, 30]):
        np.testing.assert_allclose(means[:, a], every[:, :K].mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize("m", [1, 15, 16, 17, 40])
def test_forms_are_einsum_and_a_row_is_its_own(m):
    rng = np.random.default_rng(m)
    A, E = rng.standard_normal((2, 23, 23)), rng.standard_normal((m, 23))
    A = A + A.transpose(0, 2, 1)
    out = measured(E, A)
    np.testing.assert_allclose(out, np.einsum("sj,ajk,sk->sa", E, A, E), rtol=1e-12, atol=1e-11)
    np.testing.assert_array_equal(measured(E[-1:], A), out[-1:])


@dataclass(frozen=True)
class Odd:
    """A deal that the kernels do not know: all to the first worker."""

    n_workers: int = 2

    def hands(self, size, *, seed, k, axis=0):
        del seed, k, axis
        return np.arange(size), np.arange(0)


def test_what_has_no_compiled_twin_is_sent_to_rounds():
    sketch = Dealt(Odd(), 4, "as trained")
    odd = Simulation(sketch, GradientSteps(trig(2, 4), 0.1), "holders")
    with pytest.raises(ValueError, match=r"not by Odd.*Use `rounds`, which takes any deal"):
        end(odd, [0])
    with pytest.raises(ValueError, match=r"counts to 65535, but there are d=70000"):
        plans.law(Perm(2), 70_000)


def test_rounds_are_asked_for_in_order():
    problem = trig(2, 4)
    simulation = Simulation(paper(Perm(2), 4), GradientSteps(problem, 0.1), "update")
    for at in ([3, 2], [2, 2], [-1]):
        with pytest.raises(ValueError, match=r"Rounds are run in order, but at="):
            list(iterates(simulation, np.ones(4), seeds=[0], at=at))
    given = {"measures": problem.L_bar[None], "seeds": [0]}
    with pytest.raises(ValueError, match=r"at=9 lies behind the last of n_rounds=3"):
        simulate(simulation, np.ones(4), n_rounds=3, at=[9], **given)
    with pytest.raises(ValueError, match=r"at=0 follows 0"):
        running_means(simulation, np.ones(4), at=[0], **given)


def test_bands_of_other_shapes_are_refused():
    ones, one = np.ones((2, 4)), np.ones((1, 1))
    with pytest.raises(ValueError, match=r"bands want \(n, d\), \(n, d - 1\) and \(n, d\)"):
        BandedSimulation(ones, ones, ones, one, Perm(2), 0.1, "merge")
    with pytest.raises(ValueError, match=r"a deal over 3 workers do not match 2 workers"):
        BandedSimulation(ones, ones[:, 1:], ones, one, Perm(3), 0.1, "merge")
