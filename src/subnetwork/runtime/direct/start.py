"""x^0 without a rank that holds it: parameters are made one layer at a time."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from subnetwork.nets.architecture import Architecture
from subnetwork.runtime.direct.held import PARAMS


def initial_parameters(architecture: Architecture, *, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The parameters of `initial_state`, to the bit, one layer after the other.

    A layer exists until the next one is asked for.

    Raises:
        ValueError: a parameter belongs to a layer that has no `reset_parameters`.
    """
    with torch.device("meta"):
        module = architecture.build(architecture.layout.all_units).to("meta")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
    for prefix, layer in module.named_modules():
        own = [name for name, _ in layer.named_parameters(prefix, recurse=False)]
        reset = getattr(layer, "reset_parameters", None)
        if reset is None and own:
            raise ValueError(
                f"{own} cannot be initialised: {type(layer).__name__} has no reset_parameters. "
                "Add one, or start from the values of a model."
            )
        if reset is None:
            continue
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(state)
            layer.to_empty(device="cpu", recurse=False)
            reset()
            state = torch.random.get_rng_state()
        for name, p in layer.named_parameters(prefix, recurse=False):
            yield name, p.detach()
        layer.to("meta")


def with_moments(
    parameters: Iterable[tuple[str, Tensor]], moments: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Parameters with moments that start at zero, for `taken`."""
    for name, p in parameters:
        yield name, {PARAMS: p} | {moment: torch.zeros_like(p) for moment in moments}
