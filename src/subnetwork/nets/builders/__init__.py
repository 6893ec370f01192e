"""How a subnetwork becomes a module that runs: a patched copy, or an exported graph."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from subnetwork.nets.trace.tracer import Inputs


class CannotBuildError(Exception):
    """A builder has no way with this model; says why."""


class Builder(Protocol):
    """Builds the physically smaller modules of one model and layout."""

    @property
    def kind(self) -> str:
        """``copy`` or ``export``."""
        ...

    def build(self, model: nn.Module, units: Mapping[str, Tensor], /) -> nn.Module:
        """The module that holds these units of each axis, with copies of the model's values.

        Parameters have the model's names; tied ones stay tied.
        """
        ...

    def at(self, model: nn.Module, inputs: Inputs, /) -> "Builder":
        """The builder for the same network in another dtype."""
        ...
