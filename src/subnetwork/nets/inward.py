"""Which tensors of a forward pass are the model's own inputs, whose signs the user chooses."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Memory: TypeAlias = tuple[str, int]

_LINEAR = (
    "add", "sub", "rsub", "mul", "div", "neg", "clone", "_to_copy", "copy", "cat", "stack",
    "constant_pad_nd", "index", "index_select", "gather", "repeat", "mean", "sum", "avg_pool2d",
    "_adaptive_avg_pool2d", "max_pool2d_with_indices",
)  # fmt: skip


class Inward(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the inputs through views, sums and multiples; an activation ends the way."""

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memories = {memory_of(x) for x in inputs} - {None}

    def holds(self, x: object) -> bool:
        """Whether a tensor is an input, or came from one with its signs."""
        return isinstance(x, Tensor) and memory_of(x) in self._memories

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run the operation; note where its results lie, or that another tensor lies there now."""
        given = {memory_of(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        linear = func._schema.name.split("::")[1].rstrip("_") in _LINEAR
        found = {memory_of(x) for x in tree_leaves(out) if isinstance(x, Tensor)} - {None}
        if linear and given & self._memories:
            self._memories |= found
        else:
            self._memories -= found if func._schema.is_mutable else found - given
        return out


def memory_of(x: Tensor) -> Memory | None:
    """Where a tensor lies; None where that is in no one place."""
    try:
        return str(x.device), x.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a sparse tensor
        return None
