"""Which fields of a run do something in it: a flag that does nothing is refused, not swallowed."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from subnetwork.methods.rows import METHODS
from subnetwork.methods.training import Training
from subnetwork.nets.models import MODELS

Where: TypeAlias = Mapping[str, Collection[str]]
"""A field -> the values with which another field does something; all of them have to hold."""
Either: TypeAlias = Sequence[Where]
"""Any of these."""

GRAPHS = ("gcn", "sage", "gat")
DEALS = ("ist", "lazy_ist", "never_dealt", "narrow", "heterofl", "fedrolex", "federated_dropout")
SCALED = ("ist", "lazy_ist", "never_dealt", "heterofl", "fedrolex", "federated_dropout", "gist")
WITH_OTHERS = tuple(name for name in METHODS if name != "narrow")  # who has which rows matters

WITHOUT_STEP = tuple(name for name in METHODS if name not in ("diloco", "synchronous_sgd"))
OUTER: Either = ({"method": ("diloco",)}, {"outer": ("nesterov",), "method": WITHOUT_STEP})

USES: Mapping[str, Where | Either] = {
    "hidden": {"model": ("mlp", "relu", *GRAPHS)},
    "width": {"model": ("resnet", "gpt")},
    "blocks": {"model": ("resnet", "gpt")},
    "heads": {"model": ("gpt", "gat")},
    "norm": {"model": ("mlp", "gcn", "sage")},
    "dropout": {"model": ("mlp", "gpt", *GRAPHS)},
    "axes": {
        "method": (*DEALS, "gist"),
        "model": ("mlp", "resnet", "gpt", "gcn", "sage"),  # the others have one axis
    },
    "scale": {"method": SCALED},
    "batch_size": {"model": ("mlp", "relu", "resnet", "gpt")},
    "clusters": {"model": GRAPHS},
    "clusters_per_batch": {"model": GRAPHS},
    "split": {"method": WITH_OTHERS},
    "alpha": {"split": ("dirichlet",), "method": WITH_OTHERS},
    "momentum": {"optimizer": ("sgd",)},
    "period": {"method": ("lazy_ist",)},
    "capacities": {"method": ("heterofl", "fedrolex")},
    "least_blocks": {"method": ("resist",)},
    "keep": {"method": ("federated_dropout", "masked_relu")},
    "share": {"method": ("narrow",)},
    "wire": {"exchange": ("direct",)},
    "replicas": {"exchange": ("direct",)},
    "outer": {"method": WITHOUT_STEP},
    "outer_step_size": OUTER,
    "outer_momentum": OUTER,
}
"""A field of a run -> where it does something.

What is not listed does something in every run, but for `rounds` beside `steps`."""


def uses(run: Training, name: str) -> bool:
    """Whether the run may be another one with another value of this field."""
    return not _against(run, name)


def check_given(run: Training, given: Collection[str]) -> None:
    """Raise ValueError where a flag was given that does nothing in the run.

    Args:
        run: the run that is to be.
        given: the fields that were said, defaults or not; other names are none of a run's.
    """
    if run.method not in METHODS or run.model not in MODELS:
        return  # the row and the network say so, with the names that there are
    for name in given:
        against = _against(run, name)
        if against:
            raise ValueError(f"--{name.replace('_', '-')} does nothing {against}")


def _against(run: Training, name: str) -> str:
    """Why a field does nothing in the run, and what to do; empty where it does something."""
    if name == "rounds" and run.steps is not None:
        return f"beside --steps {run.steps}, which says how long the run is. Leave one of them out."
    where = USES.get(name, {})
    if isinstance(where, Mapping):
        missed = _missed(run, where)
        return missed and f"with {missed}"
    if not all(_missed(run, each) for each in where):
        return ""
    first = [next(iter(each.items())) for each in where]
    ways = " or ".join(f"--{decider} {_either(values)}" for decider, values in first)
    return f"here, only with {ways}. Leave it out."


def _missed(run: Training, where: Where) -> str:
    """What is not as it has to be, and what to do; empty where all is."""
    for decider, values in where.items():
        has = getattr(run, decider)
        if has not in values:
            return (
                f"--{decider} {has}, only with --{decider} {_either(values)}. Leave it out, "
                f"or choose another {decider}."
            )
    return ""


def _either(names: Collection[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
