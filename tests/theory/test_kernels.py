"""Compiled twins: the same integers as plain Python, the same iterates as `rounds`."""

from itertools import islice

import numpy as np
import pytest

from subnetwork import Bernoulli, Full, Perm, RandQ, keys, rounds
from subnetwork.theory import kernels
from subnetwork.theory.merges import holders_form, merge_form, update_form
from subnetwork.theory.problems import trig
from subnetwork.theory.simulation import Simulation, simulate
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.work import GradientSteps

SEEDS = [0, 1, 7, 2**32, 2**63, 2**64 - 1]


def u64(*numbers):
    return np.array(numbers, dtype=np.uint64)


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_and_words_are_the_same(seed):
    for path in [(seed,), (seed, 3), (seed, 3, 0), (seed, 2**64 - 1, 5, 6)]:
        assert int(kernels.key(u64(*path))) == keys.key(*path)
    state = u64(keys.key(seed))
    compiled = [int(kernels.word(state)) for _ in range(50)]
    assert compiled == list(islice(keys.words(keys.key(seed)), 50))


@pytest.mark.parametrize("m", [1, 2, 3, 7, 1000, 2**31 + 1, 3 * 2**30, 2**32 - 1, 2**32])
def test_below_rejects_the_same_words(m):
    state, stream = u64(9), keys.words(9)
    for _ in range(300):
        assert int(kernels.below(state, m)) == keys.below(stream, m)
    assert int(kernels.word(state)) == next(stream)  # as many words were used


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 500])
@pytest.mark.parametrize("seed", SEEDS)
def test_shuffles_are_the_same(size, seed):
    items = np.arange(size)
    kernels.shuffle(items, u64(seed))
    assert items.tolist() == keys.shuffled(size, keys.words(seed))


PERMS = [(1, None), (2, None), (3, None), (7, None), (2, (1, 3)), (3, (1, 2, 4)), (4, (5, 5, 5, 1))]


@pytest.mark.parametrize(("n", "weights"), PERMS, ids=str)
@pytest.mark.parametrize("size", [16, 17, 30, 101])
def test_perm_deals_the_same_hands(n, weights, size):
    deal = Perm(n, weights)
    shares = np.array(weights or (1,) * n)
    deck, ends = np.empty(size, dtype=np.int64), np.empty(n + 1, dtype=np.int64)
    for seed in SEEDS:
        for k in (0, 1, 12345):
            kernels.perm_hands(deck, ends, shares, np.uint64(kernels.key(u64(seed, k, 2))))
            for i, hand in enumerate(deal.hands(size, seed=seed, k=k, axis=2)):
                np.testing.assert_array_equal(np.sort(deck[ends[i] : ends[i + 1]]), hand)


@pytest.mark.parametrize("size", [1, 5, 40])
@pytest.mark.parametrize("seed", SEEDS)
def test_independent_deals_deal_the_same_hands(size, seed):
    for i in range(3):
        stream = np.uint64(kernels.key(u64(seed, 4, 0, i)))
        for p in (0.01, 0.5, 1 / 3, 1.0):
            kept = Bernoulli(3, p).hands(size, seed=seed, k=4)[i]
            np.testing.assert_array_equal(
                kernels.bernoulli_hand(size, round(p * 2**32), stream), kept
            )
        for q in {1, (size + 1) // 2, size}:
            kept = RandQ(3, q).hands(size, seed=seed, k=4)[i]
            np.testing.assert_array_equal(kernels.rand_q_hand(size, q, stream), kept)


FORMS = {"update": update_form, "merge": merge_form, "holders": holders_form}
CASES = [
    (trig(5, 5), Dealt(Perm(5), 5, "paper"), "update", 1),
    (trig(5, 5), Dealt(Perm(5), 5, "paper"), "merge", 1),
    (trig(5, 5), PreconditionedPerm1(trig(5, 5)), "update", 1),
    (trig(5, 5), PreconditionedPerm1(trig(5, 5)), "merge", 3),
    (trig(3, 8), Dealt(Perm(3), 8, "paper"), "update", 4),
    (trig(3, 8), Dealt(Perm(3), 8, "as trained"), "holders", 2),
    (trig(3, 8), Dealt(Perm(3, (1, 2, 2)), 8, "paper"), "merge", 1),
]


@pytest.mark.parametrize(("problem", "sketch", "form", "n_steps"), CASES, ids=lambda v: str(v)[:12])
def test_simulate_is_rounds_to_1e_12(problem, sketch, form, n_steps):
    d, K, seeds = problem.dim, 40, [0, 3, 2**64 - 1]
    x0 = np.linspace(-1, 2, d)
    measures = np.stack([problem.L_bar / 2, *(np.diag(row) for row in np.eye(d))])
    work = GradientSteps(problem, 0.08, n_steps)
    fast = simulate(Simulation(sketch, work, form), x0, measures=measures, seeds=seeds, n_rounds=K)
    assert fast.shape == (3, K + 1, d + 1)
    np.testing.assert_allclose(fast[:, 0, 0], problem.gap(x0), rtol=1e-12)
    for run, seed in enumerate(seeds):
        slow = rounds(x0, sketch, work, FORMS[form], seed=seed, n_rounds=K)
        for k, r in enumerate(slow):
            squares = (r.x - problem.minimiser) ** 2
            np.testing.assert_allclose(fast[run, k + 1, 1:], squares, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(fast[run, k + 1, 0], problem.gap(r.x), rtol=1e-12)


def test_threads_and_more_seeds_change_no_bit():
    problem = trig(3, 8)
    simulation = Simulation(Dealt(Perm(3), 8, "paper"), GradientSteps(problem, 0.1), "update")

    def run(seeds, n_threads):
        return simulate(
            simulation,
            np.ones(8),
            measures=problem.L_bar[None],
            seeds=seeds,
            n_rounds=30,
            n_threads=n_threads,
        )

    alone = run(range(7), 1)
    for n_threads in (2, 3, 9):
        np.testing.assert_array_equal(run(range(7), n_threads), alone)
    np.testing.assert_array_equal(run(range(20), 2)[:7], alone)


def test_a_sketch_without_perm_is_sent_to_rounds():
    problem = trig(2, 4)
    sketch = Dealt(Full(2), 4, "paper")
    simulation = Simulation(sketch, GradientSteps(problem, 0.1), "update")
    with pytest.raises(ValueError, match=r"deals by Perm, not by Full.* Use `rounds`, or Perm"):
        simulate(simulation, np.ones(4), measures=problem.L_bar[None], seeds=[0], n_rounds=1)


def test_code_is_compiled_without_a_cache_where_none_can_be_written():
    """Numba finds no folder for code that comes from no file, as where no folder is writable."""
    scope = {}
    exec(compile("def twice(x):\n    return 2 * x", "<no file>", "exec"), scope)
    assert kernels.compiled(scope["twice"])(21) == 42
