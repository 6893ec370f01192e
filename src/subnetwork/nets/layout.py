"""Which dims of which parameters are cut together: the layout of a model, as plain data."""

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from subnetwork.nets.state import Tensors
from subnetwork.nets.terms import Dim, Term, axes_of, extent, from_data, to_data

Dims: TypeAlias = Mapping[str, tuple[Dim, ...]]


@dataclass(frozen=True)
class Layout:
    """Named axes of units, and the term of every dim of every parameter.

    A hidden neuron's incoming row, bias, normalisation parameters and outgoing column carry the
    same axis name, and so travel together. A dim that is never cut carries None; one that holds
    several entries a unit carries a term (`subnetwork.nets.terms`).

    >>> layout = Layout({"hidden": 8}, {"up": ("hidden", None), "down": (None, "hidden")})
    >>> from torch import zeros
    >>> layout.sizes_of({"up": zeros(2, 5), "down": zeros(3, 2)})
    {'hidden': 2}
    """

    sizes: Mapping[str, int]  # units on each axis; the order numbers the axes for the deals
    dims: Dims
    buffers: Dims = field(default_factory=dict)
    """Buffers that are cut; any other stays whole. They are cut with the model, never merged."""

    def __post_init__(self) -> None:
        for name, dims in {**self.dims, **self.buffers}.items():
            unknown = frozenset().union(*map(axes_of, dims)) - set(self.sizes)
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
        for name, dims in self.dims.items():
            shape = tuple(params[name].shape)
            sizes = tuple(None if dim is None else extent(dim, self.sizes) for dim in dims)
            fits = len(shape) == len(sizes) and all(
                size in (None, extent) for size, extent in zip(sizes, shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"Parameter {name} has shape {shape}, but the layout cuts it as {dims} with "
                    f"sizes {sizes}. Correct the layout's axes or their sizes."
                )

    def sizes_of(self, params: Tensors) -> dict[str, int]:
        """Units that these tensors hold on each axis: of the whole model or of a submodel.

        Raises:
            ValueError: where two axes occur only multiplied with each other.
        """
        found: dict[str, int] = {}
        open_dims = [
            (dim, int(size))
            for name, dims in self.dims.items()
            for dim, size in zip(dims, params[name].shape, strict=True)
            if dim is not None
        ]
        progress = True
        while progress and len(found) < len(self.sizes):
            progress = False
            for dim, size in open_dims:
                unknown = axes_of(dim) - set(found)
                if len(unknown) == 1:
                    (axis,) = unknown
                    found[axis] = self._solve(dim, axis, size, found)
                    progress = True
        lost = [axis for axis in self.sizes if axis not in found]
        if lost:
            raise ValueError(
                f"The sizes of the axes {lost} do not follow from the shapes of the parameters: "
                "they occur only multiplied with each other. Cut only one of them."
            )
        return {axis: found[axis] for axis in self.sizes}

    def _solve(self, dim: Term, axis: str, size: int, known: Mapping[str, int]) -> int:
        """The number of units at which the dim has that size; it grows with the number."""
        return bisect_left(
            range(self.sizes[axis] + 1), size, key=lambda n: extent(dim, {**known, axis: n})
        )

    def to_json(self) -> str:
        """The layout as text that can be edited by hand."""

        def data(tensors: Dims) -> dict[str, list[object]]:
            return {name: [to_data(dim) for dim in dims] for name, dims in tensors.items()}

        return json.dumps(
            {"sizes": self.sizes, "dims": data(self.dims), "buffers": data(self.buffers)}, indent=1
        )

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """The layout that `to_json` or a person wrote; raises ValueError where it contradicts."""
        data = json.loads(text)

        def read(tensors: Mapping[str, list[object]]) -> Dims:
            return {name: tuple(map(from_data, dims)) for name, dims in tensors.items()}

        return cls(data["sizes"], read(data["dims"]), read(data.get("buffers", {})))
