"""The tensors of a subnetwork: blocks of the model's parameters and buffers."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from subnetwork.nets.layout import Layout
from subnetwork.nets.partition import block_of


def blocks(
    model: nn.Module, layout: Layout, units: Mapping[str, Tensor]
) -> dict[int, Tensor | None]:
    """Id of each parameter and buffer of the model -> a copy of the entries of these units.

    A parameter gives a parameter, which requires a gradient where the model's does and has its
    attributes, but for tensors, which would be of the whole's units; hooks are not copied
    (`hooked`). What belongs to a block that is left out gives None.
    """
    found: dict[int, Tensor | None] = {id(tensor): None for tensor in _tensors(model)}
    for name, p in model.named_parameters():
        if layout.holds(name, units):
            block = block_of(layout, layout.dims[name], p, units)
            own = nn.Parameter(p.detach()[block].clone(), p.requires_grad)
            vars(own).update((k, v) for k, v in vars(p).items() if not _has_tensor(v))
            found[id(p)] = own
    buffers = dict(model.named_buffers())
    for name, values in buffers_of(model, layout, units).items():
        found[id(buffers[name])] = values
    return found


def buffers_of(model: nn.Module, layout: Layout, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the entries of the model's buffers that belong to these units, by name."""
    found = {}
    gone = tuple(f"{path}." for path in layout.left_out(units))
    for name, b in model.named_buffers():
        if name.startswith(gone):
            continue
        dims = layout.buffers.get(name, ())
        kept = b.detach()[block_of(layout, dims, b, units)] if dims else b.detach()
        found[name] = kept.clone()
    return found


def hooked(model: nn.Module) -> list[str]:
    """The parameters on whose gradients hooks wait."""
    kinds = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return [n for n, p in model.named_parameters() if any(getattr(p, kind) for kind in kinds)]


def _has_tensor(value: object) -> bool:
    return any(isinstance(x, Tensor) for x in tree_leaves(value))


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
