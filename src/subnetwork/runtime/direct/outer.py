"""Steps of the merge where nobody holds the model: each rank steps from the x^k that it was given.

Momentum buffers travel with their lines, as a plane beside the local optimizer's moments, of which
local work knows nothing. What a rank does to lines that another one keeps is dropped by the
hand-over, as its own z_i is.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from subnetwork.nets.local import Local, LocalSteps
from subnetwork.nets.means import has_mean
from subnetwork.nets.merges import Steps
from subnetwork.nets.state import Tensors
from subnetwork.runtime.direct.counted import is_counter, packed, unpacked
from subnetwork.runtime.direct.held import OUTER, PARAMS, Held


def carried_moments(moments: Sequence[str], steps: Steps | None) -> tuple[str, ...]:
    """The moments of a run's planes: the local optimizer's, and the merge's own, which is last."""
    return (*moments, OUTER) if steps is not None and steps.momentum else tuple(moments)


def overwrites(local: Local) -> bool:
    """Whether local work is done in the memory of what it is given: nobody needs that any more."""
    return isinstance(local, LocalSteps) and local.in_place


def trained(held: Held, local: Local, rank: int, steps: Steps | None = None) -> Held:
    """Lines 4-8: the part with what local work made of it; with `steps`, its x^k beside that.

    Args:
        held: a part at the start of a round.
        local: the local work.
        rank: whose part.
        steps: the step of the merge, if it has one.
    """
    moments = held.submodel.moments
    local_moments = {m: tensors for m, tensors in moments.items() if m != OUTER}
    w = replace(held.submodel, moments=local_moments)
    before: Tensors = {}
    if steps is not None:
        before = {n: p.detach() for n, p in w.params.items() if not is_counter(n)}
        if overwrites(local):
            before = {n: p.clone() for n, p in before.items()}
    z = packed(local(held.k, rank, unpacked(w)))
    if OUTER in moments:
        z = replace(z, moments={**z.moments, OUTER: moments[OUTER]})
    if steps is not None and steps.of_gradients:
        zeros = {name: torch.zeros_like(x) for name, x in held.x.get(PARAMS, {}).items()}
        held = replace(held, x={**held.x, PARAMS: zeros})
    return replace(held, submodel=z, before=before)


def stepped(held: Held, steps: Steps) -> Held:
    """The part after the step of the merge, from x^k and the mean over holders; x^k is let go of.

    One tensor at a time, over the mean's memory.
    """
    params, moments = held.submodel.params, held.submodel.moments
    buffers = moments.get(OUTER, {})
    for name, x in held.before.items():
        if has_mean(x):
            of = {name: buffers[name]} if name in buffers else {}
            after, momentum = steps.step({name: x}, {name: params[name]}, of)
            params[name].detach().copy_(after[name])
            if momentum:
                buffers[name].copy_(momentum[name])
    return replace(held, submodel=held.submodel, before={})
