"""What the system says of worker processes."""

import os
import time
from pathlib import Path

from subnetwork.methods.worker import MODULE


def children(parent=None):
    """Process ids of the workers of a process, in the order of the workers."""
    parent = parent or os.getpid()
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
            words = (status.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) == parent and MODULE.encode() in words:
            found[int(words[words.index(MODULE.encode()) + 2])] = int(status.parent.name)
    return [found[worker] for worker in sorted(found)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids, seconds):
    """Whether all these processes end within some seconds."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))
