"""What another process asks of a run that is being written: small files in the run's folder.

A request is ``scale/ID.ask``. Whoever renames or removes it first has it: the run takes it as
``ID.taken`` and answers in ``ID.answer``, or the one who asked takes it back. Every file is written
beside its place and renamed. The place is made when a run begins and removed when it ends, so that
what a killed run left there is never read.
"""

import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PLACE = "scale"
GONE = f".{PLACE}.gone"  # while it is removed
LONGEST = 4096  # bytes of a request
MOST = 1024  # workers that a run is scaled to


@dataclass(frozen=True)
class Request:
    """A run is asked for another number of workers."""

    path: Path  # ID.ask or ID.taken
    workers: int


@dataclass(frozen=True)
class Answer:
    """What became of a request, in a line."""

    done: bool  # the run has as many workers as it was asked for
    line: str


@contextmanager
def hearing(folder: Path) -> Iterator[Path]:
    """Yield the place of a run's folder for requests, empty; it is gone when the block is left.

    Only this user can write there. Where it cannot be made, nobody can ask, and the run goes on.
    """
    place = folder / PLACE
    remove(place)
    with suppress(OSError):
        place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        remove(place)


def taken(place: Path) -> Request | None:
    """The oldest request, which is the caller's to answer from now on; None where there is none.

    What is no request is removed.
    """
    for asked in sorted(place.glob("*.ask")):
        mine = asked.with_suffix(".taken")
        try:
            asked.rename(mine)
        except OSError:  # it was taken back
            continue
        workers = _number(mine)
        if workers is not None:
            return Request(mine, workers)
        with suppress(OSError):
            mine.unlink()
    return None


def answer(request: Request, *, done: bool, line: str) -> None:
    """Answer a request that was taken. An answer that cannot be written costs the run nothing."""
    with suppress(OSError):
        _write(request.path.with_suffix(".answer"), {"done": done, "line": line})
    with suppress(OSError):
        request.path.unlink()


def ask(place: Path, workers: int) -> Request:
    """Ask the run whose place this is.

    Raises:
        OSError: it takes no requests, or the file cannot be written.
    """
    path = place / f"{time.time_ns():020}-{secrets.token_hex(4)}.ask"
    _write(path, {"workers": workers})
    return Request(path, workers)


def taken_back(request: Request) -> bool:
    """Take a request back; False where the run has taken it, or is gone."""
    try:
        request.path.unlink()
    except OSError:
        return False
    return True


def answer_to(request: Request) -> Answer | None:
    """The answer, once it is there; it is removed."""
    path = request.path.with_suffix(".answer")
    try:
        said = json.loads(path.read_bytes())
        path.unlink()
    except OSError:
        return None
    return Answer(said["done"] is True, str(said["line"]))


def _number(path: Path) -> int | None:
    """The number of workers that a request names, or None where it is none.

    It may be anything: a pipe is not waited for, and a link not followed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        workers = json.loads(os.read(descriptor, LONGEST))["workers"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    finally:
        os.close(descriptor)
    return workers if type(workers) is int else None


def _write(path: Path, content: dict[str, object]) -> None:
    beside = path.with_suffix(f"{path.suffix}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
        beside.rename(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def remove(place: Path) -> None:
    """Remove a place for requests as a whole, out of the way of who is about to write there."""
    away = place.with_name(GONE)
    shutil.rmtree(away, ignore_errors=True)
    with suppress(OSError):
        place.rename(away)
    shutil.rmtree(away, ignore_errors=True)
