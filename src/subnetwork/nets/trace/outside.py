"""What a copy of a model has not: tensors behind closures; tensors in outputs of any kind."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MemberDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subnetwork.nets.inward import Memory, memory_of

_OPAQUE = (Tensor, nn.Module, type, ModuleType, str, int, float)


class ReachesOutsideError(ValueError):
    """A copy of a model reads a parameter, or writes a buffer, of the model it is a copy of."""

    def __init__(self, does: str, name: str, parts_do: str) -> None:
        super().__init__(
            f"forward {does} {name} through a closure (a hook, or a forward that was replaced), "
            f"which a copy of the model shares, so that all parts would {parts_do} the model's "
            "own. Take it from the module that the hook is given, or make it part of a "
            "submodule's own forward."
        )


class Reached(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses to read the parameters of a model, or write its buffers, while a copy of it runs.

    A hook or a forward of one's own that holds a module, or a tensor of it, in a closure goes on
    holding it in every copy: parts would all train the model's own. Reading a buffer so is fine: a
    constant may well be shared.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._own = dict(model.named_buffers())
        self._parameters = _memories(model.named_parameters())
        self._buffers = _memories(self._own.items())

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run the operation, unless it touches what only the model may."""
        for x in _tensors((args, kwargs)):
            if (name := self._parameters.get(memory_of(x))) is not None:
                raise ReachesOutsideError("reaches the parameter", name, "train")
        for x in _tensors(_written(func, args, kwargs or {})):
            if (name := self._buffers.get(memory_of(x))) is not None:
                raise ReachesOutsideError("writes the buffer", name, "write")
        return func(*args, **(kwargs or {}))

    def check_buffers(self) -> None:
        """Raise ReachesOutsideError where the model has other buffers now; it gets back its own."""
        found = dict(self._model.named_buffers())
        for name, own in self._own.items():
            if found.get(name) is not own:
                path, _, last = name.rpartition(".")
                self._model.get_submodule(path)._buffers[last] = own
                raise ReachesOutsideError("replaces the buffer", name, "write")


def _memories(named: Iterable[tuple[str, Tensor]]) -> dict[Memory | None, str]:
    return {
        memory_of(x): name
        for name, x in named
        if x.layout == torch.strided and x.numel() and not x.is_meta
    }


def _tensors(tree: object) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _written(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that the operation writes; the schema of batch norm does not say so of it."""
    known = func._schema.arguments
    given = {**dict(zip((a.name for a in known), args, strict=False)), **kwargs}
    names = [a.name for a in known if a.alias_info is not None and a.alias_info.is_write]
    return [given.get(name) for name in (*names, "running_mean", "running_var")]


def leaves(out: object) -> Iterator[tuple[Tensor, str]]:
    """The tensors of an output, also those in attributes of objects, with the class of the object.

    Not those of the caches of transformers: a part's own hold its own heads, and only the part
    itself is ever given them again.
    """
    seen: dict[int, object] = {}  # holds the objects, so that no id is given out twice
    waiting: deque[tuple[object, str]] = deque([(out, "")])
    while waiting:
        tree, name = waiting.popleft()
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                yield leaf, name
            elif id(leaf) not in seen and not isinstance(leaf, _OPAQUE) and not _is_cache(leaf):
                seen[id(leaf)] = leaf
                waiting.append((_held(leaf), type(leaf).__name__))


def _held(x: object) -> list[object]:
    """What an object holds: its items, its attributes, its slots."""
    held: list[object] = list(x.values() if isinstance(x, dict) else ())
    held += list(x) if isinstance(x, list | tuple | set | frozenset) else []
    held += getattr(x, "__dict__", {}).values()
    for kind in type(x).__mro__:
        for slot in vars(kind).values() if "__slots__" in vars(kind) else ():
            if isinstance(slot, MemberDescriptorType):
                held.append(getattr(x, slot.__name__, None))
    return held


def _is_cache(x: object) -> bool:
    kinds = type(x).__mro__
    return any(
        c.__module__.startswith("transformers.") and c.__name__.endswith("Cache") for c in kinds
    )
