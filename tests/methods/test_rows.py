"""Rows of the table: each runs, and equals its slow definition where it has one."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from subnetwork.algorithm import rounds
from subnetwork.experiments.training import train
from subnetwork.methods import Training
from subnetwork.methods.rows import METHODS, method, task
from subnetwork.methods.tasks import Task
from subnetwork.nets import decompose, initial_state
from subnetwork.nets.architecture import runnable
from subnetwork.nets.data import GraphBatches, GraphSet, text_set
from subnetwork.nets.losses import classes, marked
from subnetwork.nets.models import Sizes, network
from subnetwork.runtime import here
from subnetwork.runtime.direct import initial_parameters

SMALL = {"hidden": (24,), "workers": 3, "rounds": 2, "local_steps": 2, "batch_size": 8, "seed": 1}


def small_graph(n=40):
    rng = np.random.default_rng(0)
    edges = np.triu(rng.random((n, n)) < 0.15, 1)
    targets = torch.arange(n) % 3
    features = np.eye(3, dtype=np.float32)[targets] + rng.random((n, 3)).astype(np.float32)
    nodes = torch.arange(n)
    return GraphSet(
        "small", csr_array(features), csr_array((edges | edges.T).astype(np.float32)), targets,
        nodes[:12], nodes[12:20], nodes[20:], 3,
    )  # fmt: skip


def test_a_worker_may_have_one_row_where_nothing_normalises_over_rows():
    least = {"batch": 2, "layer": 1, "none": 1}
    for norm, rows in least.items():
        assert task(Training(**SMALL, norm=norm)).batches.least == rows


def graph_task(model, **changes):
    """What `task` makes, on a graph that lies in no file."""
    run = Training(**{**SMALL, "method": "gist", "data": "cora", "model": model, **changes})
    graph = small_graph()
    net = network(model, Sizes(run.hidden, heads=4, norm=run.norm), graph, seed=0)
    parts = [np.arange(12)[i :: run.workers] for i in range(run.workers)]
    feed = GraphBatches(graph, net.operator, parts, 0, run.clusters, run.clusters_per_batch)
    plan = decompose(net.model, feed.example(20), inexact=net.inexact)
    return Task(run, graph, plan, feed, net.loss)


def text_task(method, **changes):
    run = Training(
        **{**SMALL, "method": method, "model": "gpt", "width": 16, "blocks": 4, "workers": 2},
        optimizer="adamw", step_size=1e-3, **changes,
    )  # fmt: skip
    from subnetwork.methods.tasks import OPTIONS, _feed, _parts

    data = text_set("ab", "to be or not to be, " * 60, length=8)
    net = network("gpt", Sizes(width=16, blocks=4, heads=4), data, seed=0)
    feed = _feed(run, data, net, _parts(run, data))
    plan = decompose(net.model, net.example, **OPTIONS.get(method, {}))
    return Task(run, data, plan, feed, net.loss)


def last(t):
    return list(train(t, method(t)))[-1]


ROWS = {
    **{name: {} for name in METHODS if name not in ("narrow", "masked_relu", "gist", "resist")},
    "narrow": {"workers": 1, "share": 3},
    "masked_relu": {"model": "relu"},
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_runs(name):
    progress = last(task(Training(**{**SMALL, "method": name, **ROWS[name]})))
    assert 0 < progress.row["loss"] < 10
    assert 0 <= progress.row["accuracy"] <= 1
    assert min(progress.row["bytes_up"]) > 0


@pytest.mark.parametrize("model", ["gcn", "sage", "gat"])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_gist_trains_every_graph_network_on_clusters(model, norm):
    t = graph_task(model, norm=norm, clusters=4, clusters_per_batch=2, optimizer="adam")
    assert t.architecture.exact == (model == "gat" or norm == "none")
    assert 0 < last(t).row["loss"] < 10


@pytest.mark.parametrize("model", ["gcn", "sage", "gat", "gpt"])
def test_a_network_made_layer_by_layer_is_the_network_made_at_once(model):
    """So nothing is left to the values that the traced model happens to have."""
    plan = (text_task("ist") if model == "gpt" else graph_task(model)).architecture
    whole, alone = initial_state(plan, seed=5).params, dict(initial_parameters(plan, seed=5))
    assert alone.keys() == whole.keys()
    assert all(torch.equal(alone[name], p) for name, p in whole.items())


@pytest.mark.parametrize("name", ["ist", "resist"])
def test_a_transformer_is_cut_by_heads_and_width_or_by_blocks(name):
    t = text_task(name)
    row = method(t)
    axes = set(row.sketch.layout.sizes)
    assert (axes == {"blocks"}) == (name == "resist")
    assert last(t).row["test_loss"] < 10


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_local_sgd_with_one_worker_is_torchs_optimizer_to_the_bit(optimizer):
    run = Training(**{**SMALL, "workers": 1, "method": "local_sgd"}, optimizer=optimizer,
                   step_size=0.01, weight_decay=0.1)  # fmt: skip
    t = task(run)
    row = method(t)
    *_, end = rounds(row.x, row.sketch, here(row.local), row.merge, seed=0, n_rounds=row.n_rounds)
    module = runnable(t.architecture, t.start()).train()
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    torchs = kind[optimizer](module.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(run.total_steps):
        inputs, targets = t.batches.batch(0, step)
        torchs.zero_grad()
        classes(module(inputs), targets).backward()
        torchs.step()
    for name, p in module.named_parameters():
        assert torch.equal(p, end.x.params[name]), name


def test_never_dealt_is_narrow_networks_that_meet_only_where_all_share():
    """Without exchange every worker's neurons are what it trained itself, whatever others do."""
    t = task(Training(**{**SMALL, "method": "never_dealt"}))
    row = method(t)
    hands = [row.sketch.sample(row.seed, k).hands["hidden.0"] for k in range(5)]
    for now in hands[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(now, hands[0], strict=True))


