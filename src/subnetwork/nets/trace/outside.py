"""What a copy of a model has not: parameters behind closures; tensors in outputs of any kind."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subnetwork.nets.inward import memory_of


class ReachesOutsideError(ValueError):
    """A copy of a model reads a parameter of the model that it is a copy of."""


class Reached(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations on the parameters of a model while a copy of it runs.

    A hook or a forward of one's own that holds a module, or a parameter, in a closure goes on
    holding it in every copy: parts would all train the model's own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {
            memory_of(p): name
            for name, p in model.named_parameters()
            if p.layout == torch.strided and p.numel() and not p.is_meta
        }

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run the operation, unless it reads one of the parameters."""
        for x in tree_leaves((args, kwargs or {})):
            name = self._names.get(memory_of(x)) if isinstance(x, Tensor) else None
            if name is not None:
                raise ReachesOutsideError(
                    f"forward reaches the parameter {name} through a closure (a hook, or a forward "
                    "that was replaced), which a copy of the model shares, so that all parts would "
                    "train the model's own. Take it from the module that the hook is given, or "
                    "make it part of a submodule's own forward."
                )
        return func(*args, **(kwargs or {}))


def leaves(out: object) -> Iterator[object]:
    """What an output is made of, also inside dataclasses and distributions."""
    for leaf in tree_leaves(out):
        if is_dataclass(leaf) and not isinstance(leaf, type):
            for field in fields(leaf):
                yield from leaves(getattr(leaf, field.name, None))
        elif isinstance(leaf, Distribution):
            yield from leaves([x for x in vars(leaf).values() if isinstance(x, Tensor)])
        else:
            yield leaf
