"""What the cost model has to be told about a model and a machine, measured in seconds."""

import itertools
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from subnetwork.algorithm import Merge, WorkerLostError
from subnetwork.deals import Deal, Perm
from subnetwork.nets.data.batches import Batches, Feed
from subnetwork.nets.local import LocalSteps
from subnetwork.nets.merges import Outer, Steps, holders, sgd_step
from subnetwork.nets.optimizers import SGD, Optimizer
from subnetwork.nets.partition import NetPartition, NetSketch
from subnetwork.nets.plan import Plan
from subnetwork.nets.state import ModelState, Submodel
from subnetwork.nets.trace.tracer import Inputs
from subnetwork.runtime.costs import FLOAT, Network, Pace
from subnetwork.runtime.direct import (
    Held,
    Wire,
    draws_of,
    handed_over,
    merged,
    taken,
    with_moments,
)
from subnetwork.runtime.direct.gloo import messages
from subnetwork.runtime.direct.links import Exchange
from subnetwork.runtime.direct.outer import carried_moments, trained
from subnetwork.runtime.neighbours import neighbours
from subnetwork.runtime.reducing import (
    PATIENCE,
    Group,
    Parallel,
    Reduced,
    Step,
    data_parallel,
    reducing,
)
from subnetwork.runtime.sizing import n_trained
from subnetwork.runtime.wire import Header, Verb, pack, unpack

LOOPBACK = "127.0.0.1"
CHUNK = bytes(1 << 20)
STILL = 1e-6  # a step size that hardly moves the model
TURNS = 3  # of what is measured, at least
STEPS = 5  # of the longer of two rounds, whose difference is steps alone
ALONE = ("handling",)  # what is done while no other worker does anything
LARGEST = 1 << 30  # bytes of a model that DDP is tried with: a rank has gradients and buckets too
POOL, ROWS = 1 << 26, 1 << 17  # bytes of the pool that batches are read from; rows at most


def calibrate(  # noqa: PLR0913 (each has a name and a default)
    plan: Plan,
    n_workers: int,
    *,
    budget: float = 5.0,
    deal: Deal | None = None,
    wire: Wire = "float32",
    optimizer: Optimizer | None = None,
    outer: bool = False,
    beside: int = 0,
    batches: Feed | None = None,
) -> Pace:
    """What a round costs a processor, of the whole model and of a subnetwork, part by part.

    Measured by the code that trains (`LocalSteps`, the coordinator's cut and merge, one rank of the
    direct hand-over), on one thread, one after the other in turns, for about `budget` seconds, but
    four turns at least, of which the first is left out; the median of each, in processor time, so
    that a busy machine does not matter much. The loss is the mean square of the outputs, and
    batches are rows of a pool of copies of the example batch, where none are given: both stand for
    the user's own. All-reduces over this machine's sockets, and steps of DDP, are taken by
    processes that are forked for them (`reducing`), in about a third of the budget more.

    Args:
        plan: of the model.
        n_workers: n.
        budget: seconds.
        deal: who gets which units; None: Perm.
        wire: how the direct hand-over rounds.
        optimizer: of the local steps, whose moments are handed over; None: SGD without momentum.
        outer: whether IST's merge steps with momentum (`nets.Outer`).
        beside: how many other workers of this machine do the same meanwhile, each in a process
            forked from this one: a step takes longer beside others, who use caches and memory too.
            The coordinator's handling is measured while they rest.
        batches: that the steps read, worker 0's; None: rows of a pool of copies of the example.

    Returns:
        The pace; its `reducing` and `waiting` are 0 where this machine lets no two sockets meet, or
        no process be forked. Where DDP does not train the model, or would need too much memory, its
        `buckets` are the copying of gradients alone.

    Raises:
        WorkerLostError: there are no processes for those beside.
    """
    sketch, steps = NetSketch(plan.layout, deal or Perm(n_workers)), optimizer or SGD(STILL)
    feed, sent = _Rows.of(plan.inputs, n_workers, batches), list[int]()
    merge = Outer() if outer else None
    with _one_thread(), torch.random.fork_rng(devices=[]):
        work = _work(plan, sketch, feed, steps, wire, merge, sent)
        for do in work.values():
            do()  # the first one allocates
        with neighbours(beside, work) as tell:
            spans = _in_turns(work, budget, tell)
        n_ranks = max(2, beside + 1)
        n_bytes = sum(p.nbytes for p in plan.model.parameters())
        parallel = _parallel(plan, feed, steps) if n_bytes <= LARGEST else None
        patience = PATIENCE + 20 * n_ranks * max(spans["whole 1"])  # of steps that share a core
        try:
            reduced = reducing(n_bytes, n_ranks, parallel, budget / 3, patience)
        except WorkerLostError:
            reduced = None
    gradients = FLOAT * n_trained(plan.model)
    pace = _pace(spans, reduced, 2 * (n_ranks - 1) / n_ranks * gradients)
    return replace(pace, messages=statistics.mean(sent))


