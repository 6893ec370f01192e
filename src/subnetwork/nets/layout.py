"""Which dims of which parameters are cut together: the layout of a model, as plain data."""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from subnetwork.nets.state import Tensors
from subnetwork.nets.terms import Dim, Term, axes_of, extent, from_data, to_data

Dims: TypeAlias = Mapping[str, tuple[Dim, ...]]

_SEE = "See what plan.layout.to_json() writes."


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
    unit_of: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Depth: the parameter belongs as a whole to this unit of that axis (a block of a network).
    Whoever does not hold the unit has no such parameter; its dims may be cut as well."""
    unit_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Depth: the path of the module of each unit of an axis, for those who build without it."""

    def __post_init__(self) -> None:
        for name, dims in {**self.dims, **self.buffers}.items():
            unknown = frozenset().union(*map(axes_of, dims)) - set(self.sizes)
            if unknown:
                raise ValueError(
                    f"Parameter {name} is cut along {sorted(unknown)}, but the layout has the axes "
                    f"{sorted(self.sizes)}. Add a size for it, or write None for a whole dim."
                )
        for name, (axis, unit) in self.unit_of.items():
            if name not in self.dims or not 0 <= unit < self.sizes.get(axis, 0):
                raise ValueError(
                    f"Parameter {name} is said to belong to unit {unit} of axis {axis}, but the "
                    f"layout has the axes {dict(self.sizes)}. Name one of its parameters and units."
                )

        for axis, names in self.unit_names.items():
            if len(names) != self.sizes.get(axis):
                raise ValueError(
                    f"The layout has {self.sizes.get(axis, 0)} units of axis {axis}, but names "
                    f"{len(names)} of them: {list(names)}. Name every one."
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

        An axis that lies in absent blocks alone has none.

        Raises:
            ValueError: where two axes occur only multiplied with each other.
        """
        found = self._blocks_of(params)
        open_dims = [
            (dim, int(size))
            for name, dims in self.dims.items()
            if name in params
            for dim, size in zip(dims, params[name].shape, strict=True)
            if dim is not None
        ]
        present = frozenset().union(*(axes_of(dim) for dim, _ in open_dims))
        found |= {axis: 0 for axis in self.sizes if axis not in present and axis not in found}
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

    def units_of(self, params: Tensors) -> dict[str, Tensor]:
        """The units that these tensors hold on each axis, as far as names and shapes tell.

        Blocks are told apart; of an axis of width only the number shows: its first units stand for
        them.
        """
        units = {axis: torch.arange(n) for axis, n in self.sizes_of(params).items()}
        for axis in self.depth:
            units[axis] = torch.as_tensor(self._present(params, axis))
        return units

    @property
    def all_units(self) -> dict[str, Tensor]:
        """The units of the whole model."""
        return {axis: torch.arange(n) for axis, n in self.sizes.items()}

    def holds(self, name: str, units: Mapping[str, Tensor]) -> bool:
        """Whether who holds these units has the parameter at all: in no block, or in one of his."""
        axis, unit = self.unit_of.get(name, (None, 0))
        return axis is None or bool((units[axis] == unit).any())

    def left_out(self, units: Mapping[str, Tensor]) -> tuple[str, ...]:
        """The paths of the blocks that are not among these units, in the order of the model."""
        held = {axis: set(units[axis].tolist()) for axis in self.unit_names}
        return tuple(
            name
            for axis, names in self.unit_names.items()
            for unit, name in enumerate(names)
            if unit not in held[axis]
        )

    def axes_of(self, name: str) -> frozenset[str]:
        """The axes of width that a parameter is cut along."""
        return frozenset().union(*map(axes_of, self.dims[name]))

    @property
    def depth(self) -> tuple[str, ...]:
        """The axes whose units are whole blocks of parameters."""
        return tuple(dict.fromkeys(axis for axis, _ in self.unit_of.values()))

    def _blocks_of(self, params: Tensors) -> dict[str, int]:
        return {axis: len(self._present(params, axis)) for axis in self.depth}

    def _present(self, params: Tensors, axis: str) -> list[int]:
        return sorted({u for name, (a, u) in self.unit_of.items() if a == axis and name in params})

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
            {
                "sizes": self.sizes,
                "dims": data(self.dims),
                "buffers": data(self.buffers),
                "unit_of": self.unit_of,
                "unit_names": self.unit_names,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """The layout that `to_json` or a person wrote.

        Raises:
            ValueError: where a field is not what `to_json` writes there, or fields contradict.
        """
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"The layout is {_short(data)}, which is no object. {_SEE}")
        lacking = [key for key in ("sizes", "dims") if key not in data]
        if lacking:
            raise ValueError(
                f"The layout lacks {' and '.join(lacking)}. It says the size of each axis and the "
                f"dims of each parameter. {_SEE}"
            )
        for name in _FIELDS:
            _check_field(name, data.get(name, {}))

        def read(key: str) -> Dims:
            return {name: _dims(key, name, dims) for name, dims in data.get(key, {}).items()}

        unit_of = {name: (axis, unit) for name, (axis, unit) in data.get("unit_of", {}).items()}
        names = {axis: tuple(paths) for axis, paths in data.get("unit_names", {}).items()}
        return cls(data["sizes"], read("dims"), read("buffers"), unit_of, names)


def _check_field(key: str, held: object) -> None:
    what, fits = _FIELDS[key]
    if not isinstance(held, dict):
        raise ValueError(
            f"{key} of the layout is {_short(held)}, but has to hold {what} for each name. {_SEE}"
        )
    for name, value in held.items():
        if not fits(value):
            raise ValueError(
                f"{key} of the layout has {_short(value)} for {name}, which is not {what}. {_SEE}"
            )


def _dims(key: str, name: str, dims: list[object]) -> tuple[Dim, ...]:
    try:
        return tuple(map(from_data, dims))
    except ValueError as problem:
        raise ValueError(f"{key} of {name}: {problem}") from problem


def _is_number(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 0


def _short(x: object) -> str:
    return json.dumps(x)[:60]


def _is_path(x: object) -> bool:
    return isinstance(x, str)


_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "sizes": ("a number of units", _is_number),
    "dims": ("a list of dims", lambda dims: isinstance(dims, list)),
    "buffers": ("a list of dims", lambda dims: isinstance(dims, list)),
    "unit_of": (
        'a pair ["axis", unit]',
        lambda x: isinstance(x, list) and len(x) == 2 and _is_path(x[0]) and _is_number(x[1]),
    ),
    "unit_names": ("a list of paths", lambda x: isinstance(x, list) and all(map(_is_path, x))),
}
