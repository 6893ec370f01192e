"""Export and rewrite: the model as one graph, whose size constants follow the units.

For models that take sizes from attributes of their own, which a patched copy cannot know. A graph
has no control flow, trains only (its evaluation is that of the merged model) and stays on the
device of the batch it was made with.
"""

import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from subnetwork.nets import terms
from subnetwork.nets.axes import plain
from subnetwork.nets.builders import CannotBuildError
from subnetwork.nets.builders.blocks import blocks
from subnetwork.nets.builders.detour import Detour, detours, take
from subnetwork.nets.builders.rewrite import NodeDims, Sizes, rewrite
from subnetwork.nets.builders.sizes import insert_check, sizes_of_inputs
from subnetwork.nets.copying import HELD, OF, copied
from subnetwork.nets.layout import Layout
from subnetwork.nets.trace.seen import Seen, readings
from subnetwork.nets.trace.terms import Atom, Cat, Dims, Prod, Term, resolved
from subnetwork.nets.trace.tracer import Inputs, first_line, rehearse, watch

NOT_EXPORTED = "torch.export refuses it"


@dataclass(frozen=True)
class Export:
    """Builds by rewriting the sizes in an exported graph."""

    layout: Layout
    graph: fx.GraphModule
    dims: NodeDims  # node -> the terms of each tensor that it computes
    around: Mapping[str, Detour] = field(default_factory=dict)  # path of a block -> its way around
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)  # of the model's tensors then
    kind: str = "export"

    def build(self, model: nn.Module, units: Mapping[str, Tensor], /) -> nn.Module:
        """The graph for these units, with the model's parameter names.

        Raises:
            ValueError: where a type is written into the graph and the model has another one now.
        """
        self._check_dtypes(model)
        parts = blocks(model, self.layout, units)
        named = {name: parts[id(tensor)] for name, tensor in _all_tensors(model)}
        memo: dict[int, object] = {
            id(tensor): _or_empty(named[name])
            for name, tensor in _all_tensors(self.graph)
            if name in named
        }
        with _silent():
            small = copy.deepcopy(self.graph, memo)
        take(small, [self.around[path] for path in self.layout.left_out(units)])
        sizes = Sizes(self.layout.sizes, {axis: len(kept) for axis, kept in units.items()})
        for node in list(small.graph.nodes):
            if node.op == "call_function":
                rewrite(node, self.dims, sizes)
        small.graph.lint()
        small.recompile()
        _guard(small)
        return small

    def at(self, model: nn.Module, inputs: Inputs, /) -> "Export":
        """Itself where no dtype is written into the graph, else the graph of this model."""
        return exported(model, inputs, self.layout) if self._written else self

    @cached_property
    def _written(self) -> frozenset[torch.dtype]:
        """The types that the graph names, whatever it is given."""
        nodes = self.graph.graph.nodes
        leaves = (x for node in nodes for x in tree_leaves((node.args, node.kwargs)))
        return frozenset(x for x in leaves if isinstance(x, torch.dtype))

    def _check_dtypes(self, model: nn.Module) -> None:
        if not any(dtype.is_floating_point or dtype.is_complex for dtype in self._written):
            return
        for name, x in _all_tensors(model):
            if x.dtype != self.dtypes.get(name, x.dtype):
                raise ValueError(
                    f"The parts were exported in {self.dtypes[name]}, which is written into their "
                    f"graph, but {name} is in {x.dtype}. Make a new plan of the model and a batch "
                    "in its type with decompose."
                )


