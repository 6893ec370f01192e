"""Frames between the coordinator and one worker: a fixed header, then one flat buffer.

A header is 64 bytes under a checksum and is validated before anything is received for it; what it
may announce is known to the receiver beforehand. Nothing is pickled: a payload is either entries of
tensors or UTF-8 text. These are plain sockets, since gloo ends the receiving process (SIGABRT) when
a peer sends more than was asked for.
"""

import math
import socket
import struct
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from subnetwork.nets import Submodel

_MAGIC = b"SUBNET04"
_FIELDS = struct.Struct(
    "<8sBB2xIqqqdd"
)  # magic, verb, dtype, peak, k, length, steps, seconds, loss
_CHECK = struct.Struct("<I4x")
HEADER = _FIELDS.size + _CHECK.size
TEXT_LIMIT = 1 << 20  # bytes of a job or of an error message
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class FrameError(RuntimeError):
    """What arrived is not what the plan says must arrive; says both."""


class Verb(IntEnum):
    """What a frame is for."""

    JOB = 1  # down: text that tells the worker what to build
    ROUND = 2  # down: w_i of round k (line 3)
    DONE = 3  # up: z_i^+ of round k (line 7)
    FAILED = 4  # up: text that says what went wrong
    STOP = 5  # down: there is no more work
    READY = 6  # up: the job is built
    SHARES = 7  # down: text, the weights of the deal from round k on
    BUILDING = 8  # up: the job is taken; again every second until it is built


TEXTS = (Verb.JOB, Verb.FAILED, Verb.SHARES)


@dataclass(frozen=True)
class Header:
    """What comes next: its verb, round, length (entries, or bytes of text) and dtype."""

    verb: Verb
    k: int = 0
    length: int = 0
    dtype: torch.dtype = torch.float32
    loss: float = math.nan
    n_steps: int = 0  # up: local steps taken
    seconds: float = math.inf  # down: after which no further local step is begun; up: spent on them
    peak: int = 0  # up: bytes of memory the worker has held at most, in whole KiB


@dataclass
class Moved:
    """Bytes that went over a socket so far, headers and all."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Link:
    """One end of a connection between the coordinator and one worker.

    `until` is a time of `time.monotonic`, or None to wait for ever. Everything raises
    ConnectionError when the other end is gone and TimeoutError when `until` passes.
    """

    socket: socket.socket
    moved: Moved = field(default_factory=Moved, compare=False)

    def send(self, header: Header, payload: Tensor | None = None, *, until: float | None) -> None:
        """Send a frame; returns when all of it is handed to the system."""
        parts = [memoryview(encode(header))]
        if payload is not None and payload.numel():
            parts.append(_bytes_of(payload))
        for part in parts:
            while part:
                self._allow(until)
                n_bytes = self.socket.send(part)
                self.moved.sent += n_bytes
                part = part[n_bytes:]  # noqa: PLW2901 - what is left of it

    def receive_header(self, *, until: float | None) -> Header:
        """Wait for the next header; raises FrameError where it is none of ours."""
        buffer = bytearray(HEADER)
        self._fill(memoryview(buffer), until)
        return decode(bytes(buffer))

    def receive_payload(self, header: Header, *, until: float | None) -> Tensor:
        """The flat buffer that the header announced; the caller has checked its length."""
        text = header.verb in TEXTS
        if text and header.length > TEXT_LIMIT:
            raise FrameError(f"a text of {header.length} bytes is over the limit {TEXT_LIMIT}")
        buffer = torch.empty(header.length, dtype=torch.uint8 if text else header.dtype)
        if header.length:
            self._fill(_bytes_of(buffer), until)
        return buffer

    def drain(self, *, until: float) -> None:
        """Say no more and read on to the end: closing over unread bytes would revoke what was said.

        Raises what every reading raises, in the end.
        """
        self.socket.shutdown(socket.SHUT_WR)
        scratch = memoryview(bytearray(1 << 16))
        while True:
            self._fill(scratch, until)

    def close(self) -> None:
        """Close at once; whoever waits at either end gets a ConnectionError."""
        with suppress(OSError):  # the other end closed first
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _fill(self, view: memoryview, until: float | None) -> None:
        while view:
            self._allow(until)
            n_bytes = self.socket.recv_into(view)
            if not n_bytes:
                raise ConnectionError("the other end closed the connection")
            self.moved.received += n_bytes
            view = view[n_bytes:]

    def _allow(self, until: float | None) -> None:
        """Let the next call of the socket block until the deadline and no longer."""
        if until is None:
            self.socket.settimeout(None)
            return
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        self.socket.settimeout(left)


def pack(submodel: Submodel) -> Tensor:
    """All entries of a submodel in one flat buffer, in the order of `Submodel.tensors`.

    One that lives in such a buffer is not copied.
    """
    flat = submodel.flat()
    if flat is not None:
        return flat
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in submodel.tensors()})
    if len(kinds) > 1:  # torch.cat would make others of them
        raise ValueError(
            f"The parameters are {', '.join(kinds)}, and a coordinator sends one type. Convert "
            "them to one, or use --exchange direct."
        )
    return torch.cat([tensor.reshape(-1) for tensor in submodel.tensors()])


def unpack(flat: Tensor, like: Submodel, header: Header) -> Submodel:
    """The submodel of a flat buffer, with the names and shapes of another one."""
    chunks = iter(torch.split(flat, [tensor.numel() for tensor in like.tensors()]))

    def read(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: next(chunks).view(tensor.shape) for name, tensor in tensors.items()}

    params = read(like.params)  # before the moments: in the order of `pack`
    moments = {name: read(moment) for name, moment in like.moments.items()}
    return Submodel(params, moments, header.loss, header.n_steps)


def text_payload(text: str) -> Tensor:
    """A text as bytes, cut to the limit."""
    return torch.frombuffer(bytearray(text.encode()[:TEXT_LIMIT]), dtype=torch.uint8)


def read_text(payload: Tensor) -> str:
    """The text of a payload."""
    return payload.numpy().tobytes().decode(errors="replace")


def encode(header: Header) -> bytes:
    """The 64 bytes of a header."""
    fields = _FIELDS.pack(
        _MAGIC,
        header.verb,
        _DTYPES.index(header.dtype),
        min(header.peak >> 10, (1 << 32) - 1),
        header.k,
        header.length,
        header.n_steps,
        header.seconds,
        header.loss,
    )
    return fields + _CHECK.pack(zlib.crc32(fields))


def decode(frame: bytes) -> Header:
    """The header of 64 bytes; raises FrameError where they are none."""
    fields, check = frame[: _FIELDS.size], frame[_FIELDS.size :]
    magic, verb, dtype, peak, k, length, n_steps, seconds, loss = _FIELDS.unpack(fields)
    sound = check == _CHECK.pack(zlib.crc32(fields)) and magic == _MAGIC
    known = verb in set(Verb) and dtype < len(_DTYPES) and min(k, length, n_steps) >= 0
    if not (sound and known):
        raise FrameError(f"not a frame of this program: header {frame.hex()}")
    return Header(Verb(verb), k, length, _DTYPES[dtype], loss, n_steps, seconds, peak << 10)


def _bytes_of(flat: Tensor) -> memoryview:
    return flat.view(torch.uint8).numpy().data
