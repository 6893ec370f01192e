"""Copies of a model, also of one whose forward keeps a tensor that it computed."""

import copy
from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

HELD = "held_units"
"""Attribute of a cut module: the units that it holds on each axis."""
OF = "held_of"
"""Attribute of a cut module: how many units each axis of the whole has."""

_TENSORS = ("_parameters", "_buffers", "_modules", "_flat_weights")


def uncompiled(model: nn.Module) -> nn.Module:
    """The module inside what torch.compile made of it; any other module as it is."""
    inside = getattr(model, "_orig_mod", model)
    assert isinstance(inside, nn.Module)
    return inside


class CannotCopyError(ValueError):
    """Something that a model holds cannot be copied."""


def copied(model: nn.Module, memo: Mapping[int, object] | None = None) -> nn.Module:
    """A deep copy; tensors that forward left on the model become constants of the copy.

    Args:
        model: any module, also right after a forward pass.
        memo: id of an object -> what stands for it in the copy.

    Raises:
        CannotCopyError: where an attribute cannot be copied.
    """
    memo = {**kept_tensors(model), **(memo or {})}
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception as problem:  # whatever the user's classes raise
        name = _at_fault(model, memo)
        if name is None:
            raise
        why = str(problem).split("\n")[0].rstrip(".")
        raise CannotCopyError(
            f"The attribute {name} of the model cannot be copied, as parts are: {why}. Hold it "
            "outside the model, or in a class with a __deepcopy__."
        ) from problem


def _at_fault(model: nn.Module, memo: Mapping[int, object]) -> str | None:
    """The attribute that cannot be copied even where the modules need not be."""
    known = {**memo, **{id(module): module for module in model.modules()}}
    for path, module in model.named_modules():
        for name, held in vars(module).items():
            try:
                copy.deepcopy(None if name in _TENSORS else held, dict(known))
            except Exception:  # as above
                return f"{path}.{name}".lstrip(".")
    return None


def kept_tensors(model: nn.Module) -> dict[int, object]:
    """Id -> detached copy of the attributes and buffers that belong to a backward pass.

    `copy.deepcopy` refuses such tensors; given this as its memo, it takes the copies.
    """
    held = (*(x for _, x in plain_tensors(model)), *model.buffers())
    return {id(x): x.detach().clone() for x in held if x.grad_fn is not None}


def plain_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that are attributes but neither parameters nor buffers, with their names."""
    for path, module in model.named_modules():
        for name, held in vars(module).items():
            if name not in _TENSORS:
                for value in tree_leaves(held):
                    if isinstance(value, Tensor):
                        yield f"{path}.{name}".lstrip("."), value
