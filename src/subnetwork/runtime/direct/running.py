"""Algorithm 1 on one rank of many: the loop of `rounds` where nobody holds the model."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from subnetwork.nets.local import Local
from subnetwork.runtime.direct.counted import packed, unpacked
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.handover import gathered, handed_over
from subnetwork.runtime.direct.held import Held
from subnetwork.runtime.direct.links import Links, carried
from subnetwork.runtime.direct.merging import merged
from subnetwork.runtime.direct.wire import Wire, check_wire


@dataclass(frozen=True)
class DirectRound:
    """What one round did on this rank: `held` is its part of x^{k+1}, not yet handed over."""

    k: int
    held: Held
    loss: float
    bytes_sent: int  # payload, of the hand-over into the round and the merge out of it
    bytes_received: int


def direct_rounds(
    held: Held, draws: Draws, rank: int, local: Local, links: Links, *, n_rounds: int,
    wire: Wire = "float32",
) -> Iterator[DirectRound]:  # fmt: skip
    """This rank's side of the rounds held.k, ..., `n_rounds` - 1; the same on every rank.

    With wire "float32" all ranks together hold what `rounds` holds with the merge `holders`, to
    the bit, parameters and moments alike.
    """
    check_wire(wire)
    sent = received = 0
    for k in range(held.k, n_rounds):
        trained = packed(local(k, rank, unpacked(held.submodel)))  # lines 4-8
        after = carried(merged(draws, rank, replace(held, submodel=trained), wire), links)  # line 9
        sent, received = sent + after.bytes_sent, received + after.bytes_received
        yield DirectRound(k, after.result, trained.loss, sent, received)
        if k + 1 < n_rounds:
            over = carried(handed_over(draws, rank, after.result, wire), links)  # line 3
            held, sent, received = over.result, over.bytes_sent, over.bytes_received


def whole_parameters(
    held: Held, draws: Draws, rank: int, links: Links, to: tuple[int, ...] = (0,)
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Parameters one after another: (name, plane -> tensor) on the ranks in `to`, else (name, {}).

    Every rank has to run through all of them.
    """
    for name in draws.like:
        yield name, carried(gathered(draws, rank, held, name, to), links).result


def digest(draws: Draws, wire: Wire) -> list[int]:
    """Numbers that agree where two ranks run the same: for `agree`."""
    layout = draws.sketch.layout.to_json()
    shapes = json.dumps({name: [*p.shape, str(p.dtype)] for name, p in draws.like.items()})
    texts = (layout, shapes, repr(draws.sketch.deal), wire)
    return [
        draws.n_workers,
        draws.seed % 2**63,
        draws.start,
        *(zlib.crc32(t.encode()) for t in texts),
    ]
