"""x^0 without a rank that holds it: parameters are made one layer at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from subnetwork.nets.architecture import (
    Architecture,
    check_initialised,
    initialising,
    shaped,
    spoil,
)
from subnetwork.nets.layout import Layout
from subnetwork.nets.partition import NetSketch
from subnetwork.nets.seeding import seeded
from subnetwork.nets.state import Tensors
from subnetwork.runtime.direct.counted import (
    COUNTER,
    counters_like,
    is_counter,
    with_counters,
)
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.held import PARAMS, Held, Share, as_words, block_shape, with_x
from subnetwork.runtime.direct.kernels import Idle
from subnetwork.runtime.direct.routing import keepers_of


def initial_parameters(architecture: Architecture, *, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The parameters of `initial_state`, to the bit, one layer after the other.

    A layer exists until the next one is asked for.

    Raises:
        ValueError: a parameter belongs to a layer that has no `reset_parameters`, or to one whose
            `reset_parameters` leaves it as it is.
    """
    module = shaped(architecture).to("meta")
    with seeded(seed):
        state = torch.random.get_rng_state()
    for path, layer in initialising(module):
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(state)
            layer.to_empty(device="cpu")
            spoil(layer)
            layer.reset_parameters()
            state = torch.random.get_rng_state()
        check_initialised(layer, path)
        for name, p in layer.named_parameters(path):
            yield name, p.detach()
        layer.to("meta")


def draws_of(
    sketch: NetSketch, like: Tensors, seed: int, *, moments: Sequence[str] = (), start: int = 0
) -> Draws:
    """The cuts of a run whose model carries these moments, from round `start` on.

    Args:
        sketch: the law of the cut.
        like: the whole parameters, or tensors of their shapes and dtypes.
        seed: of the cuts.
        moments: of the local optimizer; counts of steps among them travel as tensors of their own.
        start: the first round.
    """
    shapes = {name: p.to("meta") for name, p in like.items()}
    if COUNTER in moments:
        counters = counters_like(sketch.layout, shapes)
        shapes |= {name: t.to("meta") for name, t in counters.items()}
        sketch = replace(sketch, layout=with_counters(sketch.layout))
    return Draws(sketch, shapes, seed, start)


def with_moments(
    parameters: Iterable[tuple[str, Tensor]],
    moments: Sequence[str] = (),
    layout: Layout | None = None,
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Parameters with moments that start at zero, for `taken`.

    Args:
        parameters: name and whole tensor.
        moments: names of the moments.
        layout: of the model; counts of steps have shapes that follow from it.

    Raises:
        ValueError: counts of steps among the moments, and no layout.
    """
    if COUNTER in moments and layout is None:
        raise ValueError(
            f"The moments {list(moments)} count the steps of every unit, and only a layout says "
            "what the units are. Give with_moments the layout of the model as well."
        )
    others = [moment for moment in moments if moment != COUNTER]
    for name, p in parameters:
        yield name, {PARAMS: p} | {moment: torch.zeros_like(p) for moment in others}
        if layout is not None and COUNTER in moments:
            for counter, zeros in counters_like(layout, {name: p}).items():
                yield counter, {PARAMS: zeros}


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
    zeros = counters_like(layout, draws.like)
    more = draws_of(draws.sketch, draws.like, draws.seed, moments=(COUNTER,), start=draws.start)
    params, shares = dict(held.submodel.params), dict(held.shares)
    for name in zeros:
        grid, now = more.grids[name], more.masks(name, k)
        if more.partition(k).holds(name, rank):
            block = block_shape(more, name, k, rank)
            params[name] = torch.zeros(block, dtype=zeros[name].dtype)
        every = np.arange(grid.n_rows), np.arange(grid.n_cols)
        keepers = keepers_of(more, name, k, *every).reshape(grid.n_rows, grid.n_cols)
        own = (keepers == rank) & (now.rows[:, None] & now.cols == 0)
        if own.any():
            starts = np.concatenate([[0], np.cumsum(own.sum(axis=1))]).astype(np.int64)
            values = torch.zeros(int(own.sum()), grid.length, dtype=zeros[name].dtype)
            shares[name] = Share(Idle(starts, as_words(own)), {PARAMS: values})
    submodel = replace(held.submodel, params=params)
    return more, with_x(more, rank, replace(held, submodel=submodel, shares=shares))
