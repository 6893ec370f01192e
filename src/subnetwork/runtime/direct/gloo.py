"""Links between ranks over gloo: every receive is posted before the first send."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from subnetwork.algorithm import RunFailedError, WorkerLostError
from subnetwork.runtime.direct.links import Links, Post, whole

LARGE = 1 << 16  # bytes; a piece of so many is a message of its own
PATIENCE = timedelta(seconds=600)  # for the slowest rank's round
LONGEST = timedelta(days=1)  # where nobody needs a limit, but gloo a number
MEETING = timedelta(seconds=300)  # for all ranks to be there
CONNECTING = timedelta(seconds=20)  # for ranks that are all there
WORD = 512  # bytes of a message between ranks


class PointToPoint(Protocol):
    """The part of a process group that the links use."""

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> dist.Work:
        """Start sending."""
        ...

    def recv(self, tensors: list[Tensor], peer: int, tag: int, /) -> dist.Work:
        """Start receiving."""
        ...


def meet(
    store: dist.Store,
    rank: int,
    n_workers: int,
    *,
    host: str | None = None,
    patience: timedelta = MEETING,
) -> PointToPoint:
    """A group of all ranks of its own; blocks until they are all there.

    Args:
        store: where they find each other.
        rank: which one this is.
        n_workers: how many there are.
        host: the address to listen on; None lets gloo choose that of this host's name.
        patience: how long they are waited for.

    Raises:
        WorkerLostError: they do not come, or leave meanwhile.
    """
    gloo: Any = dist.ProcessGroupGloo  # its stubs leave out what is needed here
    options = gloo._Options()
    options._timeout = patience
    try:
        own = gloo.create_device(hostname=host) if host else gloo.create_default_device()
        options._devices = [own]
        group: PointToPoint = gloo(store, rank, n_workers, options)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise WorkerLostError(f"rank {rank} did not meet the others: {reason}.") from None
    return group


def over(group: PointToPoint, rank: int, patience: timedelta = PATIENCE) -> Links:
    """Round trips over a group. Small pieces go together, large ones from where they are.

    Args:
        group: of all ranks.
        rank: which one this is.
        patience: how long the slowest one is waited for: it may test a model, and others not.
    """

    def links(post: Post) -> None:
        peers = [(rank + step) % len(post.into) for step in range(1, len(post.into))]
        arriving = {i: messages(post.into[i]) for i in peers}
        leaving = {j: messages(post.pieces[j]) for j in peers}
        memory = {i: [_room(pieces) for pieces in arriving[i]] for i in peers}
        lost = peers[0] if peers else rank
        try:
            waiting = [(i, group.recv([m], i, t)) for i in peers for t, m in enumerate(memory[i])]
            for j in peers:
                waiting += [
                    (j, group.send([joined(pieces)], j, t)) for t, pieces in enumerate(leaving[j])
                ]
            for peer, work in waiting:
                lost = peer
                work.wait(patience)
        except RuntimeError as error:
            raise WorkerLostError(
                f"rank {lost} did not answer rank {rank}: {str(error).splitlines()[0]}."
            ) from None
        for i in peers:
            for pieces, message in zip(arriving[i], memory[i], strict=True):
                _unpack(pieces, message)

    return links


def _unpack(pieces: Sequence[Tensor], message: Tensor) -> None:
    if len(pieces) > 1:
        parts = torch.split(message, [len(piece) for piece in pieces])
        for piece, part in zip(pieces, parts, strict=True):
            piece.copy_(part)


def _room(pieces: Sequence[Tensor]) -> Tensor:
    if len(pieces) == 1:
        return pieces[0]
    return torch.empty(sum(map(len, pieces)), dtype=torch.uint8)


def messages(pieces: Sequence[Tensor]) -> list[list[Tensor]]:
    """Pieces by message: the same on both sides, since it depends on their sizes alone."""
    small = [piece for piece in pieces if 0 < len(piece) < LARGE]
    return [[piece] for piece in pieces if len(piece) >= LARGE] + ([small] if small else [])


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces of bytes as one; a single one is not copied."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


def tell(links: Links, rank: int, n_workers: int, words: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tell every rank a few words, as JSON; returns those of all, by rank. Every rank calls it."""
    text = json.dumps(words).encode()
    assert len(text) <= WORD, "words are few"
    own = torch.frombuffer(bytearray(text.ljust(WORD)), dtype=torch.uint8)
    others = [j != rank for j in range(n_workers)]
    into = whole([WORD * other for other in others])
    links(Post([[own] if other else [] for other in others], into))
    heard = [pieces[0] if pieces else own for pieces in into]
    return [json.loads(bytes(piece.numpy()).decode()) for piece in heard]


def agree(links: Links, rank: int, words: Sequence[int]) -> None:
    """Compare numbers that every rank must have alike, before anything depends on them.

    Raises:
        RunFailedError: where another rank has others; gloo would end the process later.
    """
    own = torch.tensor([*words], dtype=torch.int64)
    others = [j != rank for j in range(words[0])]
    into = whole([8 * len(own) * other for other in others])
    links(Post([[own.view(torch.uint8)] if other else [] for other in others], into))
    for other, pieces in enumerate(into):
        if pieces and not torch.equal(pieces[0].view(torch.int64), own):
            raise RunFailedError(
                f"rank {other} has another plan, deal, seed or wire than rank {rank}. Start all "
                "ranks with the same arguments and the same model."
            )
