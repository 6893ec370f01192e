"""The table of what a flag speaks to cannot lie: every field, on every method, model and split.

Where the table says that a field is unused, the run with another value of it ends in the same
model, to the bit; where it says that it is used, it does not (or the value is refused).
"""

import hashlib
import re
from dataclasses import fields, replace
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
import torch

import small_sets
from subnetwork.algorithm import rounds
from subnetwork.methods import Training, tasks
from subnetwork.methods.rows import METHODS, method, task
from subnetwork.methods.uses import USES, check_given, uses
from subnetwork.nets import decompose
from subnetwork.nets.data import GraphSet, text_set
from subnetwork.nets.data.sets import DataSet
from subnetwork.nets.models import MODELS
from subnetwork.runtime import here

BASE = Training(
    data="rows", hidden=(12, 8), width=8, blocks=1, workers=2, rounds=2, local_steps=1,
    batch_size=4, clusters=4, clusters_per_batch=2, period=3, share=2,
)  # fmt: skip
OTHER = {
    "method": "local_sgd", "data": "rows2", "model": "resnet", "hidden": (16,), "width": 16,
    "blocks": 3, "heads": 2, "norm": "none", "dropout": 0.3, "axes": ("*0*",), "workers": 3,
    "rounds": 3, "local_steps": 3, "batch_size": 5, "split": "consecutive", "alpha": 50.0,
    "clusters": 5, "clusters_per_batch": 3, "optimizer": "adam", "step_size": 0.1, "momentum": 0.9,
    "weight_decay": 0.01, "period": 2, "capacities": (1.0, 0.25), "least_blocks": 2, "keep": 0.8,
    "share": 3, "outer_step_size": 0.5, "outer_momentum": 0.5, "measure": "validation", "seed": 1,
    "outer": "nesterov", "steps": 3, "scale": "inverted", "autocast": "bfloat16",
}  # fmt: skip
# how or where a run is computed, not which one it is
HOW = frozenset(
    {"exchange", "wire", "compile", "shares", "clip_updates", "replicas", "test_every", "patience"}
)
ON = {  # what a network reads, and sizes that it has
    "relu": {"hidden": (12,)},
    "gat": {"hidden": (8,), "data": "graph"},
    "gpt": {"data": "text", "blocks": 2},
    "gcn": {"data": "graph"},
    "sage": {"data": "graph"},
}
RUNS = {
    **{f"--method {name}": {"method": name} for name in METHODS},
    "--method narrow": {"method": "narrow", "workers": 1},
    "--method masked_relu": {"method": "masked_relu", "model": "relu", **ON["relu"]},
    "--method gist": {"method": "gist", "model": "gcn", **ON["gcn"]},
    "--method resist": {"method": "resist", "model": "gpt", **ON["gpt"]},
    **{f"--model {name}": {"model": name, **ON.get(name, {})} for name in MODELS},
    "--split dirichlet": {"split": "dirichlet"},
    "--outer nesterov": {"outer": "nesterov"},
    "--optimizer adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "--steps 5": {"method": "local_sgd", "steps": 5},
}


def rows_named(name, seed):
    draw = torch.Generator().manual_seed(len(name) + seed % 7)
    if name == "text":
        return text_set(name, "to be or not to be " * (20 + seed % 7), length=8)
    inputs = torch.rand(60, 1, 4, 4, generator=draw)
    targets = torch.randint(0, 3, (60,), generator=draw)
    return DataSet(name, inputs[:48], targets[:48], inputs[48:], targets[48:], 3)


@pytest.fixture(autouse=True)
def _small_data_and_one_tracing_of_each_network(monkeypatch):
    monkeypatch.setattr(tasks, "load", rows_named)
    monkeypatch.setattr(tasks, "graph", small_sets.few_nodes)
    monkeypatch.setattr(tasks, "GRAPHS", ("graph",))
    monkeypatch.setattr(tasks, "decompose", traced)


PLANS = {}


