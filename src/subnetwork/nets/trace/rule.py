"""A rule: what one operation, or one layer, says about the dims of its tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from subnetwork.nets.trace.terms import Dims


@dataclass(frozen=True)
class Call:
    """One call of an operation, seen while the model runs.

    Attributes:
        name: of the operation, without namespace, overload and trailing underscore.
        arguments: by the names of its schema, defaults filled in; a layer's are its positional
            inputs under "0", "1", ... and its keyword inputs under their names.
        shapes: of the tensors that come out.
        dims: tensor -> the terms of its dims.
        is_weight: whether a tensor was made from parameters and buffers alone.
        module: the layer, where the rule is for a layer.
    """

    name: str
    arguments: Mapping[str, Any]
    shapes: Sequence[tuple[int, ...]]
    dims: Callable[[Tensor], Dims]
    is_weight: Callable[[Tensor], bool]
    module: nn.Module | None = None

    def tensor(self, *names: str) -> Tensor:
        """The first of these arguments that the operation has."""
        found: Tensor = next(self.arguments[name] for name in names if name in self.arguments)
        return found

    def of(self, *names: str) -> Dims:
        """The dims of the first of these arguments that the operation has, as a new list."""
        return list(self.dims(self.tensor(*names)))

    def number(self, name: str, rank: int) -> int:
        """An argument that counts dims, from 0 even where it was given from the end."""
        return int(self.arguments[name]) % rank if rank else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first tensor that comes out."""
        return self.shapes[0]


Reading: TypeAlias = Callable[[Call], Sequence[Dims]]
"""Unifies, freezes and flags terms of the inputs; returns the dims of all that comes out."""


@dataclass(frozen=True)
class Rule:
    """How to read operations of these names, or layers of these classes (by their class name)."""

    names: tuple[str, ...]
    read: Reading


def rule(*names: str) -> Callable[[Reading], Rule]:
    """Make a rule of a reading: ``rule("relu6", "hardswish")(pointwise)`` or as a decorator.

    Hand it to ``decompose(model, batch, rules=[...])``. The name is that of an operation as an
    error message gives it (``my_op`` of ``mylib::my_op``), or of a layer's class (``MyLayer``),
    whose inside is then not looked at. The dims that a reading returns must have the sizes of the
    tensors that come out.
    """

    def made(read: Reading) -> Rule:
        return Rule(names, read)

    return made
