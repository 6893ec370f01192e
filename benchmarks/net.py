"""Hosts on one machine, each in a network namespace, over links of a chosen rate and delay.

    python benchmarks/net.py --hosts 4 --rate 100mbit --delay 20ms -- command {host}

Needs Linux, root (or `unshare --user --map-root-user`), iproute2 and util-linux. See README.md
beside this file.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from subnetwork.cli.quantities import bits_per_second, seconds

HELPER = Path(__file__).parent / "switch.py"
DEVICE = "snet0"  # of every host
BRIDGE, PORT, TUN = "snet-bridge", "snet-v", "snet-t"
SUBNET = "10.177.0"
MOST_HOSTS = 254
ETHERNET_MTU = 1500
ONE_BY_ONE = 2e8
"""Up to this rate packets are sent as they are on a cable. Above it the kernel hands dozens of them
on at once, and one header is counted for all: the counters are then about 4 % lower."""
INTERRUPTED = 130


class CannotEmulateError(ValueError):
    """This machine or this user cannot have such a network; says what is missing."""


@dataclass(frozen=True)
class Link:
    """What lies between a host and the switch, in each direction."""

    rate: float | None = None  # bits per second; None: as fast as the machine is
    delay: float = 0.0  # seconds from any host to any other: half of a ping
    mtu: int | None = None

    def __post_init__(self) -> None:
        slowest = 8000
        if self.rate is not None and self.rate < slowest:
            raise ValueError(f"A link has at least {slowest} bit/s, not {self.rate:g}.")
        if not 0 <= self.delay <= 10:
            raise ValueError(f"A delay is between 0 and 10 s, not {self.delay:g} s.")
        if self.mtu is not None and not 576 <= self.mtu <= 65000:
            raise ValueError(f"An MTU is between 576 and 65000 bytes, not {self.mtu}.")


@dataclass(frozen=True)
class Traffic:
    """Bytes that an interface counted, headers included."""

    received: int
    sent: int

    def __sub__(self, earlier: "Traffic") -> "Traffic":
        return Traffic(self.received - earlier.received, self.sent - earlier.sent)


@dataclass(frozen=True)
class Host:
    """One host: a namespace with a loopback and one interface, `DEVICE`."""

    number: int
    address: str
    holder: int  # process that keeps the namespace
    environment: Mapping[str, str]
    started: list["subprocess.Popen[str]"] = field(default_factory=list, repr=False)

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> "subprocess.Popen[str]":
        """Start a command in this host. It is ended with the network, and so are its children."""
        process = subprocess.Popen(
            [*self._inside(), *command],
            env={**os.environ, **self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )
        self.started.append(process)
        return process

    def traffic(self) -> Traffic:
        """What the kernel has counted on the host's interface so far."""
        for line in Path(f"/proc/{self.holder}/net/dev").read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == DEVICE:
                fields = counters.split()
                return Traffic(int(fields[0]), int(fields[8]))
        raise CannotEmulateError(f"host {self.number} has lost its interface {DEVICE}")

    def down(self) -> None:
        """Cut the host off: its link goes down, open connections stall."""
        _run([*self._inside(), "ip", "link", "set", DEVICE, "down"])

    def up(self) -> None:
        """Bring the link back."""
        _run([*self._inside(), "ip", "link", "set", DEVICE, "up"])

    def _inside(self) -> list[str]:
        return _in(self.holder)


@contextmanager
def network(n_hosts: int, link: Link = Link(), *, via: str | None = None) -> Iterator[list[Host]]:
    """Hosts 0 .. n-1 at 10.177.0.1 .. n, each of which reaches all others.

    Nothing of it has a name outside: namespaces are held by processes that end with this one,
    however it ends. Whatever runs in a host when the block is left is killed.

    Args:
        n_hosts: how many.
        link: of every host, up and down.
        via: ``tbf`` (kernel, rate only), ``netem`` (kernel, delay) or ``switch`` (user space); None
            takes the kernel where it can.

    Raises:
        CannotEmulateError: without the rights, the tools or the devices.
    """
    if not 1 <= n_hosts <= MOST_HOSTS:
        raise ValueError(f"There are 1 to {MOST_HOSTS} hosts, not {n_hosts}.")
    _check_tools()
    via = via or ("tbf" if not link.delay else "netem" if has_netem() else "switch")
    mtu = link.mtu or (_switch_mtu(link) if via == "switch" else ETHERNET_MTU)
    centre = ["hold"]
    if via == "switch":
        centre = ["switch", *map(str, (n_hosts, link.rate or 1e12, link.delay, mtu))]
    with _namespaces(centre, *[["hold"]] * n_hosts) as (middle, *holders):
        if via == "switch":
            _move_tuns(middle, holders, mtu)
        else:
            _wire(middle, holders, Link(link.rate, link.delay, mtu), via)
        hosts = [_host(i, holder) for i, holder in enumerate(holders)]
        try:
            yield hosts
        finally:
            _end([process for host in hosts for process in host.started])


