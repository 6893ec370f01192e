"""Links between ranks over gloo: every receive is posted before the first send."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from subnetwork.algorithm import RunFailedError, WorkerLostError
from subnetwork.runtime.direct.links import Links, Post, joined

PATIENCE = timedelta(seconds=600)  # for the slowest rank's round


class PointToPoint(Protocol):
    """The part of a process group that the links use."""

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> dist.Work:
        """Start sending."""
        ...

    def recv(self, tensors: list[Tensor], peer: int, tag: int, /) -> dist.Work:
        """Start receiving."""
        ...


def meet(store: dist.Store, rank: int, n_workers: int, *, host: str | None = None) -> PointToPoint:
    """A group of all ranks of its own; blocks until they are all there.

    Args:
        store: where they find each other.
        rank: which one this is.
        n_workers: how many there are.
        host: the address to listen on; None lets gloo choose that of this host's name.
    """
    gloo: Any = dist.ProcessGroupGloo  # its stubs leave out what is needed here
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=host) if host else gloo.create_default_device()]
    options._timeout = PATIENCE
    group: PointToPoint = gloo(store, rank, n_workers, options)
    return group


def over(group: PointToPoint, rank: int) -> Links:
    """Round trips over a group. A rank that is gone is named as far as the group tells."""

    def links(post: Post) -> list[Tensor]:
        arrived = [torch.empty(n, dtype=torch.uint8) for n in post.expected]
        peers = [(rank + step) % len(arrived) for step in range(1, len(arrived))]
        leaving = {j: joined(post.pieces[j]) for j in peers}
        try:
            waiting = [(i, group.recv([arrived[i]], i, 0)) for i in peers if len(arrived[i])]
            waiting += [(j, group.send([leaving[j]], j, 0)) for j in peers if len(leaving[j])]
            for peer, work in waiting:
                lost = peer
                work.wait(PATIENCE)
        except RuntimeError as error:
            raise WorkerLostError(
                f"rank {lost if waiting else peers[0]} did not answer rank {rank}: "
                f"{str(error).splitlines()[0]}. In direct hand-over a lost rank ends the run; "
                "run again from the last checkpoint."
            ) from None
        return arrived

    return links


def agree(links: Links, rank: int, words: Sequence[int]) -> None:
    """Compare numbers that every rank must have alike, before anything depends on them.

    Raises:
        RunFailedError: where another rank has others; gloo would end the process later.
    """
    own = torch.tensor([*words], dtype=torch.int64)
    n_workers = words[0]
    pieces = [[own.view(torch.uint8)] if j != rank else [] for j in range(n_workers)]
    sizes = [8 * len(own) if j != rank else 0 for j in range(n_workers)]
    for other, parcel in enumerate(links(Post(pieces, sizes))):
        if other != rank and not torch.equal(parcel.view(torch.int64), own):
            raise RunFailedError(
                f"rank {other} has another plan, deal, seed or wire than rank {rank}. Start all "
                "ranks with the same arguments and the same model."
            )
