"""Frames between the coordinator and one worker: a fixed header, then one flat buffer.

A header is eight 64-bit integers and is validated before anything is received for it, since gloo
aborts the process when a buffer does not fit what the peer sends. Nothing is pickled: a payload is
either entries of tensors or UTF-8 text.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from subnetwork.nets import Submodel

_MAGIC = 0x5355424E45543031  # SUBNET01
_HEADER = 8
_TEXT_LIMIT = 1 << 20  # bytes of a job or of an error message
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Verb(IntEnum):
    """What a frame is for."""

    JOB = 1  # down: text that tells the worker what to build
    ROUND = 2  # down: w_i of round k (line 3)
    DONE = 3  # up: z_i^+ of round k (line 7)
    FAILED = 4  # up: text that says what went wrong
    STOP = 5  # down: there is no more work
    READY = 6  # up: the job is built


class PointToPoint(Protocol):
    """The part of a gloo process group that a link uses; torch's stubs leave it out."""

    def send(self, tensors: list[Tensor], peer: int, tag: int, /) -> dist.Work:
        """Start sending."""
        ...

    def recv(self, tensors: list[Tensor], peer: int, tag: int, /) -> dist.Work:
        """Start receiving."""
        ...


@dataclass(frozen=True)
class Header:
    """What comes next: its verb, round, length (entries, or bytes of text), dtype and loss."""

    verb: Verb
    k: int = 0
    length: int = 0
    dtype: torch.dtype = torch.float32
    loss: float = math.nan


@dataclass(frozen=True)
class Link:
    """A private gloo group of two: rank 0 is the coordinator, rank 1 the worker."""

    group: PointToPoint
    peer: int

    def send(self, header: Header, payload: Tensor | None = None) -> "Sending":
        """Start sending a frame; returns at once with what has to be waited for."""
        frame = _encode(header)
        sending = [(self.group.send([frame], self.peer, 0), frame)]
        if payload is not None and payload.numel():
            sending.append((self.group.send([payload], self.peer, 1), payload))
        return Sending(tuple(sending))

    def receive_header(self, timeout: timedelta) -> Header:
        """Wait for the next header; raises RuntimeError when the peer is gone."""
        frame = torch.empty(_HEADER, dtype=torch.int64)
        self.group.recv([frame], self.peer, 0).wait(timeout)
        return _decode(frame)

    def receive_payload(self, header: Header, timeout: timedelta) -> Tensor:
        """The flat buffer that the header announced."""
        text = header.verb in (Verb.JOB, Verb.FAILED)
        if text and header.length > _TEXT_LIMIT:
            raise RuntimeError(f"a text of {header.length} bytes is over the limit {_TEXT_LIMIT}")
        buffer = torch.empty(header.length, dtype=torch.uint8 if text else header.dtype)
        if header.length:
            self.group.recv([buffer], self.peer, 1).wait(timeout)
        return buffer


@dataclass(frozen=True)
class Sending:
    """Frames under way, with the buffers that must live until they are out."""

    parts: tuple[tuple[dist.Work, Tensor], ...]

    def wait(self, timeout: timedelta) -> None:
        """Return when everything is sent; raises RuntimeError when the peer is gone."""
        for work, _ in self.parts:
            work.wait(timeout)


def pack(submodel: Submodel) -> Tensor:
    """All entries of a submodel in one flat buffer, in the order of `Submodel.tensors`.

    One that lives in such a buffer is not copied.
    """
    flat = submodel.flat()
    if flat is not None:
        return flat
    return torch.cat([tensor.reshape(-1) for tensor in submodel.tensors()])


def unpack(flat: Tensor, like: Submodel, loss: float) -> Submodel:
    """The submodel of a flat buffer, with the names and shapes of another one."""
    chunks = iter(torch.split(flat, [tensor.numel() for tensor in like.tensors()]))

    def read(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: next(chunks).view(tensor.shape) for name, tensor in tensors.items()}

    return Submodel(
        read(like.params), {name: read(moment) for name, moment in like.moments.items()}, loss
    )


def text_payload(text: str) -> Tensor:
    """A text as bytes, cut to the limit."""
    return torch.frombuffer(bytearray(text.encode()[:_TEXT_LIMIT]), dtype=torch.uint8)


def read_text(payload: Tensor) -> str:
    """The text of a payload."""
    return bytes(payload.tolist()).decode(errors="replace")


def _encode(header: Header) -> Tensor:
    loss = torch.tensor([header.loss], dtype=torch.float64).view(torch.int64)
    dtype = _DTYPES.index(header.dtype)
    fields = [_MAGIC, int(header.verb), header.k, header.length, dtype, int(loss), 0, 0]
    return torch.tensor(fields, dtype=torch.int64)


def _decode(frame: Tensor) -> Header:
    magic, verb, k, length, dtype, loss, *_ = (int(field) for field in frame)
    known = {int(v) for v in Verb}
    if magic != _MAGIC or verb not in known or length < 0 or not 0 <= dtype < len(_DTYPES):
        raise RuntimeError(f"not a frame of this program: header {frame.tolist()}")
    value = float(torch.tensor([loss]).view(torch.float64))
    return Header(Verb(verb), k, length, _DTYPES[dtype], value)
