"""Huge finite updates: shortened to the bound, and f rises by no more than that allows."""

from collections import deque

import pytest
import torch

from seats_in_threads import assert_same_models, in_round, row_of, run, with_entry
from subnetwork.algorithm import rounds
from subnetwork.deals import Perm
from subnetwork.nets import Layout, ModelState, NetSketch, Submodel, holders
from subnetwork.runtime import here
from subnetwork.runtime.clipping import REMEMBERED, clipping, norm


def huge(k, worker, submodel, local):
    return with_entry(local(k, worker, submodel), 1e30)


def spoilt(row, worker, at):
    bad = in_round(at, huge)(row.local)
    return here(lambda k, i, w: (bad if i == worker else row.local)(k, i, w))


@pytest.mark.parametrize("name", ["ist", "diloco", "synchronous_sgd"])
def test_a_run_without_huge_updates_is_the_same_to_the_bit(name):
    row, faults = row_of(method=name), []
    gradients = name == "synchronous_sgd"
    work = clipping(here(row.local), 10, gradients=gradients, report=faults.append)
    assert_same_models(run(row, work), run(row, here(row.local)))
    assert faults == []


@pytest.mark.parametrize("name", ["ist", "diloco", "synchronous_sgd"])
def test_a_huge_update_is_shortened_to_the_bound_and_reported(name):
    row, faults, usual = row_of(method=name), [], deque(maxlen=REMEMBERED)
    gradients = name == "synchronous_sgd"
    work = spoilt(row, 1, {3})
    honest = run(row, here(row.local))[:3]
    medians = [
        sorted(norm(w, z, gradients=gradients) for w, z in zip(r.submodels, r.trained, strict=True))
        for r in honest
    ]
    bound = 10 * sorted(m[1] for m in medians)[1]
    clipped = clipping(work, 10, usual=usual, gradients=gradients, report=faults.append)
    apart = run(row, clipped)
    assert [(f.round, f.worker, f.kind) for f in faults] == [(3, 1, "clipped")]
    assert faults[0].reason.endswith(f"10 times the usual is {bound:.3g}")
    w, z = apart[3].submodels[1], apart[3].trained[1]
    assert norm(w, z, gradients=gradients) == pytest.approx(bound, rel=1e-6)
    for moment, tensors in z.moments.items():
        for parameter, value in tensors.items():  # all but nothing is left of their change
            assert torch.allclose(value, w.moments[moment][parameter], atol=1e-20)
    assert all(torch.isfinite(p).all() for r in apart for p in r.x.params.values())
    assert len(usual) == len(apart)


def test_f_rises_by_no_more_than_the_bound_allows():
    """L-smooth f: f(x+) - f(x) <= |grad f| R + L/2 R^2, where R is the bound of what came back."""
    curvature = torch.arange(1.0, 9.0)
    layout = Layout({"a": 8}, {"x": ("a",)})
    f = lambda x: float((curvature * x * x).sum() / 2)  # noqa: E731
    hands = {}

    def local(k, worker, w):
        own = w.params["x"] * (1 - 0.05 * curvature[hands[k][worker]])
        return Submodel({"x": own * 1e8 if (k, worker) == (6, 0) else own}, {}, 0.0, 1)

    def work(k, partition, submodels):
        hands[k] = partition.hands["a"]
        return [local(k, i, w) for i, w in enumerate(submodels)]

    usual, faults = deque(maxlen=REMEMBERED), []
    bounded = clipping(work, 5, usual=usual, report=faults.append)
    sketch, x = NetSketch(layout, Perm(2)), ModelState({"x": torch.ones(8)})
    before = None
    for one in rounds(x, sketch, bounded, holders, seed=0, n_rounds=7):
        if one.k == 5:
            before, medians = one.x.params["x"], sorted(usual)
    after = one.x.params["x"]
    others = norm(one.submodels[1], one.trained[1])
    reach = ((5 * medians[len(medians) // 2]) ** 2 + others**2) ** 0.5
    slope = float((curvature * before).norm())
    assert [(fault.round, fault.worker) for fault in faults] == [(6, 0)]
    assert f(after) - f(before) <= slope * reach + 8 / 2 * reach**2
    assert (after - before).norm() <= reach * (1 + 1e-6)


def test_the_first_round_goes_by_its_own_median_and_a_run_goes_on_from_its_norms():
    row, faults = row_of(), []
    run(row, clipping(spoilt(row, 2, {0}), 10, report=faults.append))
    assert [(f.round, f.worker) for f in faults] == [(0, 2)]
    usual = deque(maxlen=REMEMBERED)
    whole = run(row, clipping(spoilt(row, 1, {4}), 10, usual=usual))
    kept = deque(list(usual)[:3], maxlen=REMEMBERED)
    work = clipping(spoilt(row, 1, {4}), 10, usual=kept)
    again = rounds(whole[2].x, row.sketch, work, row.merge, seed=row.seed, n_rounds=6, start=3)
    assert_same_models(list(again), whole[3:])
    assert list(kept) == list(usual)


def test_a_factor_that_would_shorten_what_is_usual_is_refused():
    with pytest.raises(ValueError, match=r"a multiple above 1 of what is usual, not 1\. Try 10"):
        clipping(here(row_of().local), 1)
