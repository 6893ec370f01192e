"""Methods beside Algorithm 1: laws that all keep, one step of each by hand, and who reaches x*."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from subnetwork import Full, Perm, RandQ, keys
from subnetwork.theory.compressed import Shared, gdci
from subnetwork.theory.curves import fixed_point
from subnetwork.theory.data import diabetes_table
from subnetwork.theory.estimator import estimator, occupancy
from subnetwork.theory.factored import factored
from subnetwork.theory.glm import logistic_gaussian
from subnetwork.theory.method_table import METHODS, method_named
from subnetwork.theory.methods import Cost, course
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.stochastic import StochasticSteps, gaussian, n_rows, rows_gradient

T4, T6 = trig(4, 16), trig(6, 6)
ONES = np.ones(16)
STEP = 0.5 / float(np.linalg.eigvalsh(T4.L_bar)[-1])
NOISY = {"ist", "perm", "rand_q", "gdci", "mast", "momentum", "full_rounds", "step_decay"}
BIASED = NOISY | {"averaged", "block_table"}


NOTHING = Cost()


def arrays(state):
    if not is_dataclass(state):
        return [np.asarray(state)]
    return [np.asarray(getattr(state, f.name)) for f in fields(state)]


def after(method, n_rounds, *, seed=0, start=0, spent=NOTHING):
    *_, last = course(method, seed=seed, n_rounds=n_rounds, start=start, spent=spent)
    return last


def final_gap(name, problem=T4, *, n_rounds, **options):
    method = method_named(name, problem, np.ones(problem.dim), **options)
    return problem.gap(method.model(after(method, n_rounds, seed=1).state))


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_its_first_half_continued_bit_for_bit(name):
    from dataclasses import replace

    method = method_named(name, T4, ONES, step_size=0.01)
    whole, half = after(method, 40), after(method, 17)
    rest = after(replace(method, state=half.state), 40, start=17, spent=half.spent)
    assert rest.spent == whole.spent
    for one, other in zip(arrays(rest.state), arrays(whole.state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", sorted(set(METHODS) - BIASED))
def test_the_minimiser_is_a_fixed_point_in_the_mean_of_methods_without_bias(name):
    """Over many seeds the first rounds move x* by no more than their spread explains."""
    method = method_named(name, T4, T4.minimiser, step_size=0.001)
    moved = np.array([method.model(after(method, 2, seed=s).state) for s in range(120)])
    error = moved.std(axis=0) / np.sqrt(len(moved))
    off = np.abs(moved.mean(axis=0) - T4.minimiser)
    assert (off <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_equal_quadratics_that_are_minimal_at_zero_send_every_method_there(name):
    L = np.stack([np.diag(np.linspace(1, 2, 8))] * 4)
    problem = Quadratics(L, np.zeros((4, 8)))
    options = {"step_size": 0.05} | ({"after": 10} if name == "averaged" else {})
    assert final_gap(name, problem, n_rounds=400, **options) < 0.02 * problem.gap(np.ones(8))


def test_costs_are_those_of_the_messages():
    n, d, q = 4, 16, 4
    expected = {
        "ist": Cost(d, d, d * q),
        "gd": Cost(n * d, n * d, n * d * d),
        "compressed_gd": Cost(n * d, d, d * d),
        "mast": Cost(d, d, d * d),
        "two_resolutions": Cost(d, d, d * q + d * q // 2),
        "reweighted": Cost(d, d, d * q),
        "block_table": Cost(d, d, d * q),
    }
    for name, cost in expected.items():
        assert after(method_named(name, T4, ONES, step_size=0.01), 1).spent == cost, name
    stale = method_named("stale_sag", T4, ONES, step_size=0.01)
    assert after(stale, 3).spent == Cost(n * d, n * d, n * d * d) + Cost(2 * d, 2 * d, 2 * d * d)
    anchored = method_named("anchored", T4, ONES, step_size=0.01, period=8)
    assert after(anchored, 16).spent.down == 2 * (n * d + 7 * d)
    assert Cost(2, 3, 0).bits_down == 128


def test_one_step_of_anchored_ist_is_the_formula():
    method = method_named("anchored", T4, ONES, step_size=0.1, period=8)
    first, second = after(method, 1, seed=5).state, after(method, 2, seed=5).state
    v, g = ONES, T4.gradient(ONES)
    np.testing.assert_allclose(first.x, v - 0.1 * g, rtol=1e-13)
    delta = first.x - v
    for i, hand in enumerate(Perm(4).hands(16, seed=5, k=1)):
        g[hand] += T4.L[i][np.ix_(hand, hand)] @ delta[hand]
    np.testing.assert_allclose(second.x, first.x - 0.1 * g, rtol=1e-12)


@pytest.mark.parametrize("rule", ["stale", "stale_sag", "stale_saga"])
def test_rounds_of_stale_copies_are_the_formulas(rule):
    """Written out as loops over a copy and a table, as one would write it at first."""
    method = method_named(rule, T4, ONES, step_size=0.1)
    y, x = np.repeat(ONES[None], 4, axis=0), ONES
    table = np.stack([T4.worker_gradient(i, ONES) for i in range(4)])
    x = x - 0.1 * table.mean(axis=0)
    for k in range(1, 6):
        g, mean = np.zeros(16), table.mean(axis=0)
        for i, hand in enumerate(Perm(4).hands(16, seed=5, k=k)):
            y[i, hand] = x[hand]
            new = T4.worker_gradient(i, y[i])[hand]
            g[hand] = new if rule == "stale" else new - table[i, hand] + mean[hand]
            table[i, hand] = new
        x = x - 0.1 * (table.mean(axis=0) if rule == "stale_sag" else g)
    np.testing.assert_allclose(after(method, 6, seed=5).state.x, x, rtol=1e-12)


@pytest.mark.parametrize("name", ["reweighted", "two_resolutions"])
def test_extrapolated_blocks_are_unbiased(name):
    """The mean over many draws of one step is the full gradient."""
    problem, x0 = trig(2, 4), np.linspace(-1, 1, 4)
    steps = {
        which: [
            x0 - after(method_named(which, problem, x0, step_size=1.0), 1, seed=s).state
            for s in range(1000)
        ]
        for which in (name, "ist")
    }
    error = np.std(steps[name], axis=0) / np.sqrt(1000)
    off = np.abs(np.mean(steps[name], axis=0) - problem.gradient(x0))
    assert (off < 4.5 * error).all()
    assert np.abs(np.mean(steps["ist"], axis=0) - problem.gradient(x0)).max() > 0.1


def test_perm_read_out_times_n_is_ist():
    ist = method_named("ist", T4, ONES, step_size=0.2)
    perm = method_named("perm", T4, ONES / 4, step_size=0.05, readout=4.0)
    one, other = after(ist, 30).state, perm.model(after(perm, 30).state)
    np.testing.assert_allclose(other, one, rtol=1e-12)


def test_mast_with_shift_0_is_perm_and_with_shift_x_star_has_no_bias():
    perm, mast = (method_named(name, T4, ONES, step_size=0.02) for name in ("perm", "mast"))
    np.testing.assert_allclose(after(mast, 20).state, after(perm, 20).state, rtol=1e-12)
    at = method_named("mast", T4, T4.minimiser, step_size=0.001, shift=T4.minimiser)
    ends = np.array([after(at, 1, seed=s).state for s in range(800)])
    error = ends.std(axis=0) / np.sqrt(len(ends))
    assert (np.abs(ends.mean(axis=0) - T4.minimiser) < 4.5 * error).all()


def test_gdci_sends_everyone_the_same_and_is_its_formula():
    one = Dealt(RandQ(1, 4), 16, "paper")
    partition = Shared(one, 4).sample(3, 0)
    assert (partition.scale == partition.scale[0]).all()
    x = ONES
    for k in range(3):
        w = one.sample(3, k).scale[0] * x
        x = w - 0.01 * T4.gradient(w)
    got = after(gdci(T4, ONES, step_size=0.01, one=one), 3, seed=3).state
    np.testing.assert_allclose(got, x, rtol=1e-12)


def test_marina_follows_its_recursion():
    method = method_named("marina", T4, ONES, step_size=0.05, p=0.3)
    x, before, g, coins = ONES, ONES, np.zeros(16), 0
    for k in range(30):
        coin = next(keys.words(keys.key(7, k, 1))) < 0.3 * 2**32
        if k == 0 or coin:
            g, coins = T4.gradient(x), coins + 1
        else:
            for i, hand in enumerate(Perm(4).hands(16, seed=7, k=k)):
                g[hand] += T4.L[i][hand] @ (x - before)
        x, before = x - 0.05 * g, x
    assert 2 < coins < 25
    np.testing.assert_allclose(after(method, 30, seed=7).state.x, x, rtol=1e-11)


def test_marina_p_sends_differences_and_keeps_the_mean_of_the_copies():
    method = method_named("marina_p", T4, ONES, step_size=0.05, p=0.2)
    x, w, coins = ONES, np.tile(ONES, (4, 1)), 0
    for k in range(25):
        g = np.mean([T4.worker_gradient(i, w[i]) for i in range(4)], axis=0)
        x, before = x - 0.05 * g, x
        if next(keys.words(keys.key(7, k, 1))) < 0.2 * 2**32:
            w, coins = np.tile(x, (4, 1)), coins + 1
        else:
            for i, hand in enumerate(Perm(4).hands(16, seed=7, k=k)):
                w[i, hand] += 4 * (x - before)[hand]
    assert 1 < coins < 20
    end = after(method, 25, seed=7)
    np.testing.assert_allclose(end.state.x, x, rtol=1e-11)
    np.testing.assert_allclose(end.state.copies.mean(axis=0), x, rtol=1e-11)
    assert end.spent.up == 25 * 4 * 16
    assert end.spent.down == coins * 4 * 16 + (25 - coins) * 16


def test_remedies_stop_at_the_fixed_point_of_ist():
    """Averaging and decay tend to x_inf, n = d lands on it with a table; the gap there is exact."""
    floor = T6.gap(fixed_point(estimator(T6, Dealt(Perm(6), 6, "as trained"))))
    step = 0.5 / float(np.linalg.eigvalsh(T6.L_bar)[-1])
    table = final_gap("block_table", T6, n_rounds=2000, step_size=step)
    assert table == pytest.approx(floor, rel=1e-6)
    averaged = final_gap("averaged", T6, n_rounds=3500, step_size=step, after=500)
    assert averaged == pytest.approx(floor, rel=0.5)
    assert final_gap("ist", T6, n_rounds=300, step_size=step) > 20 * floor


@pytest.mark.parametrize(
    ("name", "step", "n_rounds"),
    [
        ("anchored", STEP, 400),
        ("stale_saga", STEP * 2, 2700),
        ("stale_sag", 2 * STEP, 1500),
        ("marina", STEP, 700),
        ("marina_p", STEP, 300),
        ("gd", 2 * STEP, 300),
    ],
)
def test_these_reach_the_minimiser(name, step, n_rounds):
    assert final_gap(name, n_rounds=n_rounds, step_size=step) < 1e-25


def test_stale_copies_without_a_table_keep_their_noise():
    assert final_gap("stale", n_rounds=600, step_size=STEP) > 0.05


def test_averaging_reports_the_mean_of_the_iterates():
    method = method_named("averaged", T4, ONES, step_size=0.1, after=5)
    points = list(course(method, seed=0, n_rounds=12))
    late = np.mean([p.state.x for p in points[6:]], axis=0)
    np.testing.assert_allclose(method.model(points[-1].state), late, rtol=1e-12)
    np.testing.assert_array_equal(method.model(points[3].state), points[3].state.x)


def test_noise_is_keyed_and_gaussian():
    def run(seed, n_steps=2):
        work = StochasticSteps(T4, 0.1, seed, n_steps, sigma=1.0)
        partition = Dealt(Perm(4), 16, "as trained").sample(0, 3)
        return work(3, partition, [partition.select(ONES, i) for i in range(4)])

    np.testing.assert_array_equal(run(1), run(1))
    assert np.abs(np.subtract(run(1), run(2))).max() > 0.01
    sample = gaussian(keys.key(4), 4000)
    assert abs(sample.mean()) < 0.07
    assert abs(sample.std() - 1) < 0.05


def test_the_noise_of_a_step_has_the_variance_it_says():
    partition = Dealt(Perm(4), 16, "paper").sample(0, 0)
    points = [partition.select(ONES, i) for i in range(4)]
    quiet = np.array(StochasticSteps(T4, 0.1, 0)(0, partition, points))
    noisy = np.array(
        [StochasticSteps(T4, 0.1, s, sigma=0.5)(0, partition, points) for s in range(600)]
    )
    spread = (noisy - quiet).std(axis=0)
    np.testing.assert_allclose(spread, 0.1 * 0.5 * partition.scale, rtol=0.2, atol=1e-9)
    np.testing.assert_allclose(noisy.mean(axis=0), quiet, atol=0.03)


@pytest.mark.parametrize("kind", ["logistic", "least squares"])
def test_sampled_rows_are_unbiased_and_those_of_the_worker(kind):
    table, parts = diabetes_table(), [np.arange(4), np.arange(4, 7)]
    if kind == "logistic":
        problem = logistic_gaussian(2, 10, n_rows=4)
    else:
        problem = factored(table, parts, ridge=0.3)
    partition = Dealt(Perm(2), 10, "as trained").sample(0, 0)
    points = [np.linspace(-1, 1, 10)] * 2
    steps = np.array(
        [StochasticSteps(problem, 1.0, s, batch=1)(0, partition, points) for s in range(400)]
    )
    for i, x in enumerate(points):
        each = [rows_gradient(problem, i, np.array([r]), x) for r in range(n_rows(problem, i))]
        np.testing.assert_allclose(np.mean(each, axis=0), problem.worker_gradient(i, x), rtol=1e-10)
        allowed = np.sort([(x - partition.scale[i] * g).sum() for g in each])
        found = np.unique(steps[:, i].sum(axis=1).round(9))
        np.testing.assert_allclose(found, allowed, atol=1e-8)


def test_noise_differs_between_workers_rounds_and_steps():
    partition = Dealt(Full(2), 16, "paper").sample(0, 0)
    flat = Quadratics(np.zeros((2, 16, 16)), np.zeros((2, 16)))
    work = StochasticSteps(flat, 1.0, 0, sigma=1.0)
    twice = StochasticSteps(flat, 1.0, 0, n_steps=2, sigma=1.0)
    zero = [np.zeros(16)] * 2
    drawn = [*work(0, partition, zero), *work(1, partition, zero)]
    drawn.append(twice(0, partition, zero)[0] - drawn[0])
    assert np.abs(np.corrcoef(drawn) - np.eye(5)).max() < 0.8


@pytest.mark.parametrize("name", sorted(METHODS))
def test_noise_of_mean_zero_leaves_the_mean_of_every_method_on_quadratics(name):
    """All are linear in x and in the gradients; with the same partitions only the noise differs."""
    problem, x0 = trig(2, 4), np.linspace(-1, 1, 4)

    def end(**noise):
        method = method_named(name, problem, x0, step_size=0.05, **noise)
        return method.model(after(method, 2, seed=5).state)

    noisy = np.array([end(sigma=0.5, noise_seed=s) for s in range(40)])
    error = noisy.std(axis=0) / np.sqrt(len(noisy))
    assert (error > 0).any()
    assert (np.abs(noisy.mean(axis=0) - end()) <= 5 * error + 1e-12).all()
    np.testing.assert_array_equal(end(sigma=0.5, noise_seed=3), noisy[3])


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("perm", "rand_q", "gd")]


@pytest.mark.parametrize("name", ["ist", "mast", *SLOW])
def test_noise_enters_the_exact_curve_of_a_method(name):
    from dataclasses import replace as but

    from subnetwork.theory import variants
    from subnetwork.theory.curves import along, expected

    problem, x0, n, d = trig(2, 4), np.ones(4), 2, 4
    sketch = {
        "ist": Dealt(Perm(n), d, "as trained"),
        "rand_q": Dealt(RandQ(n, 2), d, "paper"),
        "gd": Dealt(Full(n), d, "paper"),
    }.get(name, Dealt(Perm(n), d, "paper"))
    noise = variants.additive_noise(problem, sketch, np.stack([4 * np.eye(d)] * n))
    e = but(estimator(problem, sketch), noise=noise)
    measure = problem.L_bar[None] / 2
    exact, quiet = (
        along(measure, expected(problem, form, x0, step_size=0.1), 4)[4, 0]
        for form in (e, but(e, noise=estimator(problem, sketch).noise))
    )
    gaps = []
    for s in range(100):
        method = method_named(name, problem, x0, step_size=0.1, sigma=2.0, noise_seed=s)
        gaps.append(problem.gap(method.model(after(method, 4, seed=s).state)))
    error = np.std(gaps) / 10
    assert abs(np.mean(gaps) - exact) < 4.5 * error
    assert exact > 1.02 * quiet


def test_methods_draw_rows_where_there_are_some():
    problem = logistic_gaussian(2, 6, n_rows=5)
    for name in sorted(set(METHODS) - {"reweighted", "two_resolutions"}):
        ends = [
            after(method_named(name, problem, np.zeros(6), step_size=0.1, **noise), 2).state
            for noise in ({}, {"batch": 1, "noise_seed": 4})
        ]
        one, other = (np.concatenate([a.ravel() for a in arrays(end)]) for end in ends)
        assert np.abs(one - other).max() > 1e-6, name


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: method_named("gd", T4, ONES, step_size=0.1, batch=2), r"batch=2 draws rows"),
        (lambda: method_named("stale", T4, ONES, step_size=0.1, sigma=-1), r"sigma >= 0"),
        (lambda: method_named("sgd", T4, ONES), r"no method 'sgd'. Known methods: ist"),
        (lambda: method_named("ist", T4, ONES), r"needs a step_size"),
        (lambda: method_named("ist", T4, ONES, step_size=0.0), r"gamma > 0"),
        (lambda: method_named("anchored", T4, ONES, step_size=0.1, eta=0.0), r"eta > 0"),
        (lambda: method_named("gd", T4, ONES, step_size=0.1, period=2), r"no option 'period'"),
        (lambda: method_named("reweighted", T6, np.ones(6), step_size=0.1), r"n_workers=3, or st"),
        (lambda: method_named("two_resolutions", T6, np.ones(6), step_size=0.1), r"Use d=12"),
        (lambda: StochasticSteps(T4, 0.1, 0, batch=3), r"batch=3 draws rows, but Quadratics"),
        (lambda: StochasticSteps(T4, 0.1, 0, sigma=-1.0), r"sigma=-1.0"),
    ],
)
def test_bad_input_is_refused_in_one_line(ask, message):
    with pytest.raises(ValueError, match=message) as refusal:
        ask()
    assert "\n" not in str(refusal.value)


def test_reweighting_uses_the_probability_of_seeing_a_pair():
    together = occupancy(Perm(4), 16).together
    assert together[2] / together[1] == pytest.approx(3 / 15)