def _work(
    plan: Plan,
    sketch: NetSketch,
    feed: "_Rows",
    optimizer: Optimizer,
    wire: Wire,
    merge: Outer | None,
    sent: list[int],
) -> dict[str, Callable[[], object]]:
    """What is measured, by name; the messages of each hand-over are put to `sent`."""
    x = plan.state(moments=optimizer.moments)
    partition, whole = sketch.sample(0, 0), Submodel(x.params, x.moments)
    work: dict[str, Callable[[], object]] = {
        "batch": feed.next,
        "handling": _handling(x, sketch, merge or holders),
        "direct": _direct(x, sketch, wire, merge, sent),
        "averaging": _averaging(Submodel(x.params)),
        "outer": _outer(whole),
        "buckets": _buckets(whole, partition.n_workers),
    }
    for name, of in (("whole", whole), ("part", partition.select(x, 0))):
        for n_steps in (1, STEPS):
            work[f"{name} {n_steps}"] = _round(plan, feed, of, optimizer, n_steps)
    return work


def _parallel(plan: Plan, feed: "_Rows", optimizer: Optimizer) -> Parallel:
    """Steps of DDP in a group, or of the model alone."""

    def in_group(group: Group | None) -> Step:
        module = plan.build(plan.layout.all_units)
        return data_parallel(module, group, optimizer, lambda m: feed.loss(m, feed.next()))

    return in_group


def _pace(spans: Mapping[str, Sequence[float]], reduced: Reduced | None, one_way: float) -> Pace:
    """Of what was measured, turn by turn, and between ranks that sent so many bytes a step."""
    middle = {name: statistics.median(measured) for name, measured in spans.items()}
    step, around = {}, {}
    for name in ("whole", "part"):
        turns = zip(spans[f"{name} 1"], spans[f"{name} {STEPS}"], strict=True)
        more = statistics.median(several - one for one, several in turns)
        step[name] = max(0.0, more / (STEPS - 1))
        around[name] = max(0.0, middle[f"{name} 1"] - step[name])
        step[name] = max(0.0, step[name] - middle["batch"])
    reduced = reduced or Reduced(0.0, 0.0)
    buckets = middle["buckets"]  # the copying alone
    if reduced.more is not None:
        buckets = max(0.0, reduced.more - reduced.a_byte * one_way)
    return Pace(
        step_whole=step["whole"],
        step_part=step["part"],
        handling=middle["handling"],
        averaging=middle["averaging"],
        batch=middle["batch"],
        around_whole=around["whole"],
        around_part=around["part"],
        direct=middle["direct"],
        outer=middle["outer"],
        buckets=buckets,
        reducing=reduced.a_byte,
        waiting=reduced.wall,
        message=reduced.message,
        ddp=reduced.more is not None,
    )


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
            started, sent, busy = time.perf_counter(), 0, time.process_time()
            while time.perf_counter() - started < budget:
                out.sendall(CHUNK)
                sent += len(CHUNK)
            span = time.perf_counter() - started
        swallow.join()
        copying = (time.process_time() - busy) / sent
    return Network(8 * sent / span, statistics.median(latencies), 1.0, copying)


def _swallow(server: socket.socket) -> None:
    """Answer single bytes, swallow the rest."""
    connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while got := connection.recv(len(CHUNK)):
            if got == b"?":
                connection.sendall(b"!")


@dataclass
class _Rows:
    """Batches of the shape of the example, read by rows from a pool, as training reads them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    batches: Feed | None  # None: the inputs have no rows that can be told apart
    step: int = 0
    seed: int = 0

    @classmethod
    def of(cls, inputs: Inputs, n_workers: int, own: Feed | None) -> "_Rows":
        """Those that are given, or of a pool of copies of the example: more than caches hold."""
        if own is not None:
            return cls((), inputs.kwargs, own)
        first = inputs.args[0] if inputs.args else None
        if not isinstance(first, Tensor) or first.dim() == 0 or len(inputs.args) != 1:
            return cls(inputs.args, inputs.kwargs, None)
        several = min(POOL // max(1, first.nbytes), ROWS // max(1, len(first)))
        copies = max(2 * n_workers, several)
        pool = first.repeat(copies, *(1 for _ in first.shape[1:]))
        return cls(
            (),
            inputs.kwargs,
            Batches(pool, torch.zeros(len(pool)), n_workers, max(1, len(first)), 0),
        )

    def batch(self, _worker: int, _step: int) -> tuple[Any, ...]:
        """The arguments of the model: another batch each time, whichever is asked for.

        What was read just before is in a cache, as batches of training are not.
        """
        if self.batches is None:
            return self.args
        inputs, _ = self.batches.batch(0, self.step)
        self.step += 1
        return inputs if isinstance(inputs, tuple) else (inputs,)

    def next(self) -> tuple[Any, ...]:
        """As `batch`."""
        return self.batch(0, 0)

    def loss(self, module: nn.Module, args: tuple[Any, ...]) -> Tensor:
        """The mean square of the outputs."""
        outputs = tree_leaves(module(*args, **self.kwargs))
        return torch.stack([x.float().square().mean() for x in outputs if _has_gradient(x)]).sum()


def _round(
    plan: Plan, feed: _Rows, of: Submodel, optimizer: Optimizer, n_steps: int
) -> Callable[[], object]:
    """A worker's round of local work."""
    local = LocalSteps(plan, feed, optimizer, n_steps, loss=feed.loss)
    return lambda: local(0, 0, of)


