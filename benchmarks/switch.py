"""The processes behind `net.py`: one holds a network namespace, one passes packets between them.

Both are started in a new namespace by `unshare --net`, live as long as their standard input is
open, and leave nothing: a namespace without processes is removed by the kernel, devices included.
Only the standard library; never started by hand.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import select
import signal
import struct
import sys
import time
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
ADDRESS = 19  # place of the last byte of an IPv4 destination
LARGEST = 65536
SETTINGS = (
    ("ipv6/conf/all/disable_ipv6", "1"),  # it announces itself: bytes that nobody asked for
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/tcp_rmem", "4096 131072 67108864"),  # the link is the limit, not the buffers of TCP
    ("ipv4/tcp_wmem", "4096 131072 67108864"),
    ("ipv4/tcp_congestion_control", "reno"),  # BBR stops for 0.2 s where a ping takes no time
    ("ipv4/tcp_congestion_control", "cubic"),  # what most systems have, where it is allowed
)
QUIET = 0.1  # seconds without a process before a namespace counts as empty


def hold() -> None:
    """Keep this namespace; when standard input ends, end every process that is in it."""
    for name, value in SETTINGS:
        with contextlib.suppress(OSError):
            (Path("/proc/sys/net") / name).write_text(value)
    print("ready", flush=True)
    alive = _Alive()
    while alive(0.5):
        pass
    here, quiet_since = _namespace("self"), time.monotonic()
    while time.monotonic() - quiet_since < QUIET:
        for process in Path("/proc").iterdir():
            inside = process.name.isdigit() and int(process.name) != os.getpid()
            if inside and _namespace(process.name) == here:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)
                quiet_since = time.monotonic()
        time.sleep(0.01)


def _namespace(process: str) -> str | None:
    try:
        return os.readlink(f"/proc/{process}/ns/net")  # noqa: PTH115 - not a path of files
    except OSError:
        return None


class _Alive:
    """Whether the parent still wants this process: its pipe is open, and it is our parent."""

    def __init__(self) -> None:
        self.parent = os.getppid()

    def __call__(self, wait: float) -> bool:
        ended = select.select([sys.stdin], [], [], wait)[0]
        return not ended and os.getppid() == self.parent


class Switch:
    """Packets between TUN devices, each through its sender's up-link and receiver's down-link.

    A packet occupies the up-link for its length over the rate, travels for the delay, and occupies
    the down-link as long again, while the next one is on the up-link. A full up-link leaves packets
    in the sender's device, a full down-link drops them.
    """

    def __init__(self, devices: list[int], rate: float, delay: float, mtu: int) -> None:
        self.devices, self.rate, self.delay = devices, rate, delay
        self.port = {device: i for i, device in enumerate(devices)}
        self.backlog = 64 * mtu * 8 / rate + 4 * delay + 0.05  # seconds of packets that may wait
        self.up = [0.0] * len(devices)  # when each up-link is free again
        self.down = [0.0] * len(devices)
        self.flying: list[tuple[float, int, int, bytes]] = []  # (due, order, receiver, packet)
        self.order = itertools.count()

    def step(self, longest: float) -> None:
        """Deliver what is due, take in what was sent; wait at most `longest` seconds."""
        now = time.monotonic()
        while self.flying and self.flying[0][0] <= now:
            _, _, receiver, packet = heapq.heappop(self.flying)
            with contextlib.suppress(OSError):  # its link is down: the packet is lost
                os.write(self.devices[receiver], packet)
        free = [d for i, d in enumerate(self.devices) if self.up[i] - now <= self.backlog]
        wake = now + longest if len(free) == len(self.devices) else now + self.backlog / 8
        wake = min(wake, self.flying[0][0]) if self.flying else wake
        for device in select.select(free, [], [], max(0.0, wake - now))[0]:
            self.take(device)

    def take(self, device: int) -> None:
        """Send what waits in a device on its way."""
        sender, now = self.port[device], time.monotonic()
        for _ in range(16):
            if self.up[sender] - now > self.backlog:
                return
            try:
                packet = os.read(device, LARGEST)
            except BlockingIOError:
                return
            receiver = packet[ADDRESS] - 1 if len(packet) > ADDRESS and packet[0] >> 4 == 4 else -1
            if not 0 <= receiver < len(self.devices):
                continue
            span = len(packet) * 8 / self.rate
            self.up[sender] = max(now, self.up[sender]) + span
            arrives = self.up[sender] + self.delay
            if self.down[receiver] - arrives <= self.backlog:
                self.down[receiver] = max(arrives, self.down[receiver] + span)
                entry = (self.down[receiver], next(self.order), receiver, packet)
                heapq.heappush(self.flying, entry)


def switch(n_hosts: int, rate: float, delay: float, mtu: int) -> None:
    """Make a TUN device a host, wait until they are moved to their hosts, then pass packets."""
    devices = [_device(f"snet-t{i}") for i in range(n_hosts)]
    print("ready", flush=True)
    alive, passing = _Alive(), Switch(devices, rate, delay, mtu)
    checked = time.monotonic()
    while time.monotonic() - checked < 0.25 or alive(0.0):
        if time.monotonic() - checked >= 0.25:
            checked = time.monotonic()
        passing.step(0.1)


def _device(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        hold()
    else:
        switch(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