def traced(model, example, **options):
    """The plan of the first network of that form: x^0 is drawn by the run's seed anyway."""
    sizes = [(n, v) for m in model.modules() for n, v in vars(m).items() if not n.startswith("_")]
    key = f"{model} {sizes} {sorted(options.items())}"
    if key not in PLANS:
        PLANS[key] = decompose(model, example, **options | {"verify": False})
    return PLANS[key]


@cache
def result(run):
    """What a run comes to: its last model to the bit, its length, and what it is tested on."""
    t = task(run)
    row = method(t)
    *_, last = rounds(
        row.x, row.sketch, here(row.local), row.merge, seed=row.seed, n_rounds=row.n_rounds
    )
    found = hashlib.sha256()
    for name, p in sorted(last.x.params.items()):
        found.update(name.encode() + p.numpy().tobytes())
    tested = t.data.test_nodes if isinstance(t.data, GraphSet) else t.data.test_targets
    read = [t.samples(i, range(20)) for i in range(run.workers)]
    return found.hexdigest(), row.n_rounds, tuple(read), tuple(tested.flatten().tolist())


@pytest.mark.parametrize("name", RUNS)
def test_a_field_changes_the_run_exactly_where_the_table_says_so(name):
    run = replace(BASE, **RUNS[name])
    others = OTHER | {"axes": ("stream",) if run.model == "sage" else OTHER["axes"]}
    decider, wrong = name.split()[0].removeprefix("--"), {}
    for field in fields(Training):
        assert field.name in OTHER or field.name in HOW, f"give {field.name} a value in OTHER"
        decided = decider == "method" or decider in USES.get(field.name, {})
        if not decided or field.name in HOW or getattr(run, field.name) == others[field.name]:
            continue
        try:
            changed = result(replace(run, **{field.name: others[field.name]})) != result(run)
        except ValueError:
            continue  # refused, which is not silent
        if changed != uses(run, field.name):
            wrong[field.name] = changed
    assert not wrong


def test_every_field_of_the_table_is_a_field_and_so_is_what_decides_on_it():
    names = {field.name for field in fields(Training)}
    assert set(USES) <= names
    wheres = [of if isinstance(of, tuple) else (of,) for of in USES.values()]
    for where in chain.from_iterable(wheres):
        assert set(where) <= names
        assert set(where.get("method", ())) <= set(METHODS)
        assert set(where.get("model", ())) <= set(MODELS)


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({}, "period", "--period does nothing with --method ist, only with --method lazy_ist. "),
        ({}, "outer_momentum", "here, only with --method diloco or --outer nesterov. Leave it"),
        ({"method": "diloco"}, "outer", "--outer does nothing with --method diloco, only with "),
        ({"method": "diloco"}, "keep", "only with --method federated_dropout or masked_relu. "),
        ({}, "heads", "--heads does nothing with --model mlp, only with --model gpt or gat. "),
        ({}, "clusters_per_batch", "--clusters-per-batch does nothing with --model mlp, only"),
        ({"split": "label"}, "alpha", "nothing with --split label, only with --split dirichlet. "),
        ({"steps": 9}, "rounds", "--rounds does nothing beside --steps 9, which says how long"),
    ],
)
def test_a_flag_that_does_nothing_is_refused_and_only_if_it_was_given(changes, given, message):
    run = replace(BASE, **changes)
    check_given(run, ("method", "workers", "here", "out"))
    with pytest.raises(ValueError, match=re.escape(message)):
        check_given(run, ("method", given, "here"))


def test_the_page_on_methods_names_the_flags_of_the_table():
    """The last column of its first table; `--axes` is of all that deal, `narrow` says workers.

    Flags of more methods than one stand beside the table.
    """
    page = (Path(__file__).parents[2] / "docs/methods.md").read_text(encoding="utf-8")
    for name in METHODS:
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        said = set(re.findall(r"`--([a-z-]+)`", line))
        firsts = {f: where[0] if isinstance(where, tuple) else where for f, where in USES.items()}
        own = {f.replace("_", "-") for f, of in firsts.items() if name in of.get("method", ())}
        extra = {"clusters", "clusters-per-batch"} if name == "gist" else set()
        assert said == (own - {"axes", "scale", "split", "alpha", "outer"}) | extra, name
    assert "`--outer nesterov` on any of the others" in page