def exported(model: nn.Module, inputs: Inputs, layout: Layout) -> Export:
    """Export the model in training mode and read the sizes in its graph.

    Raises:
        CannotBuildError: where it cannot be exported, or its graph cuts across the layout's axes.
    """
    inputs = _in_order(model, inputs)
    graph, inputs = _general(model, inputs)
    names, whole = ([name for name, _ in m.named_parameters()] for m in (graph, model))
    if set(names) != set(whole):
        raise CannotBuildError(f"the graph has other parameters: {set(names) ^ set(whole)}")
    dims = _node_dims(graph, inputs, layout)
    paths = [path for paths in layout.unit_names.values() for path in paths]
    with _silent():
        around = detours(graph, _flat(inputs).each(torch.clone), paths)
    for node in graph.graph.nodes:
        node.meta = {}
    dtypes = {name: x.dtype for name, x in _all_tensors(model)}
    return Export(layout, graph, dims, around, dtypes)


def _general(model: nn.Module, inputs: Inputs) -> tuple[fx.GraphModule, Inputs]:
    """The graph, and the inputs that it was exported with: two rows where the batch has one.

    A size of 1 would become a constant of the graph.
    """
    tensors = [x for x in inputs.tensors() if x.dim()]
    if tensors and all(len(x) == 1 for x in tensors):
        twice = inputs.each(lambda x: torch.cat([x, x]) if x.dim() else x)
        with suppress(Exception):  # whatever the user's forward raises at two rows
            graph = _graph(model, twice)
            if all(sizes[0] != 2 for sizes in sizes_of_inputs(graph).values() if sizes):
                return graph, twice
    return _graph(model, inputs), inputs


def _in_order(model: nn.Module, inputs: Inputs) -> Inputs:
    """Keyword arguments in the order of forward's signature, as a graph takes them."""
    order = list(inspect.signature(model.forward).parameters)
    known = [name for name in order if name in inputs.kwargs]
    names = [*known, *(name for name in inputs.kwargs if name not in known)]
    return Inputs(inputs.args, {name: inputs.kwargs[name] for name in names})


def _graph(model: nn.Module, inputs: Inputs) -> fx.GraphModule:
    shared: dict[int, object] = {id(tensor): tensor for _, tensor in _all_tensors(model)}
    twin = copied(model, shared).train()  # another mode, the same tensors
    free = inputs.each(lambda x: dict.fromkeys(range(x.dim()), torch.export.Dim.AUTO))  # type: ignore[arg-type, return-value]
    shapes = tree_map(
        lambda x: x if isinstance(x, dict) else None,
        free.args or dict(free.kwargs),
        is_leaf=lambda x: isinstance(x, dict) and all(isinstance(d, int) for d in x),
    )
    try:
        with _silent():
            rehearse(model, inputs)
        with _silent(), torch.enable_grad():
            program = torch.export.export(
                twin, inputs.args, dict(inputs.kwargs), dynamic_shapes=shapes, strict=False
            )
            guarded = "check_guards" in inspect.signature(program.module).parameters
            graph = program.module(**({"check_guards": False} if guarded else {}))
    except Exception as problem:  # torch.export raises many kinds
        raise CannotBuildError(f"{NOT_EXPORTED}: {first_line(problem)}") from problem
    assert isinstance(graph, fx.GraphModule)
    insert_check(graph)
    return graph


def _node_dims(graph: fx.GraphModule, inputs: Inputs, layout: Layout) -> NodeDims:
    """Run the graph once, its parameters announced with the layout's axes."""
    with _silent():
        ran = copy.deepcopy(graph)
    atoms = {axis: Atom(n) for axis, n in layout.sizes.items() if axis not in layout.depth}
    seen = Seen(readings())
    for name, tensor in _all_tensors(ran):
        dims = layout.dims.get(name, layout.buffers.get(name, (None,) * tensor.dim()))
        seen.put(
            tensor,
            [_term(n if d is None else d, atoms) for n, d in zip(tensor.shape, dims, strict=True)],
        )
        seen.weights.add(id(tensor))
    found: dict[str, list[Dims | None]] = {}
    recorder = _Recorder(ran)
    recorder.hold(seen, found)
    run = partial(recorder.run, enable_io_processing=False)
    watch(seen, run, _flat(inputs).each(torch.clone))
    names = _names(atoms)
    return {
        node: tuple(
            None if dims is None else tuple(plain(term, names) for term in dims) for dims in tensors
        )
        for node, tensors in found.items()
    }


