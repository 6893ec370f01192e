"""What a link does, measured by sockets: `probe.py serve` in one host, the rest in another."""

import json
import socket
import sys
import time

PORT = 5201


def serve():
    """Echo datagrams, swallow streams; a stream is answered with one byte when it has ended."""
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind(("", PORT))
    stream = socket.create_server(("", PORT))
    if "ping" in sys.argv[2:]:
        while True:
            echo.sendto(*echo.recvfrom(2000))
    while True:
        connection, _ = stream.accept()
        while connection.recv(1 << 20):
            pass
        connection.sendall(b".")
        connection.close()


def ping(address, times):
    """Seconds there and back, of each of a few datagrams."""
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.settimeout(2)
    spans = []
    for _ in range(times):
        started = time.perf_counter()
        out.sendto(b"x", (address, PORT))
        out.recv(10)
        spans.append(time.perf_counter() - started)
    return spans


def send(address, n_bytes):
    """Seconds until a stream of so many bytes has arrived and been confirmed."""
    out = socket.create_connection((address, PORT), timeout=10)
    started = time.perf_counter()
    out.sendall(bytes(n_bytes))
    out.shutdown(socket.SHUT_WR)
    assert out.recv(1) == b"."
    return time.perf_counter() - started


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "serve":
        serve()
    else:
        json.dump({"ping": ping, "send": send}[what](rest[0], int(rest[1])), sys.stdout)