def test_lazy_ist_moves_few_units_and_all_of_them_in_a_period():
    t = task(Training(**{**SMALL, "method": "lazy_ist", "period": 4}))
    row = method(t)
    hands = [row.sketch.sample(0, k).hands["hidden.0"] for k in range(9)]
    moved = [
        sum(len(set(a) - set(b)) for a, b in zip(now, before, strict=True))
        for before, now in pairwise(hands)
    ]
    assert 0 < max(moved) <= 24 // 4


def test_narrow_is_a_network_of_a_workers_size():
    whole = task(Training(**{**SMALL, "method": "ist"}))
    part = method(whole).sketch.sample(0, 0).select(method(whole).x, 0)
    alone = method(task(Training(**{**SMALL, "method": "narrow", "workers": 1, "share": 3})))
    assert {n: p.shape for n, p in alone.x.params.items()} == {
        n: p.shape for n, p in part.params.items()
    }


def test_the_signs_of_a_masked_relu_network_are_never_trained():
    t = task(Training(**{**SMALL, "method": "masked_relu", "model": "relu", "keep": 0.7}))
    before, after = method(t).x.params, last(t).x.params
    assert torch.equal(before["signs"], after["signs"])
    assert not torch.equal(before["up.weight"], after["up.weight"])


def test_heterofl_trains_the_first_units_everywhere_and_fedrolex_all_in_turn():
    capacities = {"capacities": (1.0, 0.5, 0.25), **SMALL}
    first = method(task(Training(**{**capacities, "method": "heterofl"}))).sketch
    rolling = method(task(Training(**{**capacities, "method": "fedrolex"}))).sketch
    assert first.sample(0, 7).hands["hidden.0"][2].tolist() == list(range(6))
    seen = set().union(*(rolling.sample(0, k).hands["hidden.0"][2].tolist() for k in range(24)))
    assert seen == set(range(24))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "narrow"}, r"Use --workers 1 --share 3"),
        ({"method": "masked_relu"}, r"Use --model relu"),
        ({"method": "gist"}, r"digits is no graph"),
        ({"method": "heterofl", "capacities": (1.0,)}, r"1 capacities for --workers 3"),
        ({"method": "synchronous_sgd", "optimizer": "adam"}, r"not by adam with 0\.0"),
        ({"method": "synchronous_sgd", "weight_decay": 0.1}, r"not by sgd with 0\.1"),
        ({"optimizer": "adamw", "momentum": 0.9}, r"momentum=0\.9 is SGD's.*adamw"),
        ({"method": "resist", "model": "relu", "axes": ("*",)}, r"deals whole blocks"),
        ({"model": "lstm"}, r"no model 'lstm'\. Known are: mlp.*; a model of your own .*join\.md"),
        ({"model": "gcn"}, r"gcn reads a graph, and digits is none"),
        ({"model": "gpt"}, r"gpt reads text, and digits is none"),
        ({"model": "resnet"}, r"resnet reads pictures"),
        ({"split": "client"}, r"do not say whose they are"),
        ({"split": "evenly"}, r"no split 'evenly'\. Known are: iid"),
        ({"split": "dirichlet", "alpha": 1e-4, "workers": 12}, r"alpha=0.0001 leaves"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(changes, message):
    with pytest.raises(ValueError, match=message):
        method(task(Training(**{**SMALL, **changes})))


def test_a_batch_without_a_node_that_counts_moves_nothing():
    outputs = torch.randn(5, 3, requires_grad=True)
    loss = marked(outputs, torch.full((5,), -100))
    loss.backward()
    assert loss == 0
    assert not outputs.grad.any()


def test_hidden_layers_that_a_network_does_not_have_are_refused_and_not_dropped():
    with pytest.raises(ValueError, match=r"relu has one hidden layer, not hidden=\(24, 12\).*mlp"):
        task(Training(**{**SMALL, "model": "relu", "hidden": (24, 12)}))
    with pytest.raises(ValueError, match=r"gat has one hidden layer, .* --model gcn or sage\."):
        graph_task("gat", hidden=(24, 12))
