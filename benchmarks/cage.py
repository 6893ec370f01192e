"""Processes under a limit of the kernel's: a memory control group each, of version 1 or 2."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
ENTER = """
import os, runpy, sys

with open(sys.argv.pop(1).format(os.environ["RANK"]), "w") as procs:
    procs.write(str(os.getpid()))
runpy.run_module("subnetwork", run_name="__main__")
"""
"""A script for torchrun: enter the cage of the rank, then the command."""


class NoCageError(Exception):
    """This process may make no memory control group; says why."""


@dataclass(frozen=True)
class Cage:
    """A control group of its own, empty at first."""

    folder: Path

    @property
    def procs(self) -> Path:
        """A process that writes its number here is in, and so are its children."""
        return self.folder / "cgroup.procs"

    @property
    def kills(self) -> int:
        """Processes that the kernel ended here for want of memory."""
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError):
                lines = (self.folder / name).read_text().splitlines()
                counts = dict(line.split() for line in lines)
                if "oom_kill" in counts:
                    return int(counts["oom_kill"])
        return 0


@contextmanager
def cages(names: Sequence[str], limit: int) -> Iterator[list[Cage]]:
    """Yield a cage of so many bytes for each name; what runs in one later must have ended.

    Raises:
        NoCageError: control groups are not there, or not this user's to make.
    """
    parent = _parent()
    with ExitStack() as stack:
        found = []
        for name in names:
            folder = parent / f"{name}-{os.getpid()}"
            try:
                folder.mkdir()
                stack.callback(_left, folder)
                _limit(folder, limit)
            except OSError as error:
                raise NoCageError(f"{folder}: {error.strerror}") from None
            found.append(Cage(folder))
        yield found


def _left(folder: Path) -> None:
    """Remove a cage; the kernel takes its time with processes that have ended."""
    for _ in range(50):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return


def _limit(folder: Path, limit: int) -> None:
    """No more memory than so many bytes, and no swap beside it where that can be said."""
    for name in ("memory.limit_in_bytes", "memory.max"):
        if (folder / name).exists():
            (folder / name).write_text(str(limit))
            break
    else:
        raise NoCageError(f"{folder} has no memory controller")
    for name, most in (("memory.memsw.limit_in_bytes", limit), ("memory.swap.max", 0)):
        with suppress(OSError):
            (folder / name).write_text(str(most))


def _parent() -> Path:
    """Where groups can be made: that of this process, or the root that it sees."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        raise NoCageError("there is no /proc/self/cgroup") from None
    paths = {of: path for _, of, path in (line.split(":", 2) for line in lines)}
    mounted = ROOT / "memory" if "memory" in paths else ROOT
    own = mounted / paths.get("memory", paths.get("", "/")).strip("/")
    parent = own if own.is_dir() else mounted
    if not os.access(parent, os.W_OK):
        raise NoCageError(f"{parent} may not be written by this user")
    return parent
