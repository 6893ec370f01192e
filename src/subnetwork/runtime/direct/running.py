"""Algorithm 1 on one rank of many: the loop of `rounds` where nobody holds the model."""

import json
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from subnetwork.nets.local import Local
from subnetwork.nets.merges import Steps
from subnetwork.nets.state import Submodel
from subnetwork.runtime.direct.counted import is_counter
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.handover import gathered, handed_over
from subnetwork.runtime.direct.held import PARAMS, Held
from subnetwork.runtime.direct.links import Links, carried
from subnetwork.runtime.direct.memory import Spare
from subnetwork.runtime.direct.merging import merged
from subnetwork.runtime.direct.outer import overwrites, trained
from subnetwork.runtime.direct.timing import Took
from subnetwork.runtime.direct.wire import Wire, check_wire


@dataclass(frozen=True)
class DirectRound:
    """What one round did on this rank: `held` is its part of x^{k+1}, not yet handed over."""

    k: int
    held: Held
    loss: float
    bytes_sent: int  # payload, of the hand-over into the round and the merge out of it
    bytes_received: int
    took: Took = field(default_factory=Took)


def direct_rounds(  # noqa: PLR0913 (each has a name)
    held: Held, draws: Draws, rank: int, local: Local, links: Links, *, n_rounds: int,
    wire: Wire = "float32", steps: Steps | None = None,
) -> Iterator[DirectRound]:  # fmt: skip
    """This rank's side of the rounds held.k, ..., `n_rounds` - 1; the same on every rank.

    With wire "float32" all ranks together hold what `rounds` holds with the merge `holders`, or
    with `steps`, to the bit, parameters and moments alike (a step of the merge on entries of 16
    bits up to rounding: torch's own depends on where in a tensor an entry lies). `held` and `draws`
    are made with `carried_moments(local's, steps)`. Where `local` works in place, so does the
    hand-over: what a round yields is good until the next one is asked for.
    """
    check_wire(wire)
    sent = received = 0
    took = Took()
    for k in range(held.k, n_rounds):
        began = time.perf_counter()
        held = trained(held, local, rank, steps, Spare())  # lines 4-8
        computed, loss = time.perf_counter() - began, held.submodel.loss
        after = carried(merged(draws, rank, held, wire, steps), links)  # line 9
        held, since = after.result, time.perf_counter() - began
        sent, received = sent + after.bytes_sent, received + after.bytes_received
        packing = took.packing + since - computed - after.seconds
        took = Took(computed, packing, took.hand_over, after.seconds, since)
        del after
        yield DirectRound(k, held, loss, sent, received, took)
        if k + 1 < n_rounds:
            began, over_old = time.perf_counter(), overwrites(local)
            exchange = handed_over(draws, rank, held, wire, in_place=over_old)  # line 3
            del held  # what is dealt out is let go of
            over = carried(exchange, links)
            held, sent, received = over.result, over.bytes_sent, over.bytes_received
            packing = time.perf_counter() - began - over.seconds
            took = Took(packing=packing, hand_over=over.seconds)
            del over, exchange


def whole_parameters(
    held: Held, draws: Draws, rank: int, links: Links, to: tuple[int, ...] = (0,)
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Parameters one after another: (name, plane -> tensor) on the ranks in `to`, else (name, {}).

    Every rank has to run through all of them.
    """
    for name in draws.like:
        yield name, carried(gathered(draws, rank, held, name, to), links).result


def passing_parameters(
    held: Held, draws: Draws, rank: int, links: Links, names: Iterable[str] | None = None
) -> Iterator[tuple[str, Tensor | None]]:
    """Parameters one after another, without moments, on rank 0; elsewhere None.

    Those of these names, or all. Every rank has to run through the same.
    """
    alone = Held(held.k, Submodel(held.submodel.params), held.shares, spare=held.spare)
    for name in draws.like if names is None else names:
        if not is_counter(name):
            found = carried(gathered(draws, rank, alone, name), links).result
            yield name, found.get(PARAMS)


def digest(draws: Draws, wire: Wire) -> list[int]:
    """Numbers that agree where two ranks run the same: for `agree`."""
    layout = draws.sketch.layout.to_json()
    shapes = json.dumps({name: [*p.shape, str(p.dtype)] for name, p in draws.like.items()})
    texts = (layout, shapes, repr(draws.sketch.deal), str(draws.sketch.width), wire)
    return [
        draws.n_workers,
        draws.seed % 2**63,
        draws.start,
        *(zlib.crc32(t.encode()) for t in texts),
    ]