def _has_gradient(x: object) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _handling(
    x: ModelState, sketch: NetSketch, merge: Merge[ModelState, NetPartition, Submodel]
) -> Callable[[], object]:
    """What a coordinator does in a round beside waiting: draw, cut, pack, unpack, merge.

    Round after round: a merge that steps has its momentum from the one before.
    """
    box, rounds = [x], itertools.count()

    def handle() -> None:
        now, partition = box.pop(), sketch.sample(0, next(rounds))
        parts: list[Submodel] = [partition.select(now, i) for i in range(partition.n_workers)]
        flats = [pack(part) for part in parts]
        back = [
            unpack(flat, part, Header(Verb.DONE)) for flat, part in zip(flats, parts, strict=True)
        ]
        box.append(merge(now, partition, back))

    return handle


def _direct(
    x: ModelState,
    sketch: NetSketch,
    wire: Wire,
    steps: Steps | None = None,
    sent: list[int] | None = None,
) -> Callable[[], object]:
    """One rank's side of merge and hand-over, round after round; what arrives is never sent.

    How many messages it would send is put to `sent`, a number a round.
    """
    moments = carried_moments(tuple(x.moments), steps)
    draws = draws_of(sketch, x.params, 0, moments=moments)
    whole = with_moments(x.params.items(), moments, sketch.layout)
    box: list[Held] = [taken(draws, 0, 0, whole)]

    def handle() -> None:
        posts: list[int] = []
        after = [trained(box.pop(), lambda _k, _i, w: w, 0, steps)]
        after.append(_alone(merged(draws, 0, after.pop(), wire, steps), posts))
        box.append(_alone(handed_over(draws, 0, after.pop(), wire, in_place=True), posts))
        if sent is not None:
            sent.append(sum(posts))

    return handle


def _alone(exchange: Exchange[Held], sent: list[int]) -> Held:
    """Run one side of an exchange with nobody at the other end; the messages of each post count."""
    try:
        while True:
            post = next(exchange)
            sent.append(sum(len(messages(pieces)) for pieces in post.pieces))
            for pieces in post.into:
                for piece in pieces:
                    piece.zero_()
    except StopIteration as end:
        held: Held = end.value
        return held


def _averaging(whole: Submodel) -> Callable[[], object]:
    """A model into a flat buffer, and views of it."""
    return lambda: unpack(pack(whole), whole, Header(Verb.DONE))


def _buckets(whole: Submodel, n_workers: int) -> Callable[[], object]:
    """What DDP does with the gradients of a step: the n-th part of each into a bucket, and back."""
    gradients = [torch.zeros_like(p) for p in whole.params.values()]
    buckets = [torch.zeros_like(p) for p in whole.params.values()]

    def copy() -> None:
        for gradient, bucket in zip(gradients, buckets, strict=True):
            torch.mul(gradient, 1 / n_workers, out=bucket)
        for gradient, bucket in zip(gradients, buckets, strict=True):
            gradient.copy_(bucket)

    return copy


def _outer(whole: Submodel) -> Callable[[], object]:
    """DiLoCo's step along the change of a round."""
    zeros = {name: torch.zeros_like(p) for name, p in whole.params.items()}
    return lambda: sgd_step(whole.params, zeros, zeros, 0.7, 0.9, nesterov=True)


def _in_turns(
    work: Mapping[str, Callable[[], object]],
    budget: float,
    tell: Callable[[str | None], None],
) -> dict[str, list[float]]:
    """Processor seconds of each, turn by turn; at least three turns, whatever the budget.

    Neighbours are told before, and are at it; while a coordinator handles, its workers wait. The
    first turn is left out: memory comes to rest in it, as in the first rounds of a run.
    """
    spans: dict[str, list[float]] = {name: [] for name in work}
    ends = time.perf_counter() + budget
    while time.perf_counter() < ends or min(map(len, spans.values())) < 1 + TURNS:
        for name, do in work.items():
            tell(None if name in ALONE else name)
            started = time.thread_time()
            do()
            spans[name].append(time.thread_time() - started)
    return {name: measured[1:] for name, measured in spans.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
