"""Private groups of two, one per worker: one lost worker harms no other link (a star of pairs)."""

from datetime import timedelta
from typing import Any

import torch.distributed as dist

from subnetwork.runtime.wire import Link

JOIN = timedelta(seconds=20)  # for the other end, which is up, to answer
COORDINATOR, WORKER = 0, 1


def pair(store: dist.Store, worker: int, side: int, *, host: str | None) -> Link:
    """Join the group of two of one worker; blocks until both ends are there.

    Args:
        store: where both ends find each other.
        worker: whose pair it is.
        side: COORDINATOR or WORKER.
        host: the address to listen on; None lets gloo choose the one of this host's name.
    """
    gloo: Any = dist.ProcessGroupGloo  # its stubs leave out what is needed here
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=host) if host else gloo.create_default_device()]
    options._timeout = JOIN
    group = gloo(dist.PrefixStore(f"worker/{worker}", store), side, 2, options)
    return Link(group, peer=1 - side)