def _flat(inputs: Inputs) -> Inputs:
    return Inputs(tuple(tree_leaves((inputs.args, dict(inputs.kwargs)))), {})


def _or_empty(tensor: Tensor | None) -> Tensor:
    return nn.Parameter(torch.empty(0)) if tensor is None else tensor


def _names(atoms: Mapping[str, Atom]) -> dict[Atom, str]:
    """Atom -> axis, as the graph left them."""
    names: dict[Atom, str] = {}
    for axis, atom in atoms.items():
        term = resolved(atom)
        if not isinstance(term, Atom) or term.frozen or term in names:
            frozen = term.frozen if isinstance(term, Atom) else None
            why = frozen or "its units are not the same ones"
            raise CannotBuildError(f"in its graph {axis} stays whole: {why}")
        names[term] = axis
    return names


def _term(dim: terms.Term, atoms: Mapping[str, Atom]) -> Term:
    if isinstance(dim, str):
        return atoms[dim]
    if isinstance(dim, int):
        return Atom(dim, "whole")
    if isinstance(dim, terms.Prod):
        return Prod(tuple(_term(t, atoms) for t in dim.factors))
    return Cat(tuple(_term(t, atoms) for t in dim.parts))


class _Recorder(fx.Interpreter):
    """Runs a graph and writes down the dims of what every node computes."""

    def hold(self, seen: Seen, found: dict[str, list[Dims | None]]) -> None:
        """Where to look dims up and where to write them."""
        self.seen, self.found = seen, found

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        """Run one node."""
        out = super().run_node(n)
        tensors = out if isinstance(out, tuple | list) else [out]
        self.found[n.name] = [
            list(self.seen.of(x)) if isinstance(x, Tensor) else None for x in tensors
        ]
        return out


def _all_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _guard(small: fx.GraphModule) -> None:
    """Have a graph refuse what it does not compute, and its copies too."""
    kind: Any = type(small)  # of this graph alone: torch makes one for each
    kind.train, kind.eval = _train, _train_off
    kind.__copy__, kind.__deepcopy__, kind.__reduce_ex__ = _copy, _deep_copy, _not_pickled


def _copy(self: fx.GraphModule) -> fx.GraphModule:
    """What copy.copy makes: another graph of the same tensors."""
    return _as_part(fx.GraphModule.__copy__(self), self)


def _deep_copy(self: fx.GraphModule, memo: dict[int, Any]) -> fx.GraphModule:
    """What copy.deepcopy makes."""
    with _silent():
        return _as_part(fx.GraphModule.__deepcopy__(self, memo), self)


def _as_part(twin: fx.GraphModule, part: fx.GraphModule) -> fx.GraphModule:
    """A copy by torch, which forgets what is ours, made what it was copied from."""
    _guard(twin)
    for name in (HELD, OF):
        if hasattr(part, name):
            object.__setattr__(twin, name, copy.deepcopy(getattr(part, name)))
    return twin


def _not_pickled(self: fx.GraphModule, protocol: object) -> Any:  # noqa: ANN401
    del self, protocol
    raise TypeError(
        "A subnetwork that was built by export cannot be pickled. Save its state_dict(), and load "
        "that into what plan.cut makes; held_units says which units it holds."
    )


def _train(self: nn.Module, mode: bool = True) -> nn.Module:
    if not mode:
        raise RuntimeError(
            "A subnetwork that was built by export computes in training mode only. Evaluate the "
            'merged model, or make the plan with builder="copy".'
        )
    return self


def _train_off(self: nn.Module) -> nn.Module:
    return _train(self, False)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch says on its way: the one line of an error is enough."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore"),  # of torch about its own code
        ):
            yield
    finally:
        logging.disable(before)
