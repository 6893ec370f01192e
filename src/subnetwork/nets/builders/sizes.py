"""What sizes an exported graph computes with: those that it cannot take are refused, in one line.

torch.export writes a size that it cannot leave open into the graph, a size of 1 above all, and
takes sizes that met in the model for one. A graph without its guards computes on with others, and
mixes rows.
"""

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, fx

Sizes: TypeAlias = tuple[int | str, ...]  # of a tensor; equal words stand for equal sizes


def sizes_of_inputs(graph: fx.GraphModule) -> dict[str, Sizes]:
    """The sizes of the tensors that go into a graph as exported, by the names of its nodes."""
    return {
        node.name: tuple(n if type(n) is int else str(n) for n in value.shape)
        for node in graph.graph.nodes
        if node.op == "placeholder" and isinstance(value := node.meta.get("val"), Tensor)
    }


def insert_check(graph: fx.GraphModule) -> None:
    """Have the graph check the sizes of its inputs before it computes anything."""
    sizes = sizes_of_inputs(graph)
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if sizes:
        with graph.graph.inserting_after(inputs[-1]):
            given = [node for node in inputs if node.name in sizes]
            graph.graph.call_function(check_sizes, (given, [sizes[node.name] for node in given]))
        graph.recompile()


def check_sizes(given: Sequence[object], sizes: Sequence[Sizes]) -> None:
    """Compare the inputs of a graph with the sizes that it was exported for.

    Raises:
        ValueError: where it would compute something else than the model.
    """
    meant: dict[str, int] = {}
    for i, (x, wanted) in enumerate(zip(given, sizes, strict=True)):
        if not isinstance(x, Tensor) or x.dim() != len(wanted):
            continue  # the operations themselves refuse it
        for d, size in enumerate(wanted):
            expected = meant.setdefault(size, x.shape[d]) if isinstance(size, str) else size
            if x.shape[d] != expected:
                raise ValueError(
                    f"A part that was built by export takes input {i} with size {expected} at dim "
                    f"{d}, not {x.shape[d]}: its graph was made with the example batch, where that "
                    "could not be left open. Decompose with a batch of two rows or more."
                )
