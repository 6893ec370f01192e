"""What an all-reduce costs a processor, measured between two ranks of this process."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist

from subnetwork.runtime.direct.gloo import CONNECTING, meet

LEAST, MOST = 1 << 18, 16 << 20  # bytes of a buffer that is worth measuring with
LOOPBACK = "127.0.0.1"


def reducing(n_bytes: int, budget: float = 0.4) -> float:
    """Processor seconds of a rank for a byte that it sends, and gets, in an all-reduce over gloo.

    Two threads are the ranks, over sockets of this machine: what the kernel copies is in it, and
    what gloo adds and copies. Every thread of this process is counted, so that nothing else should
    run in it. Groups of the caller are not touched, and nothing is left open.

    Args:
        n_bytes: of the buffer; a very small or large one is measured by another size.
        budget: seconds, about; two all-reduces are the least.

    Raises:
        WorkerLostError: this machine lets no two sockets meet.
    """
    size, store = max(LEAST, min(MOST, n_bytes)), dist.HashStore()
    with ThreadPoolExecutor(2) as threads:
        sides = [threads.submit(_spans, store, rank, size, budget) for rank in range(2)]
        spans, _ = [side.result() for side in sides]
    return statistics.median(spans) / (2 * size)  # of two ranks, which send `size` each


def _spans(store: dist.Store, rank: int, size: int, budget: float) -> list[float]:
    """Processor seconds of this process from one all-reduce to the next; the first is left out."""
    group: Any = meet(store, rank, 2, host=LOOPBACK, patience=CONNECTING)
    buffer, go_on = torch.zeros(size // 4), torch.ones(1)
    spans: list[float] = []
    ends, busy = time.perf_counter() + budget, 0.0
    while go_on.item():
        group.allreduce([buffer]).wait()
        now = time.process_time()
        spans.append(now - busy)
        # both stop after the same one: rank 1 adds nothing to what rank 0 says
        more = rank == 0 and (time.perf_counter() < ends or len(spans) < 3)
        go_on = torch.tensor([float(more)])
        group.allreduce([go_on]).wait()
        busy = time.process_time()
    return spans[1:]
