"""Emulated links keep what they promise, and nothing of them remains."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

net = pytest.importorskip("net")

SCRIPT = Path(net.__file__)
PROBE = str(Path(__file__).parent / "probe.py")


def missing():
    try:
        with net.network(1):
            return None
    except net.CannotEmulateError as reason:
        return str(reason)


MISSING = missing()
needs_rights = pytest.mark.skipif(MISSING is not None, reason=f"no emulated networks: {MISSING}")


def skip_without(via):
    if via == "netem" and not net.has_netem():
        pytest.skip("this kernel has no netem")
    if via == "switch" and not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("there is no /dev/net/tun to write to")


def listening(host, *more):
    """Start the probe's server; wait until it answers."""
    host.start([sys.executable, PROBE, "serve", *more])
    sockets = Path(f"/proc/{host.holder}/net/udp")
    deadline = time.monotonic() + 10
    while f":{5201:04X}" not in sockets.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def asked(host, *arguments):
    probe = host.start([sys.executable, PROBE, *arguments], stdout=subprocess.PIPE)
    return json.loads(probe.communicate(timeout=30)[0])


def at_rest(*hosts):
    """Their counters, read when no packet is on its way (a host greets the network by itself)."""
    read, still = None, 0
    for _ in range(200):
        still = still + 1 if read == (read := [host.traffic() for host in hosts]) else 0
        if still == 5:  # a busy machine may leave a packet lying for longer than one look
            break
        time.sleep(0.1)
    return read


@needs_rights
@pytest.mark.parametrize(
    ("via", "rate", "delay"),
    [("tbf", 2e7, 0), ("tbf", 1e8, 0), ("switch", 1e8, 0.02), ("netem", 1e8, 0.02)],
)
def test_a_stream_takes_the_rate_within_5_percent(via, rate, delay):
    skip_without(via)
    with net.network(2, net.Link(rate, delay), via=via) as (server, sender):
        listening(server)
        sender.start([sys.executable, PROBE, "send", server.address, str(int(rate))])
        time.sleep(0.8)  # slow start is over
        before, started = server.traffic(), time.perf_counter()
        time.sleep(1)
        span = time.perf_counter() - started
        got = server.traffic() - before
    assert got.received * 8 / span == pytest.approx(rate, rel=0.05)


@needs_rights
def test_hosts_have_the_tcp_that_most_systems_have_whatever_this_machine_has():
    """BBR, which some machines have, stops for 0.2 s now and then where a ping takes no time."""
    setting = "/proc/sys/net/ipv4/tcp_congestion_control"
    with net.network(1, net.Link(1e8)) as (host,):
        reading = host.start(["cat", setting], stdout=subprocess.PIPE)
        assert reading.communicate(timeout=10)[0].strip() in {"cubic", "reno"}


@needs_rights
@pytest.mark.parametrize("via", ["switch", "netem"])
@pytest.mark.parametrize("delay", [0.005, 0.02])
def test_a_ping_takes_twice_the_delay_within_2_ms(via, delay):
    skip_without(via)
    with net.network(3, net.Link(1e8, delay), via=via) as (server, _, other):
        listening(server, "ping")
        spans = sorted(asked(other, "ping", server.address, "11"))
    assert spans[5] == pytest.approx(2 * delay, abs=2e-3)


@needs_rights
@pytest.mark.parametrize("via", ["tbf", "switch"])
def test_the_counters_count_each_byte_once_on_both_sides(via):
    skip_without(via)
    with net.network(2, net.Link(1e8), via=via) as (server, sender):
        listening(server)
        before = at_rest(server, sender)
        asked(sender, "send", server.address, "1000000")
        after = at_rest(server, sender)
    received, sent = (now - then for now, then in zip(after, before, strict=True))
    assert 1_000_000 < sent.sent < 1_070_000
    few = 1000  # bytes: packets without content that one side had counted already, or not yet
    assert abs(received.received - sent.sent) < few
    assert abs(received.sent - sent.received) < few


@needs_rights
def test_up_and_down_links_are_apart_and_limited_each():
    """Two senders share the receiver's link; their own links are half empty."""
    with net.network(3, net.Link(4e7)) as (server, *senders):
        listening(server)
        for sender in senders:
            sender.start([sys.executable, PROBE, "send", server.address, "8000000"])
        time.sleep(0.5)
        before, started = [h.traffic() for h in (server, *senders)], time.perf_counter()
        time.sleep(0.8)
        span = time.perf_counter() - started
        pairs = zip((server, *senders), before, strict=True)
        moved = [host.traffic() - earlier for host, earlier in pairs]
    assert moved[0].received * 8 / span == pytest.approx(4e7, rel=0.07)
    assert moved[1].sent + moved[2].sent == pytest.approx(moved[0].received, rel=0.1)


