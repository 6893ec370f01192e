"""A rank whose rank 0 is gone, with its host and torchrun's store, says so and leaves in time."""

import socket
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from subnetwork.algorithm import RunFailedError, WorkerLostError
from subnetwork.cli.handing import exchange_of, followed, say_exchange
from subnetwork.runtime import handshake, torchrun
from subnetwork.runtime.direct import Rank
from subnetwork.runtime.handshake import NONCE, Listener, connect, reconnecting
from subnetwork.runtime.serve import GONE
from subnetwork.runtime.torchrun import Place, place_under_torchrun

LOST = r"^rank 1 lost rank 0's store: see rank 0's own output for why\.$"
SECRET = b"s" * NONCE
linux = pytest.mark.skipif(sys.platform != "linux", reason="options and folders of Linux")


def tuned(end):
    """The options that a connection has, by name."""
    names = [name for name, _ in handshake.TUNED]
    return {n: end.getsockopt(socket.IPPROTO_TCP, getattr(socket, n)) for n in names}


def stores():
    """torchrun's store, and another process's end of it."""
    server = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    end = dist.TCPStore("127.0.0.1", server.port, 2, is_master=False, wait_for_workers=False)
    return server, end


@pytest.fixture
def rank_1(monkeypatch):
    """What torchrun says to rank 1 of one host; its store."""
    server = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    said = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a"}
    said |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port)}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    return server


@linux
def test_both_ends_of_a_link_give_up_what_is_not_acknowledged_for_half_a_minute():
    listener = Listener(1, SECRET)
    link = connect(listener.address, 0, SECRET)
    until = time.monotonic() + 5
    while (other := listener.arrived(0)) is None and time.monotonic() < until:
        time.sleep(0.01)
    for end in (link, other):
        assert tuned(end.socket) == dict(handshake.TUNED)
        assert tuned(end.socket)["TCP_USER_TIMEOUT"] == 30_000
        end.close()
    listener.close()


@linux
def test_the_stores_connection_gives_up_as_links_do(rank_1):
    place = place_under_torchrun()
    assert (place.rank, place.n_workers) == (1, 2)
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            with socket.fromfd(int(entry.name), socket.AF_INET, socket.SOCK_STREAM) as end:
                if end.getpeername()[1] == rank_1.port:
                    found.append(tuned(end))
        except OSError:
            continue
    assert dict(handshake.TUNED) in found, "beside that of the server itself"
    assert len(found) == 2


def test_who_had_a_link_asks_nobody_for_the_way_again():
    """The store that knew it may be gone with rank 0's host."""
    listener, asked = Listener(1, SECRET), []

    def find():
        asked.append("once")
        return listener.address, SECRET

    join = reconnecting(find, 0, 1.0)
    for _ in range(2):
        join().close()
    listener.close()
    began = time.monotonic()
    assert join() is None
    assert 0.9 < time.monotonic() - began < 2
    assert asked == ["once"]


def test_a_coordinator_that_is_not_there_yet_is_asked_for_again():
    addresses = iter(["127.0.0.1 1", None])
    listener = Listener(1, SECRET)
    link = reconnecting(lambda: (next(addresses) or listener.address, SECRET), 0, 5.0)()
    assert link is not None, "the second address is the coordinator's"
    assert next(addresses, "asked twice") == "asked twice"
    link.close()
    listener.close()


def test_no_longer_than_the_patience_is_spent_on_a_host_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1 {silent.getsockname()[1]}"
        began = time.monotonic()
        assert reconnecting(lambda: (address, SECRET), 0, 0.5)() is None
    assert 0.4 < time.monotonic() - began < 1.5


def test_a_rank_whose_rank_0_never_says_where_it_is_gives_up(monkeypatch):
    monkeypatch.setattr(torchrun, "JOIN", 0.3)
    server, end = stores()
    began = time.monotonic()
    with pytest.raises(WorkerLostError, match=LOST):
        Place(1, 2, dist.PrefixStore("a", end), None).serve(lambda _: None)
    assert time.monotonic() - began < 3
    del server


@pytest.mark.usefixtures("rank_1")
@pytest.mark.parametrize(
    "ask",
    [
        exchange_of,
        followed,
        lambda place: place.serve(lambda _: None),
        lambda place: place.secret(),
        lambda place: Rank(1, 2, place.store, None).job(),
        lambda place: Rank(1, 2, place.store, None, secret=bytes).job(),
    ],
)
def test_a_store_that_is_gone_is_named_in_one_line(ask):
    server, end = stores()
    del server
    with pytest.raises(WorkerLostError, match=LOST):
        ask(Place(1, 2, dist.PrefixStore("a", end), None))


def test_a_rank_that_had_a_link_leaves_with_status_3_when_store_and_coordinator_are_gone(
    monkeypatch,
):
    """As before, also where it has to find out by itself."""
    monkeypatch.setattr(torchrun, "JOIN", 0.5)
    server, end = stores()
    listener = Listener(2, SECRET)
    store = dist.PrefixStore("a", end)
    store.set("address", listener.address)
    monkeypatch.setenv("SUBNETWORK_SECRET", SECRET.hex())

    def gone(link, *_):
        nonlocal server
        server = None
        listener.close()
        link.close()
        return False

    monkeypatch.setattr(torchrun, "serve", gone)
    assert Place(1, 2, store, "127.0.0.1").serve(lambda _: None) == GONE


def test_ranks_that_are_started_again_uncounted_are_refused():
    """As torchrun does it under --nnodes MIN:MAX; where it counts, the keys are others."""
    store = dist.HashStore()
    first = Place(0, 2, dist.PrefixStore("subnetwork/0", store), None)
    say_exchange(first, "star")
    with pytest.raises(RunFailedError, match=r"--nnodes MIN:MAX.*one number of hosts, --nnodes N"):
        say_exchange(first, "star")
    say_exchange(Place(0, 2, dist.PrefixStore("subnetwork/1", store), None), "direct")
    assert exchange_of(first) == "star"
