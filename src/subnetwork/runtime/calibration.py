"""What the cost model has to be told about a model and a machine, measured in seconds."""

import math
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from subnetwork.deals import Perm
from subnetwork.nets.merges import holders
from subnetwork.nets.partition import NetSketch
from subnetwork.nets.plan import Plan
from subnetwork.nets.state import Submodel
from subnetwork.nets.table import cost
from subnetwork.nets.terms import axes_of
from subnetwork.nets.trace.tracer import Inputs
from subnetwork.runtime.costs import Network, Pace, Sizes
from subnetwork.runtime.wire import Header, Verb, pack, unpack

LOOPBACK = "127.0.0.1"
CHUNK = bytes(1 << 20)


def sizes(plan: Plan, n_workers: int, *, moments: int = 0) -> Sizes:
    """Entries and activations of the whole model and of the first of n subnetworks under a Perm.

    Raises:
        ValueError: where an axis has fewer units than there are workers.
    """
    part = _part(plan, n_workers)
    by_axes = [0]
    for name, p in part.named_parameters():
        n_cut = len({dim for dim in plan.layout.dims[name] if dim is not None and axes_of(dim)})
        by_axes += [0] * (n_cut + 1 - len(by_axes))
        by_axes[n_cut] += p.numel()
    whole = cost(plan.build(plan.layout.all_units), plan.inputs)
    return Sizes(
        whole=whole.parameters,
        part=tuple(by_axes),
        activations_whole=whole.activations,
        activations_part=cost(part, plan.inputs).activations,
        moments=moments,
    )


def calibrate(plan: Plan, n_workers: int, *, budget: float = 5.0) -> Pace:
    """Seconds of a step of the whole model and of a subnetwork, and of cutting and merging.

    Measured on one thread, one after the other in turns, for about `budget` seconds; the median
    of each. The loss is the mean square of the outputs, which stands for the user's own.
    """
    whole, part = plan.build(plan.layout.all_units), _part(plan, n_workers)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        work = {
            "whole": _step(whole, plan.inputs),
            "part": _step(part, plan.inputs),
            "handling": _handling(plan, n_workers),
            "averaging": _averaging(whole),
        }
        spans = _in_turns(work, budget)
    return Pace(spans["whole"], spans["part"], spans["handling"], spans["averaging"])


def loopback(budget: float = 0.5) -> Network:
    """The link between two processes of this machine, as TCP between two sockets measures it."""
    with socket.create_server((LOOPBACK, 0)) as server:
        swallow = threading.Thread(target=_swallow, args=(server,), daemon=True)
        swallow.start()
        with socket.create_connection(server.getsockname()) as out:
            out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            latencies = []
            for _ in range(50):
                started = time.perf_counter()
                out.sendall(b"?")
                out.recv(1)
                latencies.append((time.perf_counter() - started) / 2)
            started, sent = time.perf_counter(), 0
            while time.perf_counter() - started < budget:
                out.sendall(CHUNK)
                sent += len(CHUNK)
            span = time.perf_counter() - started
        swallow.join()
    return Network(8 * sent / span, statistics.median(latencies), share=1.0)


def _swallow(server: socket.socket) -> None:
    """Answer single bytes, swallow the rest."""
    connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while got := connection.recv(len(CHUNK)):
            if got == b"?":
                connection.sendall(b"!")


def _part(plan: Plan, n_workers: int) -> nn.Module:
    few = {axis: n for axis, n in plan.layout.sizes.items() if n < n_workers}
    if few:
        axis, n = min(few.items(), key=lambda item: item[1])
        raise ValueError(
            f"Axis {axis} has {n} units for n_workers={n_workers}: somebody would get none. "
            f"Use at most {n} workers, or leave it whole by naming the others in width=."
        )
    units = {axis: torch.arange(math.ceil(n / n_workers)) for axis, n in plan.layout.sizes.items()}
    return plan.builder.build(plan.model, units)


def _step(module: nn.Module, inputs: Inputs) -> Callable[[], None]:
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = tree_leaves(module(*inputs.args, **inputs.kwargs))
        terms = [x.float().square().mean() for x in outputs if _has_gradient(x)]
        torch.autograd.backward(torch.stack(terms).sum())
        optimizer.step()

    return step


def _has_gradient(x: object) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _handling(plan: Plan, n_workers: int) -> Callable[[], None]:
    """What a coordinator does in a round beside waiting: draw, cut, pack, unpack, merge."""
    x, sketch = plan.state(), NetSketch(plan.layout, Perm(n_workers))

    def handle() -> None:
        partition = sketch.sample(0, 0)
        parts: list[Submodel] = [partition.select(x, i) for i in range(n_workers)]
        flats = [pack(part) for part in parts]
        trained = [
            unpack(flat, part, Header(Verb.DONE)) for flat, part in zip(flats, parts, strict=True)
        ]
        holders(x, partition, trained)

    return handle


def _averaging(module: nn.Module) -> Callable[[], None]:
    parameters = [p.detach() for p in module.parameters()]
    counts = [p.numel() for p in parameters]

    def copy() -> None:
        flat = torch.cat([p.reshape(-1) for p in parameters])
        for p, new in zip(parameters, torch.split(flat, counts), strict=True):
            p.copy_(new.view_as(p))

    return copy


def _in_turns(work: dict[str, Callable[[], None]], budget: float) -> dict[str, float]:
    """Median seconds of each; at least three rounds, whatever the budget."""
    spans: dict[str, list[float]] = {name: [] for name in work}
    for do in work.values():
        do()  # the first one allocates
    ends = time.perf_counter() + budget
    while time.perf_counter() < ends or min(map(len, spans.values())) < 3:
        for name, do in work.items():
            started = time.perf_counter()
            do()
            spans[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured) for name, measured in spans.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
