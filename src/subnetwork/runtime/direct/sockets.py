"""What the kernel counted of this process's connections: bytes on the wire."""

import os
import socket
import struct
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")
OPEN = Path("/proc/self/fd")
TCP_INFO = 11  # of Linux; its bytes_received, notsent_bytes and bytes_sent stand at
RECEIVED, UNSENT, SENT = (("Q", 128), ("I", 144), ("Q", 200))


class Bytes(NamedTuple):
    """Bytes that went over connections, up from this process and down to it."""

    up: int
    down: int


def connections() -> frozenset[int]:
    """The descriptors of this process's TCP connections; none where the system does not list them.

    Those that a call opens are those after it less those before it.
    """
    if not OPEN.is_dir():
        return frozenset()
    numbers = [int(entry.name) for entry in OPEN.iterdir()]
    return frozenset(number for number in numbers if _info(number) is not None)


def counted(descriptors: Collection[int]) -> Bytes:
    """What went over these connections so far, headers of TCP and IP left out; 0: not known."""
    up = down = 0
    for number in descriptors:
        info = _info(number)
        if info is not None:
            up += _field(info, SENT) + _field(info, UNSENT)
            down += _field(info, RECEIVED)
    return Bytes(up, down)


class Meter:
    """What went over the connections of one group after another."""

    def __init__(self) -> None:
        """None so far."""
        self._before = self._last = Bytes(0, 0)
        self._own: frozenset[int] = frozenset()

    def opening(self, meet: Callable[[], T]) -> T:
        """What `meet` returns; the connections that it opens are those that count from now on."""
        self._before, self._own = self._last, frozenset()
        before = connections()
        met = meet()
        self._own = connections() - before
        return met

    def bytes(self) -> Bytes:
        """What went over them so far; of a group that is left, until it was asked for last."""
        now = counted(self._own)
        self._last = Bytes(self._before.up + now.up, self._before.down + now.down)
        return self._last


def _info(number: int) -> bytes | None:
    """`struct tcp_info` of a connection; None of anything else that is open."""
    with suppress(OSError):
        own = os.dup(number)
        try:
            end = socket.socket(fileno=own)
        except OSError:  # no socket: nobody else closes it
            os.close(own)
            raise
        with end:
            end.getpeername()  # one that listens has none
            info = end.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 256)
            return info if len(info) >= SENT[1] + 8 else None
    return None


def _field(info: bytes, field: tuple[str, int]) -> int:
    (value,) = struct.unpack_from(field[0], info, field[1])
    return int(value)
