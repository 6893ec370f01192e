"""Steps of the merge where nobody holds the model: each rank steps from the x^k that it was given.

Momentum buffers are a plane beside the local optimizer's moments, of which local work knows
nothing. They travel with their lines, from keeper to keeper; other holders of a line have zeros.
What a rank does to lines that another one keeps is dropped by the hand-over, as its own z_i is.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor

from subnetwork.nets.local import Local, LocalSteps
from subnetwork.nets.means import has_mean
from subnetwork.nets.merges import Steps
from subnetwork.nets.state import Submodel, Tensors
from subnetwork.runtime.direct.counted import is_counter, packed, unpacked
from subnetwork.runtime.direct.held import OUTER, Held
from subnetwork.runtime.direct.memory import Spare

AT_ONCE = 1 << 18  # entries that are stepped together


def carried_moments(moments: Sequence[str], steps: Steps | None) -> tuple[str, ...]:
    """The moments of a run's planes: the local optimizer's, and the merge's own, which is last."""
    return (*moments, OUTER) if steps is not None and steps.momentum else tuple(moments)


def overwrites(local: Local) -> TypeGuard[LocalSteps]:
    """Whether local work is done in the memory of what it is given: nobody needs that any more."""
    return isinstance(local, LocalSteps) and local.in_place


def trained(
    held: Held, local: Local, rank: int, steps: Steps | None = None, spare: Spare | None = None
) -> Held:
    """Lines 4-8: the part with what local work made of it; with `steps`, its x^k beside that.

    Args:
        held: a part at the start of a round.
        local: the local work.
        rank: whose part.
        steps: the step of the merge, if it has one.
        spare: gets the memory of the last gradients, where local work is done in place, and goes
            with the part to its hand-over.

    Raises:
        ValueError: a step with momentum and a part without that plane, or the other way round.
    """
    moments = held.submodel.moments
    local_moments = {m: tensors for m, tensors in moments.items() if m != OUTER}
    w = replace(held.submodel, moments=local_moments)
    before: Tensors = {}
    _check(moments, steps)
    if steps is not None:
        before = {n: p.detach() for n, p in w.params.items() if not is_counter(n)}
        if not _keeps(local):
            before = {n: p.clone() for n, p in before.items()}
    if spare is not None and overwrites(local):
        local = replace(local, let_go=_for_later(w, spare, local.let_go))
    z = packed(local(held.k, rank, unpacked(w)))
    if OUTER in moments:
        z = replace(z, moments={**z.moments, OUTER: moments[OUTER]})
    return replace(held, submodel=z, before=before, spare=spare)


def _for_later(
    w: Submodel, spare: Spare, then: Callable[[list[Tensor]], None] | None
) -> Callable[[list[Tensor]], None]:
    """What takes the memory of gradients, but of none that is the part's own."""
    own = {t.untyped_storage().data_ptr() for t in w.tensors()}

    def take(gradients: list[Tensor]) -> None:
        spare.add(g for g in gradients if g.untyped_storage().data_ptr() not in own)
        if then is not None:
            then(gradients)

    return take


def stepped(held: Held, steps: Steps) -> Held:
    """The part after the step of the merge, from x^k and the mean over holders; x^k is let go of.

    Some rows at a time, over the mean's memory.
    """
    params, buffers = held.submodel.params, held.submodel.moments.get(OUTER, {})
    for name, x in held.before.items():
        if not has_mean(x):
            continue
        tensors = [x, params[name].detach(), *([buffers[name]] if name in buffers else [])]
        for rows in zip(*map(_by_rows, tensors), strict=True):
            of = {name: rows[2]} if len(rows) > 2 else {}
            after, momentum = steps.step({name: rows[0]}, {name: rows[1]}, of)
            rows[1].copy_(after[name])
            if of:
                of[name].copy_(momentum[name])
    return replace(held, before={})


def _by_rows(tensor: Tensor) -> Sequence[Tensor]:
    """Views of about `AT_ONCE` entries each."""
    if tensor.dim() == 0 or tensor.numel() <= AT_ONCE:
        return [tensor]
    return torch.split(tensor, max(1, AT_ONCE // tensor[0].numel()))


def _keeps(local: Local) -> bool:
    """Whether local work is known to leave what it is given as it was."""
    return isinstance(local, LocalSteps) and not local.in_place


def _check(moments: Collection[str], steps: Steps | None) -> None:
    if (OUTER in moments) != bool(steps is not None and steps.momentum):
        raise ValueError(
            f"The merge {steps} has {'no ' if OUTER in moments else 'a '}momentum, but the part "
            f"carries {'one' if OUTER in moments else 'none'}. Make draws and part with "
            "moments=carried_moments(local.moments, steps)."
        )
