"""Export and rewrite: the model as one graph, whose size constants follow the units."""

from torch import nn

from subnetwork.nets.builders import Builder, CannotBuildError
from subnetwork.nets.layout import Layout
from subnetwork.nets.trace.tracer import Inputs


def exported(model: nn.Module, inputs: Inputs, layout: Layout) -> Builder:
    """The graph."""
    raise CannotBuildError("not written yet")
