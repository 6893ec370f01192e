"""The size constants of one operation in a graph, made to follow the units that are kept."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx
from torch._ops import OpOverload

from subnetwork.nets.terms import Cat, Term, extent, outermost

NodeDims: TypeAlias = Mapping[str, tuple[tuple[Term, ...] | None, ...]]


@dataclass(frozen=True)
class Sizes:
    """Units of each axis: of the whole model, and kept."""

    whole: Mapping[str, int]
    kept: Mapping[str, int]

    def of(self, term: Term) -> tuple[int, int]:
        """Entries along a dim, before and after."""
        return extent(term, self.whole), extent(term, self.kept)

    def changes(self, term: Term) -> bool:
        """Whether a dim gets smaller."""
        before, after = self.of(term)
        return before != after


def rewrite(node: fx.Node, dims: NodeDims, sizes: Sizes) -> None:
    """Change the node's arguments in place where a dim they count gets smaller."""
    if not isinstance(node.target, OpOverload):
        return
    name = node.target._schema.name.split("::")[1]
    change = _CHANGES.get(name)
    if change is not None:
        change(_Site(node, dims, sizes, [a.name for a in node.target._schema.arguments]))


@dataclass(frozen=True)
class _Site:
    node: fx.Node
    dims: NodeDims
    sizes: Sizes
    names: Sequence[str]

    def get(self, *names: str) -> Any:  # noqa: ANN401
        """The first of these arguments that is given."""
        for name in names:
            place = self.names.index(name) if name in self.names else len(self.node.args)
            if place < len(self.node.args):
                return self.node.args[place]
            if name in self.node.kwargs:
                return self.node.kwargs[name]
        return None

    def set(self, name: str, value: Any) -> None:  # noqa: ANN401
        """Write an argument where it is given."""
        place = self.names.index(name)
        if place < len(self.node.args):
            self.node.update_arg(place, value)
        else:
            self.node.update_kwarg(name, value)

    @property
    def out(self) -> tuple[Term, ...]:
        """The dims of the first tensor that comes out."""
        return self.dims[self.node.name][0] or ()

    def of(self, *names: str) -> tuple[Term, ...]:
        """The dims of an argument."""
        return self.dims[self.get(*names).name][0] or ()

    def scaled(self, value: Any, term: Term) -> Any:  # noqa: ANN401
        """A size before the cut, a number or computed in the graph, as one after it."""
        before, after = self.sizes.of(term)
        if before == after or (isinstance(value, int) and value == -1):
            return value
        if isinstance(value, int):
            assert value == before, f"{self.node} counts {value}, its dim has {before}"
            return after
        common = math.gcd(before, after)
        graph = self.node.graph
        with graph.inserting_before(self.node):
            times = graph.call_function(operator.mul, (value, after // common))
            return graph.call_function(operator.floordiv, (times, before // common))


def _sized(name: str) -> Callable[[_Site], None]:
    """An operation whose argument is the shape that comes out."""

    def change(site: _Site) -> None:
        shape = zip(site.get(name), site.out[len(site.out) - len(site.get(name)) :], strict=True)
        site.set(name, [site.scaled(n, term) for n, term in shape])

    return change


def _unflatten(site: _Site) -> None:
    given = list(site.get("sizes"))
    d = site.get("dim") % len(site.of("self"))
    shape = zip(given, site.out[d : d + len(given)], strict=True)
    site.set("sizes", [site.scaled(n, term) for n, term in shape])


def _normalised(site: _Site) -> None:
    last = site.of("input")[-len(site.get("normalized_shape")) :]
    site.set("normalized_shape", [site.sizes.of(term)[1] for term in last])


def _split(site: _Site) -> None:
    outs = [dims for dims in site.dims[site.node.name] if dims is not None]
    d = (site.get("dim") or 0) % len(outs[0])
    if any(site.sizes.changes(dims[d]) for dims in outs):
        parts = [site.sizes.of(dims[d])[1] for dims in outs]
        site.node.target = torch.ops.aten.split_with_sizes.default
        site.node.args, site.node.kwargs = (site.get("self"), parts, d), {}


def _slice(site: _Site) -> None:
    """Bounds of a stretch: its length follows its units, its start those that lie before it."""
    dims = site.of("self")
    d = (site.get("dim") or 0) % len(dims)
    if not site.sizes.changes(dims[d]):
        return
    start = _kept_before(dims[d], site.get("start") or 0, site.sizes)
    length = site.sizes.of(site.out[d])[1]
    site.set("start", start)
    if "length" in site.names:
        site.set("length", length)
    else:
        site.set("end", start + length)


def _kept_before(term: Term, start: int, sizes: Sizes) -> int:
    """How many of the first `start` entries of a concatenation are kept."""
    whole, _ = sizes.of(term)
    left = start + whole if start < 0 else min(start, whole)
    kept = 0
    for part in term.parts if isinstance(term, Cat) else (term,):
        before, after = sizes.of(part)
        if left < before:
            assert left == 0 or before == after, "a slice begins inside an axis"
            return kept + left
        kept, left = kept + after, left - before
    return kept


def _groups(argument: str, weight: str) -> Callable[[_Site], None]:
    """A number of groups that the outer factor of a weight's first dim makes up."""

    def change(site: _Site) -> None:
        count = site.get(argument) or 1
        if count > 1:
            dims = site.of(weight)
            outer = outermost(dims[1 if weight == "input" else 0], count, site.sizes.whole)
            if outer is not None:
                site.set(argument, site.sizes.of(outer)[1])

    return change


_SIZED = (
    "view",
    "_unsafe_view",
    "expand",
    "broadcast_to",
    "zeros",
    "ones",
    "full",
    "empty",
    "rand",
    "randn",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
)
_SPLITS = ("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk")
_CONVOLUTIONS = ("convolution", *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)))
_CHANGES: Mapping[str, Callable[[_Site], None]] = {
    **dict.fromkeys(_SIZED, _sized("size")),
    **dict.fromkeys(_SPLITS, _split),
    **dict.fromkeys(_CONVOLUTIONS, _groups("groups", "weight")),
    "reshape": _sized("shape"),
    "unflatten": _unflatten,
    "layer_norm": _normalised,
    "rms_norm": _normalised,
    "slice": _slice,
    "narrow": _slice,
    "group_norm": _groups("num_groups", "input"),
}
