"""Models that can be built at any width: the whole one, and physically smaller ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from subnetwork.nets.counters import no_moments
from subnetwork.nets.hollow import hollowed, with_statistics
from subnetwork.nets.layout import Layout
from subnetwork.nets.seeding import seeded
from subnetwork.nets.state import ModelState, Submodel, Tensors


class Architecture(Protocol):
    """A family of modules of one layout, in every width."""

    @property
    def layout(self) -> Layout:
        """The axes of the whole model."""
        ...

    def build(self, units: Mapping[str, Tensor], /) -> nn.Module:
        """A module with these units of each axis. Its parameters are not initialised.

        Units of width are alike: only their number matters. Units of depth are told apart.
        """
        ...


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron: linear, batch normalisation, ReLU, ..., linear.

    Built as a plain `nn.Sequential`, so that its state_dict loads into anybody's. One axis per
    hidden layer, ``hidden.0``, ``hidden.1``, ...

    >>> MLP(64, (32,), 10).build({"hidden.0": torch.arange(8)})[0]
    Linear(in_features=64, out_features=8, bias=True)
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    norm: bool = True

    def __post_init__(self) -> None:
        if not self.hidden or min(self.inputs, self.outputs, *self.hidden) < 1:
            raise ValueError(
                f"An MLP to be cut needs hidden layers of positive width, not hidden={self.hidden} "
                f"between {self.inputs} inputs and {self.outputs} outputs. Try hidden=(32,)."
            )

    @property
    def layout(self) -> Layout:
        """Hidden neurons are the units: row, bias and normalisation in, column out."""
        axes = [None, *(f"hidden.{i}" for i in range(len(self.hidden))), None]
        dims: dict[str, tuple[str | None, ...]] = {}
        for i, (below, above) in enumerate(pairwise(axes)):
            linear = i * self._stride
            dims |= {f"{linear}.weight": (above, below), f"{linear}.bias": (above,)}
            if above and self.norm:
                dims |= {f"{linear + 1}.weight": (above,), f"{linear + 1}.bias": (above,)}
        return Layout({f"hidden.{i}": size for i, size in enumerate(self.hidden)}, dims)

    def build(self, units: Mapping[str, Tensor], /) -> nn.Sequential:
        """The same network with these neurons in each hidden layer."""
        widths = [self.inputs, *(len(units[axis]) for axis in self.layout.sizes), self.outputs]
        layers: list[nn.Module] = []
        for below, above in pairwise(widths):
            linear = nn.Linear(below, above, device="meta")  # draws no numbers
            layers.append(linear.to_empty(device=torch.get_default_device()))
            layers += [nn.BatchNorm1d(above)] * self.norm + [nn.ReLU()]
        return nn.Sequential(*layers[: -1 - self.norm])

    @property
    def _stride(self) -> int:
        return 3 if self.norm else 2


def initial_state(
    architecture: Architecture, *, seed: int, moments: Sequence[str] = ()
) -> ModelState:
    """x^0: every parameter initialised once, by its layer's own `reset_parameters`.

    A module that has one and is made up of others initialises what is inside it, all of it.

    Args:
        architecture: the family; its whole model is initialised.
        seed: of the initialisation alone; torch's global generator is left as it was.
        moments: names of the local optimizer's moments, which start at zero.

    Raises:
        ValueError: a parameter belongs to a layer that has no `reset_parameters`, or to one whose
            `reset_parameters` leaves it as it is.
    """
    with seeded(seed):
        module = architecture.build(architecture.layout.all_units)
        spoil(module)
        for _, layer in initialising(module):
            layer.reset_parameters()
    check_initialised(module)
    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    architecture.layout.check(params)
    return ModelState(params, no_moments(architecture.layout, params, moments))


def without_values(architecture: Architecture, moments: Sequence[str] = ()) -> ModelState:
    """The names, shapes and dtypes of x^0, on the meta device.

    Nothing is made, but of a plan that has the values of its model: it is built once and let go of.
    """
    module = shaped(architecture)
    params = {name: p.detach().to("meta") for name, p in module.named_parameters()}
    return ModelState(params, no_moments(architecture.layout, params, moments))


def shaped(architecture: Architecture) -> nn.Module:
    """The whole module as it is built where torch's default device is the meta device."""
    units = architecture.layout.all_units
    with torch.device("meta"):
        return architecture.build(units)


def skeleton(architecture: Architecture) -> nn.Module:
    """The whole module with its parameters on the meta device, and buffers as they start."""
    return with_statistics(hollowed(shaped(architecture)), torch.get_default_device())


def initialising(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules with `reset_parameters`, by path, in order, but none inside another of them.

    Raises:
        ValueError: a parameter belongs to no such module.
    """
    found: list[str] = []
    for path, layer in module.named_modules():
        if any(f"{path}.".startswith(outer) for outer in found):
            continue
        if hasattr(layer, "reset_parameters"):
            found.append(f"{path}." if path else "")
            yield path, layer
        elif own := [name for name, _ in layer.named_parameters(path, recurse=False)]:
            raise ValueError(
                f"{own} cannot be initialised: {type(layer).__name__} has no reset_parameters. "
                "Add one, or start from ModelState(dict(model.named_parameters()))."
            )


def spoil(module: nn.Module) -> None:
    """Fill the parameters with NaN, so that what nobody initialises is seen afterwards.

    Numbers from an earlier use of the memory, or those of a model that was traced, would pass for
    initial values. Parameters that are whole numbers cannot say it, and are left alone.
    """
    for p in module.parameters():
        if p.is_floating_point() or p.is_complex():
            p.detach().fill_(torch.nan)


def check_initialised(module: nn.Module, path: str = "") -> None:
    """Raise ValueError where a parameter was spoilt and never initialised.

    Args:
        module: as `spoil` and then `reset_parameters` left it.
        path: of the module in the model, for the message.
    """
    left = [name for name, p in module.named_parameters(path) if _has_nan(p.detach())]
    if left:
        raise ValueError(
            f"{left} cannot be initialised: reset_parameters of a module around them leaves them "
            "as they are. Have it call their layers' own, or start from "
            "ModelState(dict(model.named_parameters()))."
        )


def _has_nan(p: Tensor) -> bool:
    """Piece by piece: while a large parameter is drawn there is memory for little else."""
    return any(bool(piece.isnan().any()) for piece in torch.split(p.flatten(), 1 << 20))


def runnable(architecture: Architecture, part: ModelState | Submodel) -> nn.Module:
    """The module of a model or submodel, with copies of its parameters."""
    module = built(architecture, part)
    load_params(module, part.params)
    return module


def built(architecture: Architecture, part: ModelState | Submodel) -> nn.Module:
    """A module of the shapes of a model or submodel, before its parameters are put in.

    Raises:
        ValueError: it has no unit on some axis of width, so there is no network.
    """
    layout = architecture.layout
    units = layout.units_of(part.params)
    present = frozenset().union(*(layout.axes_of(name) for name in part.params))
    empty = [axis for axis in units if axis in present and len(units[axis]) == 0]
    if empty:
        raise ValueError(
            f"A worker holds no unit of {empty} this round, so there is no network to train. Use "
            "Perm, which deals everyone a unit, or a larger share."
        )
    return architecture.build(units)


def load_params(module: nn.Module, params: Tensors) -> None:
    """Copy parameters into a module by name; names and shapes have to match."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(params[name])
