"""What the system says of worker processes."""

import os
import time
from pathlib import Path


def descendants(parent=None):
    """Process ids below a process, by their names: ``worker 0``, ``rank 1``, .."""
    parents, names = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, after = status.read_text().rsplit(")", 1)
        except OSError:
            continue
        pid = int(status.parent.name)
        parents[pid], names[pid] = int(after.split()[1]), before.split("(", 1)[1]
    found = {}
    for pid, name in names.items():
        above = parents[pid]
        while above > 1 and above != (parent or os.getpid()):
            above = parents.get(above, 0)
        if above > 1:
            found.setdefault(name, []).append(pid)
    return found


def children(parent=None):
    """Process ids of the workers of a process, in the order of the workers."""
    found = descendants(parent)
    workers = sorted((int(name.split()[1]), name) for name in found if name.startswith("worker "))
    return [found[name][0] for _, name in workers]


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
