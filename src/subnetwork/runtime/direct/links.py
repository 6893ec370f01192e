"""Exchanges as coroutines: what a rank sends and expects, without a word on how it travels."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from subnetwork.runtime.direct.memory import Spare, made

T = TypeVar("T")


@dataclass(frozen=True)
class Post:
    """What one rank sends to each rank, in pieces of bytes, and memory for what it gets from each.

    Every rank works out by itself how many bytes each piece has: nothing else travels.
    """

    pieces: Sequence[Sequence[Tensor]]  # uint8, one sequence a rank
    into: Sequence[Sequence[Tensor]]  # uint8, is filled

    @property
    def sizes(self) -> list[int]:
        """Bytes for each rank."""
        return [sum(len(piece) for piece in pieces) for pieces in self.pieces]

    @property
    def n_bytes(self) -> int:
        """Payload that leaves this rank."""
        return sum(self.sizes)

    @property
    def n_bytes_in(self) -> int:
        """Payload that arrives."""
        return sum(len(piece) for pieces in self.into for piece in pieces)


@dataclass(frozen=True)
class Parcels:
    """Posts in the making: a piece for every rank, and memory for what every rank sends."""

    leaving: list[list[Tensor]]
    into: list[list[Tensor]]
    spare: Spare | None = None

    @classmethod
    def of(cls, n_workers: int, spare: Spare | None = None) -> "Parcels":
        """Nothing yet; what arrives is put into spare memory, where there is some."""
        return cls([[] for _ in range(n_workers)], [[] for _ in range(n_workers)], spare)

    def add(self, pieces: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
        """One tensor's piece for every rank; returns the memory of what all send of it, in order.

        Empty pieces are sent to nobody: both sides know that they are empty.
        """
        arrived = made((1, sum(sizes)), torch.uint8, self.spare)[0]
        for j, part in enumerate(torch.split(arrived, list(sizes))):
            if len(pieces[j]):
                self.leaving[j].append(pieces[j])
            if len(part):
                self.into[j].append(part)
        return arrived

    def post(self) -> Post:
        """All of them."""
        return Post(self.leaving, self.into)


Exchange: TypeAlias = Generator[Post, None, T]
"""Yields posts, goes on when what they wait for has come, returns its result."""

Links: TypeAlias = Callable[[Post], None]
"""One round trip with all other ranks."""


@dataclass(frozen=True)
class Carried(Generic[T]):
    """What came of an exchange, and the payload that it took on this rank."""

    result: T
    bytes_sent: int
    bytes_received: int
    seconds: float = 0.0  # in the links


def carried(exchange: Exchange[T], links: Links) -> Carried[T]:
    """Run one rank's side of an exchange over links."""
    sent, received, seconds = 0, 0, 0.0
    try:
        post = next(exchange)
        while True:
            sent, received = sent + post.n_bytes, received + post.n_bytes_in
            began = time.perf_counter()
            links(post)
            seconds += time.perf_counter() - began
            post = next(exchange)
    except StopIteration as end:
        return Carried(end.value, sent, received, seconds)


def together(exchanges: Sequence[Exchange[T]]) -> list[T]:
    """Run all sides of an exchange in this process: ranks in lockstep, bytes handed across."""
    results: list[T] = []
    while True:
        posts: list[Post] = []
        for exchange in exchanges:
            try:
                posts.append(next(exchange))
            except StopIteration as end:
                results.append(end.value)
        if results:
            assert len(results) == len(exchanges), "some ranks go on where others have ended"
            return results
        for i, post in enumerate(posts):
            for j, other in enumerate(posts):
                for piece, memory in zip(other.pieces[i], post.into[j], strict=True):
                    assert len(piece) == len(memory), "ranks disagree on what is sent"
                    memory.copy_(piece)


def whole(sizes: Sequence[int]) -> list[list[Tensor]]:
    """Memory for one piece of so many bytes from each rank; none where there are none."""
    return [[torch.empty(n, dtype=torch.uint8)] if n else [] for n in sizes]
