"""One worker of `race.py`: trains by one method after another over gloo, and says where time went.

Started by race.py in every host: ``python race_worker.py SPECS.json``, with RANK, WORLD_SIZE and
MASTER_ADDR in the environment. Rank r writes SPECS.r.json: for every run of the list a row a round,
with the bytes that the kernel counted, and accuracies.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from race_run import Run, Spec
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from subnetwork.nets import Submodel, Supervised, holders
from subnetwork.nets.architecture import runnable
from subnetwork.nets.merges import Outer, sgd_step
from subnetwork.runtime.direct import (
    Held,
    draws_of,
    handed_over,
    meet,
    merged,
    over,
    passing_parameters,
    taken,
    with_moments,
)
from subnetwork.runtime.direct.links import Exchange, Links, Post, whole
from subnetwork.runtime.direct.memory import Spare
from subnetwork.runtime.direct.outer import carried_moments, trained
from subnetwork.runtime.wire import Header, Verb, pack, unpack

T = TypeVar("T")
RECEIVED = Header(Verb.DONE)
PORT = 29511
BLOCK = 256  # entries that share a scale in int8


class Ist:
    """IST through a coordinator on rank 0, which trains as worker 0 too.

    The package's own cut, local steps and merge; packed buffers by gloo's point-to-point.
    """

    def __init__(self, run: Run) -> None:
        spec = run.spec
        self.run, self.sketch, self.local = run, run.sketch, run.local()
        self.x = run.start(self.local.moments)
        self.merge = Outer(spec.outer_step_size, spec.outer_momentum) if spec.outer else holders
        self.wire = {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.wire]

    def round(self, k: int) -> None:
        """Cut, send, train, receive, merge."""
        run, clock, rank = self.run, self.run.clock, self.run.rank
        partition = self.sketch.sample(run.seed, k)
        if rank == 0:
            parts = clock.timed(
                "handling",
                lambda: [partition.select(self.x, i) for i in range(run.spec.n_workers)],
            )
            flats = clock.timed("handling", lambda: [pack(p).to(self.wire) for p in parts[1:]])
            sends = [dist.isend(flat, i) for i, flat in enumerate(flats, 1)]
            trained = [clock.timed("compute", lambda: self.local(k, 0, parts[0]))]
            for send in sends:
                send.wait()
            back = [torch.empty_like(flat) for flat in flats]
            for receive in [dist.irecv(flat, i) for i, flat in enumerate(back, 1)]:
                receive.wait()
            self.x = clock.timed(
                "handling", lambda: self.merge(self.x, partition, trained + self._read(back, parts))
            )
            return
        like = partition.select(self.x, rank)  # of its shapes; this x is never looked at again
        flat = torch.empty(sum(t.numel() for t in like.tensors()), dtype=self.wire)
        dist.recv(flat, 0)
        part = unpack(flat.float(), like, RECEIVED)
        trained_part = clock.timed("compute", lambda: self.local(k, rank, part))
        dist.send(pack(trained_part).to(self.wire), 0)

    def _read(self, flats: list[Tensor], parts: list[Submodel]) -> list[Submodel]:
        return [unpack(f.float(), p, RECEIVED) for f, p in zip(flats, parts[1:], strict=True)]

    def model(self) -> dict[str, Tensor]:
        """The merged model, on rank 0."""
        return dict(self.x.params)


class DirectIst:
    """IST by the package's direct hand-over: no rank has the model."""

    def __init__(self, run: Run) -> None:
        spec = run.spec
        self.run, self.local, x = run, run.local(in_place=True), run.start().params
        self.steps = Outer(spec.outer_step_size, spec.outer_momentum) if spec.outer else None
        moments = carried_moments(self.local.moments, self.steps)
        self.draws = draws_of(run.sketch, x, run.seed, moments=moments)
        whole = with_moments(x.items(), moments, run.sketch.layout)
        self.held: Held = taken(self.draws, run.rank, 0, whole)
        self.merged = False

    def round(self, _k: int) -> None:
        """Hand over what the last round left, train, merge; the part knows which round it is."""
        run, draws, wire = self.run, self.draws, self.run.spec.wire
        if self.merged:
            exchange = handed_over(draws, run.rank, self._let_go(), wire, in_place=True)
            self.held = self._carried(exchange)
        train = partial(trained, self._let_go(), self.local, run.rank, self.steps, Spare())
        self.held = run.clock.timed("compute", train)
        del train
        exchange = merged(draws, run.rank, self._let_go(), wire, self.steps)
        self.held, self.merged = self._carried(exchange), True

    def _let_go(self) -> Held:
        held = self.held
        del self.held
        return held

    def _carried(self, exchange: Exchange[T]) -> T:
        """Run this rank's side; what is not waiting for others is handling."""
        posts: list[Post] = []
        results: list[T] = []

        def on() -> None:
            posts.clear()
            try:
                posts.append(next(exchange))
            except StopIteration as end:
                results.append(end.value)

        while not results:
            self.run.clock.timed("handling", on)
            for post in posts:
                self.run.links(post)
        return results[0]

    def model(self) -> dict[str, Tensor]:
        """The merged model, on rank 0; all ranks have to ask."""
        run = self.run
        found = passing_parameters(self.held, self.draws, run.rank, run.links)
        return {name: p for name, p in found if p is not None}


