"""Modules that are built once per shape and lent out round after round."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from torch import nn

from subnetwork.nets.architecture import Architecture, built
from subnetwork.nets.state import Submodel

Wrap: TypeAlias = Callable[[nn.Module], nn.Module]
"""What is done to a module once, after it is built: `torch.compile`, for instance."""

Lent: TypeAlias = tuple[nn.Module, dict[str, nn.Parameter]]


SHAPES = 16  # of which modules are kept: deals of random sizes make new ones in every round


class Modules:
    """The modules of one architecture, one for each of the shapes that came by last.

    A lent module has the submodel's own tensors as its parameters, so nothing is copied, and the
    buffers that it was built with. Equal shapes get the same module: `torch.compile` makes one
    graph of it. A module that is lent twice at a time is built twice.
    """

    def __init__(self, wrap: Wrap | None = None) -> None:
        self.n_built = 0
        self._wrap = wrap
        self._free: OrderedDict[object, list[_Standing]] = OrderedDict()

    @contextmanager
    def lent(self, architecture: Architecture, submodel: Submodel) -> Iterator[Lent]:
        """A module in training mode and its parameters, which are the submodel's tensors.

        Afterwards it holds neither tensors nor gradients.

        Raises:
            ValueError: the submodel has no unit on some axis, so there is no network to train.
        """
        shapes = tuple((n, tuple(p.shape), p.dtype, p.device) for n, p in submodel.params.items())
        free = self._free.setdefault(shapes, [])
        self._free.move_to_end(shapes)
        while len(self._free) > SHAPES:
            self._free.popitem(last=False)
        standing = free.pop() if free else self._new(architecture, submodel)
        for name, p in standing.params.items():
            p.data = submodel.params[name].detach()
        try:
            yield standing.module, standing.params
        finally:
            standing.clear()
            free.append(standing)

    def _new(self, architecture: Architecture, submodel: Submodel) -> "_Standing":
        self.n_built += 1
        module = built(architecture, submodel).to(next(iter(submodel.params.values())).device)
        standing = _Standing(module.train())
        standing.module = self._wrap(module) if self._wrap else module
        return standing


class _Standing:
    """A module with what it takes to make it as new."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.params = dict(module.named_parameters())
        self._buffers = [
            (part._buffers, name, buffer, buffer.clone())
            for part in module.modules()
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]

    def clear(self) -> None:
        """Let go of tensors and gradients; put the buffers back (batch statistics, say)."""
        for p in self.params.values():
            p.grad = None
            p.data = p.data.new_empty(0)
        for buffers, name, buffer, value in self._buffers:
            buffers[name] = buffer
            buffer.detach().copy_(value)
