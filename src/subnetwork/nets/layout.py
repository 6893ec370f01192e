"""Which dims of which parameters are cut together: the layout of a model, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass

from subnetwork.nets.state import Tensors


@dataclass(frozen=True)
class Layout:
    """Named axes of units, and the axis of every dim of every parameter.

    A hidden neuron's incoming row, bias, normalisation parameters and outgoing column carry the
    same axis name, and so travel together. A dim that is never cut carries None.

    >>> layout = Layout({"hidden": 8}, {"up": ("hidden", None), "down": (None, "hidden")})
    >>> from torch import zeros
    >>> layout.sizes_of({"up": zeros(2, 5), "down": zeros(3, 2)})
    {'hidden': 2}
    """

    sizes: Mapping[str, int]  # units on each axis; the order numbers the axes for the deals
    dims: Mapping[str, tuple[str | None, ...]]

    def __post_init__(self) -> None:
        for name, axes in self.dims.items():
            unknown = {axis for axis in axes if axis is not None} - set(self.sizes)
            if unknown:
                raise ValueError(
                    f"Parameter {name} is cut along {sorted(unknown)}, but the layout has the axes "
                    f"{sorted(self.sizes)}. Add a size for it, or write None for a whole dim."
                )

    def check(self, params: Tensors) -> None:
        """Raise ValueError unless the parameters have these names and sizes."""
        if set(params) != set(self.dims):
            odd = sorted(set(params) ^ set(self.dims))
            raise ValueError(
                f"The layout and the model disagree on the parameters {odd}. Give the layout one "
                "entry for every named parameter; (None, ...) keeps a parameter whole."
            )
        for name, axes in self.dims.items():
            shape = tuple(params[name].shape)
            sizes = tuple(self.sizes[axis] if axis else None for axis in axes)
            fits = len(shape) == len(sizes) and all(
                size in (None, extent) for size, extent in zip(sizes, shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"Parameter {name} has shape {shape}, but the layout cuts it as {axes} with "
                    f"sizes {sizes}. Correct the layout's axes or their sizes."
                )

    def sizes_of(self, params: Tensors) -> dict[str, int]:
        """Units that these tensors hold on each axis: of the whole model or of a submodel."""
        return {
            axis: int(params[name].shape[dim])
            for name, axes in self.dims.items()
            for dim, axis in enumerate(axes)
            if axis is not None
        }
