"""What batches take at the widest place of a network, told from shapes: nothing is computed."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from subnetwork.nets.evaluate import called


def side_by_side(model: nn.Module, batches: Iterable[object]) -> int:
    """Bytes that batches side by side take more than one of them, at an operation of the model.

    Of each batch the largest tensor that an operation makes counts.

    Args:
        model: on the meta device, parameters and buffers; left in evaluation mode.
        batches: of inputs; of each the shapes count. A single one takes nothing more, and is not
            looked at.
    """
    model.eval()
    bare = [tree_map(lambda x: x.to("meta") if _is_tensor(x) else x, each) for each in batches]
    if len(bare) < 2:
        return 0
    of_shape = {str(batch): batch for batch in bare}  # a tensor without values is told by its shape
    widest = {shape: _widest(model, batch) for shape, batch in of_shape.items()}
    taken = [widest[str(batch)] for batch in bare]
    return sum(taken) - max(taken)


def _widest(model: nn.Module, batch: object) -> int:
    seen = _Largest()  # type: ignore[no-untyped-call]
    with torch.no_grad(), seen:
        called(model, batch)
    return seen.n_bytes


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that any operation makes room for while it is on."""

    n_bytes = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """What the operation returns."""
        del types
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if _is_tensor(x)}
        new = [x for x in tree_leaves(out) if _is_tensor(x)]
        made = [x.nbytes for x in new if x.untyped_storage()._cdata not in given]  # no views
        self.n_bytes = max(self.n_bytes, *made, 0)
        return out


def _is_tensor(x: object) -> TypeGuard[Tensor]:
    return isinstance(x, Tensor)
