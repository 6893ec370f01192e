"""Blocks taken out of an exported graph: what used their output uses their input."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from subnetwork.nets.builders import CannotBuildError
from subnetwork.nets.trace.tracer import Inputs


@dataclass(frozen=True)
class Detour:
    """The way around one block, by the names of nodes."""

    path: str
    inside: tuple[str, ...]
    out: str
    into: str


def detours(graph: fx.GraphModule, inputs: Inputs, paths: Sequence[str]) -> dict[str, Detour]:
    """Where each block begins and ends; its nodes say which module they come from.

    The input that a block hands on is the one that comes out when its parameters are zero.

    Args:
        graph: as exported, with the metadata of its nodes.
        inputs: the flat inputs of the graph.
        paths: of the blocks.

    Raises:
        CannotBuildError: where a block is not one stretch of the graph.
    """
    if not paths:
        return {}
    inside = {p: [n for n in graph.graph.nodes if _is_inside(n, p)] for p in paths}
    ran = _Keeping(copy.deepcopy(graph))
    ran.kept = {n.name: None for nodes in inside.values() for n in _borders(nodes)}
    ran.numbers = set()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        ran.run(*inputs.args, enable_io_processing=False)
        return {
            p: _detour(graph, p, _without_shared(nodes, ran.numbers), ran.kept)
            for p, nodes in inside.items()
        }


def take(graph: fx.GraphModule, around: Sequence[Detour]) -> None:
    """Take these blocks out of the graph, in its order, with their parameters and buffers."""
    nodes = {n.name: n for n in graph.graph.nodes}
    replaced: dict[str, fx.Node] = {}
    for detour in around:
        into = replaced.get(detour.into, nodes[detour.into])
        replaced[detour.out] = into
        nodes[detour.out].replace_all_uses_with(into)
        for name in reversed(detour.inside):
            graph.graph.erase_node(nodes[name])
    gone = tuple(f"{detour.path}." for detour in around)
    for node in list(graph.graph.nodes):
        if node.op == "get_attr" and str(node.target).startswith(gone) and not node.users:
            graph.graph.erase_node(node)
    names = [n for n, _ in (*graph.named_parameters(), *graph.named_buffers())]
    for name in names:
        if name.startswith(gone):
            path, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(path), leaf)


class _Keeping(fx.Interpreter):
    """Runs a graph and keeps what some of its nodes compute."""

    kept: dict[str, Any]
    numbers: set[str]  # nodes that compute sizes

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        """Run one node."""
        out = super().run_node(n)
        if isinstance(out, int):
            self.numbers.add(n.name)
        if n.name in self.kept or isinstance(out, int):
            self.kept[n.name] = out.clone() if isinstance(out, Tensor) else out
        return out


def _is_inside(node: fx.Node, path: str) -> bool:
    if node.op != "call_function":
        return False
    stack = (where for where, _ in (node.meta.get("nn_module_stack") or {}).values())
    return any(where == path or where.startswith(f"{path}.") for where in stack)


def _without_shared(inside: Sequence[fx.Node], numbers: set[str]) -> list[fx.Node]:
    """Without the sizes that are computed in a block but used after it as well."""
    own = list(inside)
    while shared := {n for n in own if n.name in numbers and not set(n.users) <= set(own)}:
        own = [n for n in own if n not in shared]
    return own


def _borders(inside: Sequence[fx.Node]) -> list[fx.Node]:
    """What goes into a block, each once."""
    ins = [a for n in inside for a in n.all_input_nodes if a not in set(inside)]
    return [n for n in dict.fromkeys(ins) if n.op != "get_attr"]


def _detour(
    graph: fx.GraphModule,
    path: str,
    inside: Sequence[fx.Node],
    values: Mapping[str, Any],
) -> Detour:
    outs = [n for n in inside if any(user not in set(inside) for user in n.users)]
    if len(outs) != 1:
        raise CannotBuildError(f"block {path} hands on {len(outs)} values in its graph")
    generator = torch.Generator().manual_seed(0)
    given = {n: _told_apart(values[n.name], generator) for n in _borders(inside)}
    run = fx.Interpreter(graph)
    run.env = {n: x.clone() if isinstance(x, Tensor) else x for n, x in given.items()}
    for n in (a for node in inside for a in node.all_input_nodes if a.op == "get_attr"):
        held = run.fetch_attr(str(n.target)).detach()
        run.env[n] = torch.zeros_like(held) if _is_parameter(graph, str(n.target)) else held.clone()
    for n in inside:
        run.env[n] = run.run_node(n)
    out = run.env[outs[0]]
    same = [n for n, x in given.items() if _equal(x, out)]
    if not same:
        raise CannotBuildError(f"block {path} is not the identity at zero in its graph")
    return Detour(path, tuple(n.name for n in inside), outs[0].name, same[0].name)


def _told_apart(x: Any, generator: torch.Generator) -> Any:  # noqa: ANN401
    """Another value of the same signs, so that no two inputs are equal by chance."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    return x * (0.5 + torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device))


def _is_parameter(graph: fx.GraphModule, name: str) -> bool:
    path, _, leaf = name.rpartition(".")
    return leaf in graph.get_submodule(path)._parameters


def _equal(x: object, y: object) -> bool:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    return x.shape == y.shape and torch.equal(x, y)
