"""What an all-reduce costs a processor, and a step of DDP: measured between processes."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from subnetwork.algorithm import WorkerLostError
from subnetwork.nets.optimizers import Optimizer
from subnetwork.runtime.direct.gloo import CONNECTING, meet, over
from subnetwork.runtime.direct.links import Post, whole
from subnetwork.runtime.measured import cores
from subnetwork.runtime.neighbours import ended_well, forked

LEAST, MOST = 1 << 18, 16 << 20  # bytes of a buffer that is worth measuring with
FEWEST, ENOUGH = 3, 30  # times that something is done to be measured
LOOPBACK = "127.0.0.1"
PATIENCE = 60.0  # seconds beyond the budget for ranks to start, meet and end

Group: TypeAlias = Any  # gloo's own, whose stubs leave out what is needed here
Step: TypeAlias = Callable[[], object]
Parallel: TypeAlias = Callable[[Group | None], Step]
"""Makes what does a step of training: of a rank in a group, or without one by itself."""


@dataclass(frozen=True)
class Reduced:
    """Processor seconds of one rank, all its threads, where nothing else is said."""

    a_byte: float  # that it sends, and gets, in an all-reduce
    message: float  # to another rank, and one from it
    more: float | None = None
    """That a step of data-parallel training takes beyond one by itself, all-reduces included."""
    wall: float = 0.0
    """Seconds of the wall for a byte of an all-reduce, did every rank have a core: ranks wait for
    each other in it."""


def reducing(
    n_bytes: int,
    n_ranks: int = 2,
    parallel: Parallel | None = None,
    budget: float = 0.4,
    patience: float = PATIENCE,
) -> Reduced:
    """What ranks take that are processes of this machine and reduce over its sockets, by gloo.

    What the kernel copies is in it, and what gloo adds and copies. Groups of the caller are not
    touched, and nothing is left open.

    Args:
        n_bytes: of the buffer; a very small or large one is measured by another size.
        n_ranks: how many; at least 2.
        parallel: the training whose steps are measured, by itself and in the group.
        budget: seconds, about; each thing is done a few times whatever it is.
        patience: seconds for all of it, beyond twice the budget; then the ranks are ended.

    Returns:
        The mean over the ranks; without `more` where `parallel` is left out, fails, or takes too
        long.

    Raises:
        WorkerLostError: the ranks reduce nothing: the machine has no such processes, lets no two
            sockets meet, or is short of memory.
    """
    size = max(LEAST, min(MOST, n_bytes))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)

        def main(rank: int) -> None:
            store = dist.FileStore(str(path / "store"), n_ranks)
            group: Group = meet(store, rank, n_ranks, host=LOOPBACK, patience=CONNECTING)
            one_way = 2 * (n_ranks - 1) / n_ranks * size
            busy, wall = _span(_all_reduce(group, size), group, budget / 6)
            message, wait = (t / (n_ranks - 1) for t in _span(_words(group), group, budget / 12))
            found = {"a_byte": busy / one_way, "message": message}
            found["wall"] = by_bytes(wall, wait, n_ranks, cores()) / one_way
            _keep(path / f"{rank}.json", found)
            if parallel is not None:
                alone, _ = _span(parallel(None), group, budget / 2)
                found["more"] = max(0.0, _span(parallel(group), group, budget / 2)[0] - alone)
                _keep(path / f"{rank}.json", found)

        with forked(n_ranks, main) as ranks:
            ended_well(ranks, patience + 2 * budget)
        files = list(path.glob("*.json"))
        if len(files) < n_ranks:
            raise WorkerLostError(f"{n_ranks} ranks of this machine did not reduce anything.")
        found = [json.loads(file.read_text()) for file in files]
    alike = set.intersection(*map(set, found))  # `more` may be there of some
    return Reduced(**{name: statistics.mean(of[name] for of in found) for name in alike})


def data_parallel(
    module: nn.Module,
    group: Group | None,
    optimizer: Optimizer,
    loss: Callable[[nn.Module], Tensor],
) -> Step:
    """What does one step of DDP in a group that gloo made; without a group, of the module alone."""
    twin = module.train()
    if group is not None:
        cpu, gloo = torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO
        own = dist.ProcessGroup(dist.HashStore(), group.rank(), group.size())
        own._register_backend(cpu, gloo, group)
        own._set_default_backend(gloo)
        twin = DistributedDataParallel(module, process_group=own)
    steps = optimizer.over([{"params": list(module.parameters()), **optimizer.options(1.0)}])

    def step() -> None:
        steps.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(twin))
        steps.step()

    return step


def _keep(path: Path, found: dict[str, float]) -> None:
    """As a whole: this process may be ended at any time."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(found))
    beside.rename(path)


def _all_reduce(group: Group, size: int) -> Step:
    buffer = torch.zeros(size // 4)
    return lambda: group.allreduce([buffer]).wait()


def _words(group: Group) -> Step:
    """A message of eight bytes from every rank to every other one."""
    rank, n_ranks = group.rank(), group.size()
    others = [j != rank for j in range(n_ranks)]
    word, links = torch.zeros(8, dtype=torch.uint8), over(group, rank)
    into = whole([8 * other for other in others])
    return lambda: links(Post([[word] * other for other in others], into))


def by_bytes(wall: float, wait: float, n_ranks: int, n_cores: int) -> float:
    """What an all-reduce takes for its bytes, had every rank a core: latency is left out."""
    return max(0.0, wall - 2 * (n_ranks - 1) * wait) / max(1.0, n_ranks / n_cores)


def _span(do: Step, group: Group, budget: float) -> tuple[float, float]:
    """Seconds of one, of as many as there is time for: of all threads' processors, of the wall."""
    do()
    started = time.perf_counter()
    do()
    n = torch.tensor([budget / max(1e-9, time.perf_counter() - started)])
    group.allreduce([n]).wait()  # so that all do as many
    n_times = max(FEWEST, min(ENOUGH, int(n / group.size())))
    busy, started = time.process_time(), time.perf_counter()
    for _ in range(n_times):
        do()
    return (time.process_time() - busy) / n_times, (time.perf_counter() - started) / n_times