@needs_rights
@pytest.mark.parametrize("via", ["tbf", "switch"])
def test_a_host_is_cut_off_and_comes_back(via):
    skip_without(via)
    with net.network(2, via=via) as (server, other):
        listening(server, "ping")
        ping = [sys.executable, PROBE, "ping", server.address, "1"]
        assert other.start(ping, stdout=subprocess.DEVNULL).wait(10) == 0
        server.down()
        cut = other.start(ping, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert cut.wait(10) != 0
        server.up()
        assert other.start(ping, stdout=subprocess.DEVNULL).wait(10) == 0


def gone(pids, within):
    """Whether processes end in time."""
    deadline = time.monotonic() + within
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def children(pid):
    tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in tasks] + [g for child in tasks for g in children(int(child))]


@needs_rights
@pytest.mark.parametrize(
    ("rate", "sent", "status"),
    [
        (["--delay", "1ms"], signal.SIGINT, 130),
        (["--rate", "1mbit"], signal.SIGTERM, 130),
        (["--delay", "1ms"], signal.SIGKILL, -9),
        (["--rate", "1mbit"], signal.SIGKILL, -9),
    ],
)
def test_nothing_remains_however_it_ends(rate, sent, status, tmp_path):
    """Not even a grandchild in a session of its own that ignores all it can ignore."""
    links = subprocess.check_output(["ip", "-o", "link"], text=True)
    stubborn = "setsid sh -c 'trap \"\" INT TERM HUP; echo $$ > child{host}; sleep 60; sleep 60'"
    command = ["sh", "-c", stubborn + " & exec sleep 60"]
    run = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--hosts", "2", *rate, "--", *command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while len([p for p in tmp_path.glob("child*") if p.stat().st_size]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pids = children(run.pid) + [int(p.read_text()) for p in tmp_path.glob("child*")]
    assert len(set(pids)) > 6
    run.send_signal(sent)
    assert run.wait(60) == status
    assert gone(pids, within=5)
    assert subprocess.check_output(["ip", "-o", "link"], text=True) == links
    if status == 130:
        assert run.stderr.read() == "net: interrupted; the network is removed\n"
    run.stderr.close()


def command(*arguments, prefix=(), **environment):
    return subprocess.run(
        [*prefix, sys.executable, str(SCRIPT), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )


@needs_rights
def test_the_command_runs_everywhere_and_says_who_failed():
    told = command("--hosts", "3", "--", "sh", "-c", "echo {host} $RANK $WORLD_SIZE {address}")
    assert sorted(told.stdout.splitlines()) == [f"{i} {i} 3 10.177.0.{i + 1}" for i in range(3)]
    assert (told.returncode, told.stderr) == (0, "")
    started = time.monotonic()
    failed = command("--hosts", "2", "--", "sh", "-c", "test {host} = 0 && sleep 60; exit 7")
    assert failed.returncode == 7
    assert failed.stderr == "net: the command in host 1 left with 7\n"
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "100mb", "--", "true"], "'100mb' is not a rate. Write a positive number"),
        (["--delay", "20", "--", "true"], "'20' is not a time"),
        (["--hosts", "0", "--", "true"], "There are 1 to 254 hosts, not 0"),
        (["--rate", "5bit", "--", "true"], "at least 8000 bit/s, not 5"),
        (["--mtu", "9", "--", "true"], "An MTU is between"),
        ([], "there is no command"),
    ],
)
def test_a_mistake_costs_one_line_and_status_2(arguments, message):
    result = command(*arguments)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("net: ")
    assert message in result.stderr


def test_without_the_tools_it_says_what_to_install(tmp_path):
    result = command("--", "true", PATH=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr == (
        "net: there is no command 'ip' here. Install iproute2: apt-get install iproute2\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights, so it has to have them")
def test_without_the_rights_it_says_so_in_one_line():
    """Root without CAP_SYS_ADMIN, as in most containers."""
    dropped = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    result = command("--", "true", prefix=dropped)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "no right to make network namespaces" in result.stderr
    assert "unshare --user" in result.stderr
