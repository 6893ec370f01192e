"""The scale s of an axis: a worker trains s w in the place of w where the axis is consumed.

With fewer units the sums over them are smaller. Holding s times the consuming weights restores
them without a change to `forward` (the idea of inverted dropout; ResIST scales activations). The
step sizes follow (`Optimizer.options`), so that training the scaled parameters is the same as
training the plain ones in a network whose activations are multiplied by s. The worker scales when
a round begins and takes the scale away when it ends: what is stored, sent and merged is w.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from subnetwork.nets.layout import Layout
from subnetwork.nets.optimizers import FIRST, MOMENTUM, SECOND
from subnetwork.nets.state import Submodel
from subnetwork.nets.terms import Cat, Dim, Prod, Term, axes_of

Factor: TypeAlias = float | Literal["inverted"]
"""s itself, or the number of units over the number that the worker holds."""

_POWERS = {MOMENTUM: -1, FIRST: -1, SECOND: -2}
"""A moment of s w is that of w times s to this power; a count is not scaled."""


@dataclass(frozen=True)
class Scale:
    """Factors by axis. An axis that is not named has the factor 1.

    Attributes:
        factors: axis -> s.
        consuming: parameter -> the dim along which it sums over the axis. Only for layers other
            than torch's linear, convolution, attention and recurrent ones, which are known.
    """

    factors: Mapping[str, Factor]
    consuming: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for axis, s in self.factors.items():
            if s == "inverted" or (isinstance(s, int | float) and 0 < s < float("inf")):
                continue
            raise ValueError(
                f"The scale of axis {axis} is a positive number or 'inverted', not {s!r}."
            )

    def of(self, layout: Layout, module: nn.Module, submodel: Submodel) -> dict[str, float]:
        """Parameter -> factor, for the parameters that have one other than 1.

        Raises:
            ValueError: an axis is unknown or nobody consumes it, a layer is not known, or a
                parameter consumes axes of different scale at one dim.
        """
        held = layout.sizes_of(submodel.params)
        factors = {axis: self._factor(axis, layout, held) for axis in self.factors}
        scales: dict[str, float] = {}
        met: set[str] = set()
        for name, dim in self._dims(layout, module):
            term = layout.dims[name][dim]
            met |= axes_of(term) & set(factors)
            s = _scale(name, term, factors)
            if s != 1:
                scales[name] = s
        for axis in set(factors) - met:
            if held[axis]:
                raise ValueError(
                    f"No parameter sums over the axis {axis}, so it cannot be scaled. "
                    "Leave it out, or name the parameter and its dim in Scale(consuming=...)."
                )
        return scales

    def _factor(self, axis: str, layout: Layout, held: Mapping[str, int]) -> float:
        if axis not in layout.sizes or axis in layout.depth:
            raise ValueError(
                f"There is no axis of width {axis!r} to scale. The layout has "
                f"{[a for a in layout.sizes if a not in layout.depth]}."
            )
        s = self.factors[axis]
        if isinstance(s, str):
            return layout.sizes[axis] / max(held[axis], 1)
        return s

    def _dims(self, layout: Layout, module: nn.Module) -> Iterator[tuple[str, int]]:
        """Parameters that carry a scaled axis, with the dim at which they consume one."""
        for name, _ in module.named_parameters():
            dims = layout.dims[name]
            cut = [d for d, dim in enumerate(dims) if axes_of(dim) & set(self.factors)]
            if not cut or (len(dims) == 1 and name not in self.consuming):
                continue  # a bias or a factor of the normalisation belongs to the unit itself
            known = name in self.consuming
            dim = self.consuming[name] if known else _consuming_dim(module, name)
            if dim is not None and dim in cut:
                yield name, dim


def scaled(submodel: Submodel, scales: Mapping[str, float]) -> None:
    """Multiply in place: w to s w, and the moments that belong to it."""
    _multiply(submodel, scales, 1)


def unscaled(submodel: Submodel, scales: Mapping[str, float]) -> None:
    """Take the scale away, in place: the inverse, to the bit where s is a power of two."""
    _multiply(submodel, scales, -1)


def _multiply(submodel: Submodel, scales: Mapping[str, float], power: int) -> None:
    for name, s in scales.items():
        if power > 0:
            submodel.params[name].mul_(s)
        else:
            submodel.params[name].div_(s)
        for moment, tensors in submodel.moments.items():
            own = _POWERS.get(moment, 0) * power
            if own:
                factor = s ** abs(own)
                tensors[name].mul_(factor) if own > 0 else tensors[name].div_(factor)


def _consuming_dim(module: nn.Module, name: str) -> int | None:
    """The dim of a parameter along which its layer sums over its input; None where it does not."""
    path, _, _ = name.rpartition(".")
    layer = module.get_submodule(path)
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return None
    if isinstance(layer, _ConvTransposeNd) or type(layer).__name__ == "Conv1D":  # in before out
        return 0
    if isinstance(layer, nn.Linear | _ConvNd | nn.MultiheadAttention | nn.RNNBase):
        return 1
    raise ValueError(
        f"Whether {name} of a {type(layer).__name__} sums over the axis or makes it is not known. "
        f"Say so: Scale(..., consuming={{{name!r}: 1}}) for the dim it sums over, -1 for none."
    )


def _scale(name: str, dim: Dim, factors: Mapping[str, float]) -> float:
    return 1.0 if dim is None else _of_term(name, dim, factors)


def _of_term(name: str, term: Term, factors: Mapping[str, float]) -> float:
    if isinstance(term, str):
        return factors.get(term, 1.0)
    if isinstance(term, Prod):
        s = 1.0
        for factor in term.factors:
            s *= _of_term(name, factor, factors)
        return s
    if isinstance(term, Cat):
        found = {_of_term(name, part, factors) for part in term.parts}
        if len(found) > 1:
            raise ValueError(
                f"Parameter {name} sums over several axes at once, of the scales {sorted(found)}, "
                "but a parameter has one step size. Give them all one scale, or none."
            )
        return found.pop()
    return 1.0