class LocalSgd:
    """Whole models, averaged by an all-reduce; with an outer optimizer it is DiLoCo."""

    def __init__(self, run: Run) -> None:
        self.run, self.outer, self.local = run, {}, run.local()
        x = run.start(self.local.moments)
        self.params, self.moments = dict(x.params), x.moments  # of the local optimizer: they stay

    def round(self, k: int) -> None:
        """Train, average, and step the outer optimizer where there is one."""
        run, clock = self.run, self.run.clock
        w = Submodel(self.params, self.moments)
        trained = clock.timed("compute", lambda: self.local(k, run.rank, w))
        self.moments = trained.moments
        flat = clock.timed("handling", lambda: pack(Submodel(trained.params)))
        if run.spec.wire == "int8":  # changes travel
            was = clock.timed("handling", lambda: pack(Submodel(self.params)))
            flat = was + mean_of_rounded(run, flat - was)
        else:
            dist.all_reduce(flat.div_(run.spec.n_workers))
        clock.timed("handling", lambda: self._step(flat))

    def _step(self, flat: Tensor) -> None:
        mean = unpack(flat, Submodel(self.params), RECEIVED).params
        if self.run.spec.method == "local_sgd":
            self.params = dict(mean)
            return
        spec = self.run.spec
        gradients = {name: p - mean[name] for name, p in self.params.items()}
        self.params, self.outer = sgd_step(
            self.params,
            gradients,
            self.outer,
            spec.outer_step_size,
            spec.outer_momentum,
            nesterov=True,
        )

    def model(self) -> dict[str, Tensor]:
        """The same on every rank."""
        return self.params


def mean_of_rounded(run: Run, change: Tensor) -> Tensor:
    """The mean of all workers' changes, the same on each, sent as int8 with a scale a block.

    Every rank takes the mean of its share of the entries, and sends that to all: as many entries
    as a ring of float32 moves, in a quarter of the bytes.
    """
    n, rank, clock = run.spec.n_workers, run.rank, run.clock
    room = -len(change) % (n * BLOCK)
    shares = torch.cat([change, change.new_zeros(room)]).view(n, -1, BLOCK)
    codes = clock.timed("handling", lambda: [rounded(share) for share in shares])
    size = len(codes[0])
    into = whole([size * (i != rank) for i in range(n)])
    run.links(Post([[code] if i != rank else [] for i, code in enumerate(codes)], into))
    mean = sum(values(piece) for pieces in into for piece in pieces) + values(codes[rank])
    own = clock.timed("handling", lambda: rounded(mean / n))
    back = whole([size * (i != rank) for i in range(n)])
    run.links(Post([[own] if i != rank else [] for i in range(n)], back))
    means = [values(pieces[0] if pieces else own) for pieces in back]
    return torch.cat(means).view(-1)[: len(change)]