def has_netem() -> bool:
    """Whether this kernel delays packets by itself."""
    _check_tools()
    with _namespaces(["hold"]) as (holder,):
        command = [*_in(holder), "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _host(number: int, holder: int) -> Host:
    environment = {
        "RANK": str(number),
        "MASTER_ADDR": f"{SUBNET}.1",
        "GLOO_SOCKET_IFNAME": DEVICE,
        "TP_SOCKET_IFNAME": DEVICE,
    }
    return Host(number, f"{SUBNET}.{number + 1}", holder, environment)


@contextmanager
def _namespaces(*helpers: Sequence[str]) -> Iterator[list[int]]:
    """Process ids of helpers, each in a new network namespace; they end when their pipes close."""
    started: list[subprocess.Popen[str]] = []
    try:
        started += [_helper(arguments) for arguments in helpers]
        for process in started:
            if _read(process.stdout) != "ready\n":
                lines = _read(process.stderr, whole=True).strip().splitlines()
                raise CannotEmulateError(_advice(lines[-1] if lines else "it ended at once"))
        yield [process.pid for process in started]
    finally:
        for process in started:
            _close(process.stdin)
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        _end(started)


def _helper(arguments: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["unshare", "--net", sys.executable, "-I", "-S", str(HELPER), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _read(pipe: IO[str] | None, *, whole: bool = False) -> str:
    assert pipe is not None
    return pipe.read() if whole else pipe.readline()


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        pipe.close()


def _wire(centre: int, holders: Sequence[int], link: Link, via: str) -> None:
    """A bridge, a veth pair a host, a token bucket at both of its ends."""
    mtu = str(link.mtu)
    _ip(centre, "link", "add", BRIDGE, "mtu", mtu, "type", "bridge")
    _ip(centre, "link", "set", BRIDGE, "up")
    for i, holder in enumerate(holders):
        port = f"{PORT}{i}"
        peer = ["type", "veth", "peer", "name", DEVICE, "netns", str(holder)]
        _ip(centre, "link", "add", port, "mtu", mtu, *peer)
        _ip(centre, "link", "set", port, "master", BRIDGE, "up")
        _address(i, holder, mtu)
        _shape(holder, DEVICE, link, via)
        _shape(centre, port, Link(link.rate, 0.0, link.mtu), via)


def _shape(process: int, device: str, link: Link, via: str) -> None:
    """Limit what leaves a device to the rate, after the delay."""
    tc, handle = [*_in(process), "tc", "qdisc", "add", "dev", device], ["root"]
    if link.rate:
        waiting = max(int(link.rate / 8 * (0.2 + 2 * link.delay)), 400_000)
        burst = max(int(link.rate / 8 * 0.002), 2 * (link.mtu or ETHERNET_MTU))
        bucket = ["rate", f"{link.rate:.0f}bit", "burst", str(burst), "limit", str(waiting)]
        _run([*tc, "root", "handle", "1:", "tbf", *bucket])
        handle = ["parent", "1:1"]
        if link.rate <= ONE_BY_ONE:
            _ip(process, "link", "set", device, "gso_max_segs", "1")
    if link.delay and via == "netem":
        delay = ["delay", f"{link.delay * 1e6:.0f}us", "limit", "100000"]
        _run([*tc, *handle, "handle", "10:", "netem", *delay])


def _move_tuns(centre: int, holders: Sequence[int], mtu: int) -> None:
    for i, holder in enumerate(holders):
        _ip(centre, "link", "set", f"{TUN}{i}", "netns", str(holder))
        _ip(holder, "link", "set", f"{TUN}{i}", "name", DEVICE)
        _ip(holder, "link", "set", DEVICE, "mtu", str(mtu), "txqueuelen", "2000")
        _address(i, holder, str(mtu))


def _address(number: int, holder: int, mtu: str) -> None:
    _ip(holder, "addr", "add", f"{SUBNET}.{number + 1}/24", "dev", DEVICE)
    _ip(holder, "link", "set", DEVICE, "mtu", mtu, "up")
    _ip(holder, "link", "set", "lo", "up")


def _switch_mtu(link: Link) -> int:
    """About 0.7 ms of the rate a packet: user space cannot pass small ones quickly enough."""
    return min(64000, max(ETHERNET_MTU, int((link.rate or 1e12) / 8 * 0.0007)))


def _in(process: int) -> list[str]:
    return ["nsenter", f"--net=/proc/{process}/ns/net"]


def _ip(process: int, *arguments: str) -> None:
    _run([*_in(process), "ip", *arguments])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise CannotEmulateError(_advice(f"{' '.join(command[2:])}: {done.stderr.strip()}"))


def _check_tools() -> None:
    if sys.platform != "linux":
        raise CannotEmulateError("network namespaces are Linux's; this is " + sys.platform)
    tools = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
    for tool, package in tools.items():
        if shutil.which(tool) is None:
            raise CannotEmulateError(
                f"there is no command {tool!r} here. Install {package}: apt-get install {package}"
            )


def _advice(reason: str) -> str:
    if "not permitted" in reason or "ermission" in reason:
        return (
            f"no right to make network namespaces ({reason}). Run as root, or under: unshare "
            "--user --map-root-user --net"
        )
    return f"cannot make the network: {reason}"


def run_everywhere(hosts: Sequence[Host], command: Sequence[str]) -> int:
    """Run a command in every host; {host}, {hosts} and {address} are filled in.

    When one fails or this process is interrupted, the others are told to end. Returns 0, or the
    status of the first that failed.
    """
    running = []
    for host in hosts:
        words = {"{host}": str(host.number), "{address}": host.address, "{hosts}": str(len(hosts))}
        filled = [_filled(word, words) for word in command]
        running.append(host.start(filled, environment={"WORLD_SIZE": str(len(hosts))}))
    try:
        while any(process.poll() is None for process in running):
            failed = [i for i, process in enumerate(running) if process.poll()]
            if failed:
                status = running[failed[0]].returncode
                how = f"was ended by signal {-status}" if status < 0 else f"left with {status}"
                print(f"net: the command in host {failed[0]} {how}", file=sys.stderr)
                return status if status > 0 else 128 - status
            time.sleep(0.02)
    finally:
        _tell_to_end(running)
    return max(process.returncode for process in running)


def _end(processes: Sequence["subprocess.Popen[str]"]) -> None:
    """Kill what was started; its descendants are for the holders."""
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            _close(pipe)


def _filled(word: str, words: Mapping[str, str]) -> str:
    for name, value in words.items():
        word = word.replace(name, value)
    return word


def _tell_to_end(running: Sequence["subprocess.Popen[str]"]) -> None:
    for process in running:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + 3
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))


def main() -> int:
    """Run one command in every host; the exit status is the first one that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--rate", help="of every link and direction, such as 100mbit")
    parser.add_argument("--delay", help="from any host to any other, such as 20ms: half a ping")
    parser.add_argument("--mtu", type=int, help="default 1500; larger for the userspace switch")
    parser.add_argument("--via", choices=["tbf", "netem", "switch"], help="default: what works")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND {host} {address}")
    asked = parser.parse_args()
    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    for ends in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell ignores SIGINT behind &
        signal.signal(ends, signal.default_int_handler)
    try:
        if not command:
            raise ValueError("there is no command. Write one after --, such as -- ip addr")
        rate = bits_per_second(asked.rate) if asked.rate else None
        link = Link(rate, seconds(asked.delay) if asked.delay else 0.0, asked.mtu)
        with network(asked.hosts, link, via=asked.via) as hosts:
            return run_everywhere(hosts, command)
    except ValueError as mistake:
        print(f"net: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("net: interrupted; the network is removed", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
