"""How a worker gets its link: it connects, both ends prove that they know the run's secret.

Nothing of a run is sent to, or believed from, an end that has not proved it. The proof is an HMAC
over two fresh nonces, so that the secret itself never travels and nothing heard can be used again.
"""

import hashlib
import hmac
import os
import queue
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from subnetwork.runtime.wire import Link

LOOPBACK = "127.0.0.1"
SECRET = "SUBNETWORK_SECRET"  # in the environment: 64 hexadecimal digits
NONCE = 32  # bytes, of a nonce, of the secret and of a proof
HANDSHAKE = 5.0  # seconds that an end has to prove itself
CONNECTING = 20.0  # seconds for a connection and its proof
AT_ONCE = 64  # connections that may be proving themselves; more are turned away
_NUMBER = 8
TUNED = (  # where the system has them: seconds, times, and milliseconds
    ("TCP_KEEPIDLE", 10),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 4),
    ("TCP_USER_TIMEOUT", 30_000),
)


class Listener:
    """The coordinator's side: takes in workers that know the secret, whenever they come."""

    def __init__(self, n_workers: int, secret: bytes, *, host: str = LOOPBACK) -> None:
        assert len(secret) == NONCE
        self._secret = secret
        self._arrived: list[queue.SimpleQueue[Link]] = []
        self.admit(n_workers)
        self._lock = threading.Lock()
        self._closed = False
        self._proving: dict[socket.socket, threading.Thread] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family, backlog=256)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def address(self) -> str:
        """Where to connect to, as HOST PORT."""
        host, port = self._socket.getsockname()[:2]
        return f"{host} {port}"

    def admit(self, n_workers: int) -> None:
        """Take in so many workers from now on, if there were to be fewer."""
        while len(self._arrived) < n_workers:
            self._arrived.append(queue.SimpleQueue())

    def arrived(self, worker: int) -> Link | None:
        """The newest link of a worker that came since this was last asked, or None."""
        newest = None
        with suppress(queue.Empty):
            while True:
                link = self._arrived[worker].get_nowait()
                if newest is not None:
                    newest.close()
                newest = link
        return newest

    def close(self) -> None:
        """Take in nobody any more; whoever is proving itself is turned away."""
        with self._lock:
            self._closed = True
            proving = dict(self._proving)
        for end in (self._socket, *proving):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepting, *proving.values()):
            thread.join(timeout=1.0)
        self._socket.close()
        for worker in range(len(self._arrived)):
            link = self.arrived(worker)
            if link is not None:
                link.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.01)  # of one connection, not of the listener: accept(2)
                continue
            thread = threading.Thread(target=self._admit, args=(connection,), daemon=True)
            with self._lock:
                if self._closed or len(self._proving) >= AT_ONCE:
                    connection.close()
                    continue
                self._proving[connection] = thread
            try:
                thread.start()
            except RuntimeError:  # of no more threads; who is turned away comes again
                with self._lock:
                    del self._proving[connection]
                connection.close()

    def _admit(self, connection: socket.socket) -> None:
        try:
            worker = prove_worker(connection, self._secret, len(self._arrived))
            tune(connection)
            with self._lock:
                if self._closed:
                    raise ConnectionError("the listener is closed")
                self._arrived[worker].put(Link(connection))
        except (OSError, ValueError):
            connection.close()  # a stranger learns nothing, not even why
        finally:
            with self._lock:
                self._proving.pop(connection, None)


def prove_worker(connection: socket.socket, secret: bytes, n_workers: int) -> int:
    """Coordinator's half of the handshake: the number of the worker at the other end.

    Raises:
        ValueError: where it does not know the secret, or is none of the workers.
        OSError: where it left or kept silent for `HANDSHAKE` seconds.
    """
    until = time.monotonic() + HANDSHAKE
    ours = secrets.token_bytes(NONCE)
    connection.settimeout(HANDSHAKE)
    connection.sendall(ours)
    answer = _exactly(connection, _NUMBER + 2 * NONCE, until)
    number, theirs, proof = answer[:_NUMBER], answer[_NUMBER:-NONCE], answer[-NONCE:]
    if not hmac.compare_digest(proof, _proof(secret, b"worker", ours, theirs, number)):
        raise ValueError("the other end does not know the secret")
    worker = int.from_bytes(number, "little")
    if worker >= n_workers:
        raise ValueError(f"worker {worker} of {n_workers}")
    connection.sendall(_proof(secret, b"coordinator", ours, theirs, number))
    return worker