def rounded(blocks: Tensor) -> Tensor:
    """(blocks, entries) as bytes: a scale a block, then a byte an entry."""
    scales = blocks.abs().amax(dim=1, keepdim=True) / 127
    codes = (blocks / scales).nan_to_num(0.0).round().to(torch.int8)
    return torch.cat([scales.view(-1).view(torch.uint8), codes.view(-1).view(torch.uint8)])


def values(parcel: Tensor) -> Tensor:
    """The other way round."""
    n = len(parcel) // (BLOCK + 4)
    scales = parcel[: 4 * n].view(torch.float32)[:, None]
    return parcel[4 * n :].view(torch.int8).view(n, BLOCK).float() * scales


class Ddp:
    """torch's DistributedDataParallel; with the hook of PowerSGD, compressed."""

    def __init__(self, run: Run) -> None:
        spec = run.spec
        self.run = run
        self.module = runnable(run.task.architecture, run.start()).train()
        compressed = spec.method == "ddp_powersgd"
        # over gloo the hook's collectives of two buckets would be told apart by luck alone
        self.parallel = DistributedDataParallel(
            self.module, forward_sync_buffers=False, bucket_cap_mb=1000 if compressed else None
        )
        if compressed:
            state = powerSGD_hook.PowerSGDState(
                None, matrix_approximation_rank=spec.rank, start_powerSGD_iter=2
            )
            self.parallel.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        group = {"params": list(self.module.parameters()), **run.optimizer.options(1.0)}
        self.optimizer = run.optimizer.over([group])
        self.loss = Supervised(run.task.loss)

    def round(self, k: int) -> None:
        """As many steps as a round of the others has; main-thread processor time is computing."""
        self.run.clock.timed("compute", lambda: self._steps(k))

    def _steps(self, k: int) -> None:
        run, n_steps = self.run, self.run.spec.n_steps
        for step in range(k * n_steps, (k + 1) * n_steps):
            batch = run.task.batches.batch(run.rank, step)
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(self.parallel, batch).backward()
            self.optimizer.step()

    def model(self) -> dict[str, Tensor]:
        """The same on every rank."""
        return {name: p.detach() for name, p in self.module.named_parameters()}


METHODS: dict[str, Callable[[Run], Any]] = {
    "ist": Ist,
    "ist_direct": DirectIst,
    "local_sgd": LocalSgd,
    "diloco": LocalSgd,
    "ddp": Ddp,
    "ddp_powersgd": Ddp,
}


def train(run: Run) -> list[tuple[int, float]]:
    """The rounds, and the accuracies that rank 0 measured between them."""
    spec, method = run.spec, METHODS[run.spec.method](run)
    accuracies: list[tuple[int, float]] = []
    for k in range(spec.n_rounds):
        with run.clock.round():
            method.round(k)
        if spec.evaluate_every and (k + 1) % spec.evaluate_every == 0:
            found, params = torch.zeros(1), method.model()
            if run.rank == 0:
                found[0] = run.test(params)
            dist.broadcast(found, 0)  # nobody starts a round before it is measured
            accuracies.append((k + 1, float(found)))
            if float(found) >= spec.stop_at:
                break
    return accuracies


def main() -> None:
    """Join, do the runs in turn, write."""
    path = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports for a second
    os.environ["MASTER_PORT"] = str(PORT)
    dist.init_process_group("gloo")
    links = links_of_hosts()
    found = [one_run(Spec(**spec), links) for spec in json.loads(path.read_text())]
    path.with_suffix(f".{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def links_of_hosts() -> Links:
    """Point-to-point between all hosts, each of which has an address after that of rank 0."""
    rank, size, first = dist.get_rank(), dist.get_world_size(), os.environ["MASTER_ADDR"]
    store = dist.TCPStore(first, PORT + 1, size, is_master=rank == 0)
    subnet, number = first.rsplit(".", 1)
    return over(meet(store, rank, size, host=f"{subnet}.{int(number) + rank}"), rank)


def one_run(spec: Spec, links: Links) -> dict[str, Any]:
    """Rows and accuracies of one run."""
    run = Run(spec, links)
    dist.barrier()
    accuracies = train(run)
    dist.barrier()
    return {"rows": run.clock.rows, "accuracies": accuracies}


if __name__ == "__main__":
    main()
