"""The kernel's count of connections, against what was sent."""

import socket
import sys

import pytest

from subnetwork.runtime.direct.sockets import Bytes, connections, counted


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts bytes of a connection")
def test_bytes_of_a_connection_are_those_that_were_sent_over_it():
    before = connections()
    with socket.create_server(("127.0.0.1", 0)) as door:
        assert connections() == before  # a socket that listens is no connection
        near = socket.create_connection(door.getsockname())
        far, _ = door.accept()
        with near, far:
            opened = connections() - before
            assert opened == {near.fileno(), far.fileno()}
            near.sendall(b"x" * 70_000)
            far.sendall(b"y" * 3)
            assert len(far.recv(70_000, socket.MSG_WAITALL)) == 70_000
            assert near.recv(3) == b"yyy"
            assert counted({near.fileno()}) == Bytes(70_000, 3)
            assert counted(opened) == Bytes(70_003, 70_003)
    assert connections() == before
    assert counted(opened) == Bytes(0, 0)