def connect(address: str, worker: int, secret: bytes, *, timeout: float = CONNECTING) -> Link:
    """Worker's half: a link to the coordinator at `address` (HOST PORT).

    Raises:
        ConnectionError: where nobody is there, or it does not know the secret.
    """
    host, port = address.split()
    until = time.monotonic() + timeout
    number = worker.to_bytes(_NUMBER, "little")
    try:
        connection = socket.create_connection((host, int(port)), timeout=timeout)
    except OSError as error:
        raise ConnectionError(f"no coordinator at {host}:{port}: {error}") from None
    try:
        theirs, ours = _exactly(connection, NONCE, until), secrets.token_bytes(NONCE)
        connection.sendall(number + ours + _proof(secret, b"worker", theirs, ours, number))
        proof = _exactly(connection, NONCE, until)
    except OSError as error:
        connection.close()
        raise ConnectionError(f"turned away by {host}:{port}: {error}") from None
    if not hmac.compare_digest(proof, _proof(secret, b"coordinator", theirs, ours, number)):
        connection.close()
        raise ConnectionError(f"who listens at {host}:{port} does not know the run's secret")
    tune(connection)
    return Link(connection)


def reconnecting(
    find: Callable[[], tuple[str, bytes]], worker: int, patience: float
) -> Callable[[], Link | None]:
    """What opens a worker's link again and again: None when `patience` seconds were in vain.

    `find` is asked where to connect to, and for the secret, until there was a link: whoever knows
    may be gone with the coordinator.
    """
    found: list[tuple[str, bytes]] = []

    def link() -> Link | None:
        until = time.monotonic() + patience
        while time.monotonic() < until:
            try:
                address, secret = found[0] if found else find()
                left = until - time.monotonic()
                opened = connect(address, worker, secret, timeout=min(left, CONNECTING))
            except (OSError, ValueError):
                time.sleep(0.1)
                continue
            found[:] = [(address, secret)]
            return opened
        return None

    return link


def address_towards(host: str) -> str:
    """The address of this host from which it reaches another one; nothing is sent.

    Raises:
        OSError: there is no way to it.
    """
    why: OSError | None = None
    for family, kind, _, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind) as end:
                end.connect(address)
                return str(end.getsockname()[0])
        except OSError as error:  # of this address; the name may have others
            why = error
    raise why or OSError(f"{host} has no address")


def sealed(secret: bytes, asked: tuple[str, str], text: str) -> str:
    """A text for one who asked for it, behind a proof that its author knows the secret.

    Args:
        secret: of the run.
        asked: who it is for, and a nonce that it drew.
        text: what it is to hear.
    """
    each = [hashlib.sha256(part.encode()).digest() for part in asked]  # of one length
    return _proof(secret, b"word", *each, text.encode()).hex() + text


def unsealed(secret: bytes, asked: tuple[str, str], word: str) -> str:
    """The text of such a word.

    Raises:
        ValueError: where its author does not know the secret, or answers somebody else.
    """
    text = word[2 * NONCE :]
    if not hmac.compare_digest(word.encode(), sealed(secret, asked, text).encode()):
        raise ValueError(
            "what is said in the name of rank 0 does not prove that it knows the run's secret: "
            f"nothing of it is done. Give all hosts the same {SECRET}, and start again."
        )
    return text


def write_secret(folder: Path) -> bytes:
    """A new secret, also in `folder`/secret, which only this user can read."""
    secret = secrets.token_bytes(NONCE)
    descriptor = os.open(folder / "secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    return secret


def read_secret(folder: Path) -> bytes:
    """The secret in a folder that is this user's and nobody else can enter.

    Raises:
        PermissionError: where the folder or the file belongs to, or is open to, somebody else.
        OSError: where one of them is a link, or not there.
    """
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:  # what was looked at is what is read: neither may be another one in between
        _check_own(top, folder)
        inside = os.open("secret", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=top)
        with os.fdopen(inside, "rb") as file:
            _check_own(inside, folder / "secret")
            secret = file.read(NONCE + 1)
    finally:
        os.close(top)
    if len(secret) != NONCE:
        raise PermissionError(f"{folder / 'secret'} holds no secret")
    return secret


def _check_own(descriptor: int, place: Path) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{place} is not this user's alone")


def secret_of_environment() -> bytes | None:
    """The secret in SUBNETWORK_SECRET; None where it is not set.

    Raises:
        ValueError: where it is not 64 hexadecimal digits.
    """
    digits = os.environ.get(SECRET)
    if digits is None:
        return None
    with suppress(ValueError):
        secret = bytes.fromhex(digits)
        if len(secret) == NONCE:
            return secret
    raise ValueError(
        f"{SECRET} holds {len(digits)} characters, not 64 hexadecimal digits. Make one with: "
        'python -c "import secrets; print(secrets.token_hex(32))"'
    )


def _proof(secret: bytes, side: bytes, *parts: bytes) -> bytes:
    return hmac.new(
        secret, b"subnetwork join\0" + side + b"\0" + b"".join(parts), hashlib.sha256
    ).digest()


def _exactly(connection: socket.socket, size: int, until: float) -> bytes:
    received = b""
    while len(received) < size:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("no proof in time")
        connection.settimeout(left)
        more = connection.recv(size - len(received))
        if not more:
            raise ConnectionError("the other end left")
        received += more
    return received


def tune(connection: socket.socket) -> None:
    """Send at once; notice within half a minute that the other host is gone.

    Also where it has not acknowledged what was sent: keepalive asks nothing then, and the system
    would send it again for a quarter of an hour.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in TUNED:
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
