"""What has been learnt about the tensors of one forward pass, operation by operation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subnetwork.nets.trace import entries, indexing, norms, products, views
from subnetwork.nets.trace.rule import Call, Reading, Rule
from subnetwork.nets.trace.terms import Dims, freeze, fresh, size
from subnetwork.nets.trace.unify import unify

RULES = (*views.RULES, *products.RULES, *norms.RULES, *entries.RULES, *indexing.RULES)
_RESHAPING = ("transpose_", "t_", "squeeze_", "unsqueeze_", "as_strided_", "set_", "resize_",
              "swapaxes_")  # fmt: skip


def readings(rules: Sequence[Rule] = ()) -> dict[str, Reading]:
    """Name -> reading; the user's rules go before ours."""
    return {name: r.read for r in (*RULES, *rules) for name in r.names}


@dataclass
class Seen:
    """What is known about the tensors of one forward pass; grows while the pass runs."""

    rules: Mapping[str, Reading]
    outside: Mapping[int, str] = field(default_factory=dict)  # plain-attribute tensors by id
    dims: dict[int, Dims] = field(default_factory=dict)
    held: list[Tensor] = field(default_factory=list)  # so that no id is given out twice
    weights: set[int] = field(default_factory=set)
    used: set[int] = field(default_factory=set)  # went into an operation
    unknown: set[str] = field(default_factory=set)

    def of(self, tensor: Tensor) -> Dims:
        """The terms of a tensor; one that nobody announced stays whole."""
        if id(tensor) not in self.dims:
            name = self.outside.get(id(tensor))
            why = (
                f"meets the tensor {name}, a plain attribute: register it with register_buffer"
                if name
                else "meets a constant made in forward"
            )
            self.put(tensor, fresh(tensor.shape, why))
        return self.dims[id(tensor)]

    def put(self, tensor: Tensor, dims: Dims) -> None:
        """Say what a tensor's dims are."""
        self.dims[id(tensor)] = dims
        self.held.append(tensor)

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor was made from parameters and buffers alone."""
        return id(tensor) in self.weights

    def read(self, name: str, read: Reading | None, call: Call, outs: Sequence[Tensor]) -> None:
        """Apply a rule to one call; freeze all it touches where there is none or it fails."""
        inputs = [x for x in tree_leaves(dict(call.arguments)) if isinstance(x, Tensor)]
        self.used |= {id(x) for x in inputs}
        if inputs and all(map(self.is_weight, inputs)):
            self.weights |= {id(x) for x in outs}
        try:
            if read is None:
                raise NotImplementedError
            found = list(read(call))
            for x, dims in zip(outs, found, strict=True):
                assert [size(t) for t in dims] == list(x.shape), "the rule gives other sizes"
        except Exception as problem:
            why = _not_understood(call.name, problem)
            self.unknown.add(why)
            for term in [t for x in inputs for t in self.of(x)]:
                freeze(term, why)
            found = [fresh(x.shape, why) for x in outs]
        for x, dims in zip(outs, found, strict=True):
            self._learn(name, x, dims)

    def _learn(self, name: str, x: Tensor, dims: Dims) -> None:
        known = self.dims.get(id(x))
        if known is None or name in _RESHAPING or [size(t) for t in known] != list(x.shape):
            self.put(x, dims)
        else:  # written in place
            for a, b in zip(known, dims, strict=True):
                unify(a, b)


def _not_understood(name: str, problem: Exception) -> str:
    detail = f" ({problem})" if str(problem) else ""
    return (
        f"op {name} is not understood{detail}: its axes stay whole; "
        f'teach it with rule("{name}", ...)'
    )


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operation below autograd to `Seen.read`."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run the operation, then read it."""
        out = func(*args, **(kwargs or {}))
        outs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if outs:
            name = func._schema.name.split("::")[1]
            bare = name[:-1] if name.endswith("_") and not name.endswith("__") else name
            read = self.seen.rules.get(bare)
            if read is None and torch.Tag.pointwise in func.tags:
                read = entries.pointwise
            shapes = [tuple(x.shape) for x in outs]
            arguments = _named(func, args, kwargs or {})
            call = Call(bare, arguments, shapes, self.seen.of, self.seen.is_weight)
            self.seen.read(name, read, call, outs)
        return out


def _names(func: OpOverload) -> list[str]:
    return [a.name for a in func._schema.arguments]


def _named(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return {**defaults, **dict(zip(_names(func), args, strict=False)), **kwargs}
