"""Exchanges as coroutines: what a rank sends and expects, without a word on how it travels."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Post:
    """What one rank sends to each rank, in pieces of bytes, and how many bytes it gets from each.

    Every rank works both out by itself: nothing but the bytes travels.
    """

    pieces: Sequence[Sequence[Tensor]]  # uint8, one sequence a rank
    expected: Sequence[int]

    @property
    def n_bytes(self) -> int:
        """Payload that leaves this rank."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Bytes for each rank."""
        return [sum(len(piece) for piece in pieces) for pieces in self.pieces]


Exchange: TypeAlias = Generator[Post, Sequence[Tensor], T]
"""Yields posts, is sent the bytes that came from each rank for them, returns its result."""

Links: TypeAlias = Callable[[Post], Sequence[Tensor]]
"""One round trip with all other ranks."""


@dataclass(frozen=True)
class Carried(Generic[T]):
    """What came of an exchange, and the payload that it took on this rank."""

    result: T
    bytes_sent: int
    bytes_received: int


def carried(exchange: Exchange[T], links: Links) -> Carried[T]:
    """Run one rank's side of an exchange over links."""
    sent = received = 0
    try:
        post = next(exchange)
        while True:
            sent, received = sent + post.n_bytes, received + sum(post.expected)
            post = exchange.send(links(post))
    except StopIteration as end:
        return Carried(end.value, sent, received)


def together(exchanges: Sequence[Exchange[T]]) -> list[T]:
    """Run all sides of an exchange in this process: ranks in lockstep, bytes handed across."""
    arrived: list[Sequence[Tensor] | None] = [None] * len(exchanges)
    results: list[T] = []
    while True:
        posts: list[Post] = []
        for exchange, parcels in zip(exchanges, arrived, strict=True):
            try:
                posts.append(next(exchange) if parcels is None else exchange.send(parcels))
            except StopIteration as end:
                results.append(end.value)
        if results:
            assert len(results) == len(exchanges), "some ranks go on where others have ended"
            return results
        for i, post in enumerate(posts):
            sizes = [other.sizes[i] for other in posts]
            assert sizes == list(post.expected), "ranks disagree on what is sent"
        arrived = [[joined(post.pieces[i]) for post in posts] for i in range(len(posts))]


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces of bytes as one."""
    return torch.cat(list(pieces)) if pieces else torch.empty(0, dtype=torch.uint8)
