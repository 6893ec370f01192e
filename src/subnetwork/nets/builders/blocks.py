"""The tensors of a subnetwork: blocks of the model's parameters and buffers."""

from collections.abc import Mapping

from torch import Tensor, nn

from subnetwork.nets.layout import Layout
from subnetwork.nets.partition import block_of


def blocks(model: nn.Module, layout: Layout, units: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Id of each parameter and buffer of the model -> a copy of the entries of these units.

    A parameter gives a parameter, which requires a gradient where the model's does.
    """
    found: dict[int, Tensor] = {}
    for name, p in model.named_parameters():
        block = block_of(layout, layout.dims[name], p, units)
        found[id(p)] = nn.Parameter(p.detach()[block].clone(), p.requires_grad)
    for name, b in model.named_buffers():
        dims = layout.buffers.get(name, ())
        found[id(b)] = b.detach()[block_of(layout, dims, b, units)].clone() if dims else b.clone()
    return found
