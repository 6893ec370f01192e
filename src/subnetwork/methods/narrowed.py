"""A network of a worker's size: the same one with a share of the units, as a whole of its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from subnetwork.nets import Architecture, Layout


@dataclass(frozen=True)
class Narrowed:
    """An architecture of which only the first units of every axis are built."""

    wide: Architecture
    layout: Layout

    def build(self, units: Mapping[str, Tensor], /) -> nn.Module:
        """A module with these units of the narrow network."""
        return self.wide.build(units)


def narrowed(wide: Architecture, share: int) -> Narrowed:
    """The network with one unit in `share`, rounded up: the size of the largest of n workers.

    Raises:
        ValueError: an axis has fewer units than that.
    """
    few = [axis for axis, n in wide.layout.sizes.items() if n < share]
    if few:
        raise ValueError(
            f"Axis {few[0]} has {wide.layout.sizes[few[0]]} units, of which one in {share} is less "
            f"than one. Use --share {wide.layout.sizes[few[0]]} or less."
        )
    sizes = {axis: math.ceil(n / share) for axis, n in wide.layout.sizes.items()}
    unit_of = {name: at for name, at in wide.layout.unit_of.items() if at[1] < sizes[at[0]]}
    gone = set(wide.layout.unit_of) - set(unit_of)
    dims = {name: dim for name, dim in wide.layout.dims.items() if name not in gone}
    return Narrowed(wide, replace(wide.layout, sizes=sizes, dims=dims, unit_of=unit_of))
