"""x^0 without a rank that holds it: parameters are made one layer at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from subnetwork.nets.architecture import Architecture
from subnetwork.runtime.direct.counted import COUNTER, counters_like, is_counter, with_counters
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.handover import keepers_of
from subnetwork.runtime.direct.held import PARAMS, Held, Share, as_words, block_shape, with_x
from subnetwork.runtime.direct.kernels import Idle


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
    """Parameters with moments that start at zero, for `taken`.

    Raises:
        ValueError: counts of steps among the moments, as Adam has them.
    """
    if COUNTER in moments:
        raise ValueError(
            f"The moments {list(moments)} hold Adam's counts of steps, which `direct_rounds` does "
            "not start from yet. Use SGD here, or `join`, which carries them."
        )
    for name, p in parameters:
        yield name, {PARAMS: p} | {moment: torch.zeros_like(p) for moment in moments}


def with_new_moments(draws: Draws, rank: int, held: Held, names: Sequence[str]) -> Held:
    """A part with more moments, which are zero everywhere."""
    params = {n: p for n, p in held.submodel.params.items() if not is_counter(n)}
    moments = {m: {n: torch.zeros_like(p) for n, p in params.items()} for m in names}
    shares = {
        n: share
        if is_counter(n)
        else replace(
            share,
            values={**share.values, **{m: torch.zeros_like(share.values[PARAMS]) for m in names}},
        )
        for n, share in held.shares.items()
    }
    submodel = replace(held.submodel, moments={**held.submodel.moments, **moments})
    return with_x(draws, rank, replace(held, submodel=submodel, shares=shares))


def with_new_counters(draws: Draws, rank: int, held: Held) -> tuple[Draws, Held]:
    """The draws and a part with counters of steps, which are zero everywhere.

    Every counter is put where a tensor of its lines would be that was there from the start.
    """
    layout, k = draws.sketch.layout, held.k
    zeros = counters_like(layout)
    like = {**draws.like, **{name: t.to("meta") for name, t in zeros.items()}}
    sketch = replace(draws.sketch, layout=with_counters(layout))
    more = Draws(sketch, like, draws.seed, draws.start)
    params, shares = dict(held.submodel.params), dict(held.shares)
    for name in zeros:
        grid, now = more.grids[name], more.masks(name, k)
        if more.partition(k).holds(name, rank):
            params[name] = torch.zeros(block_shape(more, name, k, rank))
        every = np.arange(grid.n_rows), np.arange(grid.n_cols)
        keepers = keepers_of(more, name, k, *every).reshape(grid.n_rows, grid.n_cols)
        own = (keepers == rank) & (now.rows[:, None] & now.cols == 0)
        if own.any():
            starts = np.concatenate([[0], np.cumsum(own.sum(axis=1))]).astype(np.int64)
            zeros_ = torch.zeros(int(own.sum()), grid.length)
            shares[name] = Share(Idle(starts, as_words(own)), {PARAMS: zeros_})
    submodel = replace(held.submodel, params=params)
    return more, with_x(more, rank, replace(held, submodel=submodel, shares=shares))
