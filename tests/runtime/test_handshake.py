"""Who may take part: the promises of SECURITY.md about joining, each seen to hold."""

import os
import socket
import stat
import threading
import time

import pytest

from subnetwork.runtime import handshake
from subnetwork.runtime.handshake import (
    AT_ONCE,
    NONCE,
    Listener,
    connect,
    read_secret,
    secret_of_environment,
    write_secret,
)
from subnetwork.runtime.torchrun import place_under_torchrun
from subnetwork.runtime.wire import Header, Verb

SECRET, OTHER = b"s" * NONCE, b"o" * NONCE


@pytest.fixture
def listener():
    listener = Listener(2, SECRET)
    yield listener
    listener.close()


def soon(listener, worker):
    deadline = time.monotonic() + 5
    while (link := listener.arrived(worker)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return link


def port_of(listener):
    return int(listener.address.split()[1])


def test_who_knows_the_secret_gets_a_link_to_the_seat_it_names(listener):
    theirs = connect(listener.address, 1, SECRET)
    ours = soon(listener, 1)
    theirs.send(Header(Verb.READY), until=time.monotonic() + 5)
    assert ours.receive_header(until=time.monotonic() + 5).verb == Verb.READY
    assert listener.arrived(0) is None
    ours.close()
    theirs.close()


def test_it_listens_on_the_loopback_interface_alone(listener):
    assert listener.address.startswith("127.0.0.1 ")


def test_the_newest_incarnation_of_a_worker_is_the_worker(listener):
    links = [connect(listener.address, 0, SECRET) for _ in range(2)]
    time.sleep(0.2)
    ours = soon(listener, 0)
    with pytest.raises(ConnectionError):
        links[0].receive_header(until=time.monotonic() + 5)
    links[1].send(Header(Verb.READY), until=time.monotonic() + 5)
    assert ours.receive_header(until=time.monotonic() + 5).verb == Verb.READY
    for link in (ours, *links):
        link.close()


def test_an_error_of_one_connection_is_not_the_end_of_the_listener(listener):
    """accept(2) reports what has become of a connection, such as that its network is down."""

    class Fails:
        def __init__(self, real):
            self.real, self.errors = real, 3

        def accept(self):
            self.errors -= 1
            if self.errors >= 0:
                raise OSError("Network is down")
            return self.real.accept()

        def __getattr__(self, name):
            return getattr(self.real, name)

    listener._socket = Fails(listener._socket)
    for _ in range(2):
        theirs = connect(listener.address, 1, SECRET)
        soon(listener, 1).close()
        theirs.close()
    assert listener._socket.errors < 0


@pytest.mark.parametrize("worker", [0, 2, 2**63])
def test_a_stranger_without_the_secret_or_without_a_seat_is_turned_away(listener, worker):
    secret = OTHER if worker == 0 else SECRET
    with pytest.raises(ConnectionError, match="turned away by 127.0.0.1"):
        connect(listener.address, worker, secret)
    assert listener.arrived(0) is None


def test_a_worker_does_not_believe_a_coordinator_without_the_secret():
    server = socket.create_server(("127.0.0.1", 0))

    def pretend():
        connection, _ = server.accept()
        connection.sendall(b"n" * NONCE)
        connection.recv(1000)
        connection.sendall(b"p" * NONCE)
        connection.close()

    thread = threading.Thread(target=pretend)
    thread.start()
    with pytest.raises(ConnectionError, match="does not know the run's secret"):
        connect(f"127.0.0.1 {server.getsockname()[1]}", 0, SECRET)
    thread.join()
    server.close()


def test_what_was_overheard_once_opens_nothing(listener):
    """A proof is bound to the nonces of its own connection."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as relay:

        def pass_on():
            client, _ = relay.accept()
            server = socket.create_connection(("127.0.0.1", port_of(listener)))
            client.sendall(server.recv(NONCE))
            heard.append(client.recv(1000))
            server.sendall(heard[0])
            client.sendall(server.recv(NONCE))
            server.close()
            client.close()

        thread = threading.Thread(target=pass_on)
        thread.start()
        connect(f"127.0.0.1 {relay.getsockname()[1]}", 0, SECRET).close()
        thread.join()
    soon(listener, 0).close()
    with socket.create_connection(("127.0.0.1", port_of(listener))) as stranger:
        stranger.settimeout(5)
        stranger.recv(NONCE)
        stranger.sendall(heard[0])
        assert stranger.recv(NONCE) == b""
    assert listener.arrived(0) is None


def test_silent_and_noisy_strangers_keep_nobody_out(listener):
    strangers = []
    for number in range(AT_ONCE - 1):
        stranger = socket.create_connection(("127.0.0.1", port_of(listener)))
        if number % 2:
            stranger.sendall(os.urandom(1000))
        strangers.append(stranger)
    link = connect(listener.address, 1, SECRET)
    ours = soon(listener, 1)
    assert ours is not None
    for end in (link, ours, *strangers):
        end.close()


@pytest.mark.parametrize("said", [b"", b"a few bytes"])
def test_who_does_not_prove_itself_in_five_seconds_is_turned_away(listener, said, monkeypatch):
    assert handshake.HANDSHAKE == 5.0
    monkeypatch.setattr(handshake, "HANDSHAKE", 0.2)
    with socket.create_connection(("127.0.0.1", port_of(listener)), timeout=4.0) as stranger:
        stranger.sendall(said)
        began = time.monotonic()
        heard = b""
        while more := stranger.recv(100):
            heard += more
        assert 0.1 < time.monotonic() - began < 4.0
    assert len(heard) == NONCE, "it learns a nonce, and nothing else"


def test_the_secret_lies_in_a_file_of_this_user_alone(tmp_path):
    tmp_path.chmod(0o700)
    secret = write_secret(tmp_path)
    assert len(secret) == 32
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert read_secret(tmp_path) == secret
    for place, mode in ((tmp_path, 0o755), (tmp_path / "secret", 0o640)):
        before = place.stat().st_mode
        place.chmod(mode)
        with pytest.raises(PermissionError, match="is not this user's alone"):
            read_secret(tmp_path)
        place.chmod(before)


def test_a_link_in_the_place_of_the_secret_is_not_followed(tmp_path):
    """Whoever may change a link would have the folder that was looked at be another one."""
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir(mode=0o700)
        write_secret(folder)
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(OSError, match="link"):
        read_secret(tmp_path / "link")
    (own / "secret").unlink()
    (own / "secret").symlink_to(other / "secret")
    with pytest.raises(OSError, match="secret"):
        read_secret(own)
    (other / "secret").write_bytes(b"short")
    with pytest.raises(PermissionError, match="holds no secret"):
        read_secret(other)


def test_a_secret_of_the_environment_has_64_digits(monkeypatch):
    monkeypatch.delenv("SUBNETWORK_SECRET", raising=False)
    assert secret_of_environment() is None
    monkeypatch.setenv("SUBNETWORK_SECRET", "ab" * 32)
    assert secret_of_environment() == b"\xab" * 32
    for digits in ("ab" * 31, "xy" * 32, ""):
        monkeypatch.setenv("SUBNETWORK_SECRET", digits)
        with pytest.raises(ValueError, match=rf"holds {len(digits)} characters, not 64"):
            secret_of_environment()


def test_several_hosts_need_a_host_and_a_secret(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv("SUBNETWORK_SECRET", raising=False)
    with pytest.raises(ValueError, match="Give the address of rank 0's host with --host"):
        place_under_torchrun()
    with pytest.raises(ValueError, match="SUBNETWORK_SECRET is not set"):
        place_under_torchrun("10.0.0.1")
