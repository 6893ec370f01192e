"""What can be cut: every dim of every parameter as a term, from one forward pass."""

from subnetwork.nets.trace.entries import pointwise
from subnetwork.nets.trace.rule import Call, Reading, Rule, rule
from subnetwork.nets.trace.terms import flag, freeze, fresh
from subnetwork.nets.trace.tracer import Inputs, Traced, trace
from subnetwork.nets.trace.unify import broadcast, part, regrouped, split, unify

__all__ = [
    "Call",
    "Inputs",
    "Reading",
    "Rule",
    "Traced",
    "broadcast",
    "flag",
    "freeze",
    "fresh",
    "part",
    "pointwise",
    "regrouped",
    "rule",
    "split",
    "trace",
    "unify",
]
