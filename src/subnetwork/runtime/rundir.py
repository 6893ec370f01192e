"""A folder for a run's processes: this user's alone, and gone with the run, however it ends."""

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

PREFIX = "subnetwork-"


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new folder that only this user can enter; it is removed when the block is left.

    A lock in it is held meanwhile. The folder of a process that was killed has one that nobody
    holds: whoever makes the next folder removes it.
    """
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # mode 0700
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(remove)  # where an interrupt comes in between
    lock = None
    try:
        lock = _locked_in(folder)
        yield folder
    finally:
        remove()
        atexit.unregister(remove)
        if lock is not None:
            os.close(lock)


def _locked_in(folder: Path) -> int:
    """The descriptor of the folder's lock; one that has its name is held, or of a dead process."""
    new = folder / "lock.new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)  # not for programs run here
    if _hold(lock):
        new.rename(_lock_of(folder))
    return lock


def _lock_of(folder: Path) -> Path:
    """Named by this host: where hosts share the folder, a lock may be seen on its own alone."""
    return folder / f"lock.{socket.gethostname()}"


def _hold(lock: int) -> bool:
    """Whether the lock is this process's from now on; never where the system has no such locks."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _sweep(top: Path) -> None:
    """Remove the folders that processes of this user left behind as they were killed."""
    for folder in top.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another one removes it, or it is none of ours
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(_lock_of(folder), os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _hold(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
