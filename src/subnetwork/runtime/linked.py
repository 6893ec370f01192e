"""The links of a session of `join` to the other processes of torchrun, or of the user's group."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from subnetwork.environment import (
    rank_under_torchrun,
    under_several_hosts,
    workers_under_torchrun,
)
from subnetwork.runtime.direct import meet, over
from subnetwork.runtime.direct.links import Links, Post
from subnetwork.runtime.handshake import LOOPBACK
from subnetwork.runtime.torchrun import place_under_torchrun


def here() -> tuple[int, int]:
    """(rank, processes): of torch.distributed where it is set up, of torchrun, or (0, 1)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    ranks = workers_under_torchrun()
    return (0, 1) if ranks is None else (rank_under_torchrun(), ranks)


def left(_: Post) -> None:
    """The links of a session that was left: there are none."""
    raise ValueError(
        "The session was left with the block of `with join(...)`. Call its methods inside it."
    )


@contextmanager
def linked(rank: int, n_workers: int) -> Iterator[Links]:
    """Yield the links to the other ranks, which are those of this session alone."""
    if n_workers == 1:
        yield lambda _: None
        return
    if dist.is_initialized():
        yield over(dist.new_group(backend="gloo"), rank)  # lives on: others may wait for its last
        return
    if under_several_hosts():
        raise ValueError(
            "torchrun started ranks on several hosts, where join uses a group of yours. Call "
            'torch.distributed.init_process_group("gloo") before it.'
        )
    store = place_under_torchrun().store
    session = store.add(f"sessions/{rank}", 1)  # every rank counts its own: keys of one are used up
    meeting = dist.PrefixStore(f"direct/{session}", store)
    yield over(meet(meeting, rank, n_workers, host=LOOPBACK), rank)
