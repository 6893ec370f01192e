"""`join`: independent subnetwork training inside the user's own loop, one process a worker."""

import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from subnetwork.algorithm import DivergedError, RunFailedError
from subnetwork.deals import Deal
from subnetwork.nets.architecture import load_params
from subnetwork.nets.calibrate import gathers, recalibrate
from subnetwork.nets.copying import copied
from subnetwork.nets.hollow import with_values
from subnetwork.nets.partition import NetSketch
from subnetwork.nets.plan import Plan
from subnetwork.nets.state import Submodel
from subnetwork.runtime.carrying import State, Stepped, kinds, put, read
from subnetwork.runtime.direct import (
    Draws,
    Held,
    Wire,
    agree,
    carried,
    check_wire,
    digest,
    handed_over,
    merged,
    taken,
    tell,
    whole_parameters,
)
from subnetwork.runtime.direct.counted import COUNTER, is_counter, packed, unpacked
from subnetwork.runtime.direct.held import PARAMS
from subnetwork.runtime.direct.links import Exchange, Links
from subnetwork.runtime.direct.start import with_new_counters, with_new_moments
from subnetwork.runtime.linked import here, left, linked


@contextmanager
def join(
    plan: Plan, *, deal: Deal | Mapping[str, Deal], seed: int = 0, wire: Wire = "float32"
) -> Iterator["Session"]:
    """Take part in a training run as one of its workers; every process of torchrun calls this.

    The subnetworks of all workers are dealt anew each round and handed from worker to worker
    directly, each entry that changes hands once. Training starts from the present values of
    `plan.model`, the same on every rank.

    Args:
        plan: of `decompose`, made from the same model on every rank.
        deal: who gets which units, for as many workers as there are processes; or one for each
            pattern of axes, as `NetSketch` takes them.
        seed: of the deal; the same on every rank.
        wire: what is sent: "float32" as it is, "bfloat16" or "int8" rounded.

    Raises:
        ValueError: where the deal is for another number of workers than there are processes, or
            what is given is no deal, seed or wire; where the plan is hollow.
        RunFailedError: where the ranks do not agree on model, plan, deal, seed or wire.
    """
    check_wire(wire)
    with_values(plan.model, "join", "Training starts from them: join with a plan that has them.")
    rank, n_workers = here()
    sketch = NetSketch(plan.layout, deal)
    sketch.sample(seed, 0)  # refuses before the ranks meet
    if sketch.n_workers != n_workers:
        raise ValueError(
            f"The deal is for {sketch.n_workers} workers, but there "
            f"{'is one process' if n_workers == 1 else f'are {n_workers} processes'}. Start "
            f"torchrun --nproc-per-node {sketch.n_workers}, or deal to {n_workers}."
        )
    with linked(rank, n_workers) as links:
        session = Session(plan, sketch, seed, wire, rank, links)
        try:
            yield session
        finally:
            session.leave()


class Session:
    """One worker's place in a run: its subnetwork each round, and the whole model at the end."""

    def __init__(
        self, plan: Plan, sketch: NetSketch, seed: int, wire: Wire, rank: int, links: Links
    ) -> None:
        self.rank, self.n_workers, self.wire = rank, sketch.n_workers, wire
        self.bytes_sent = self.bytes_received = 0
        self._plan, self._merged, self._in_body = plan, False, False
        self._module: nn.Module | None = None
        self._carried: list[Stepped] = []
        self._links = links
        whole = {name: p.detach().cpu() for name, p in plan.model.named_parameters()}
        plan.layout.check(whole)
        _check_scales(whole, wire)
        like = {name: p.to("meta") for name, p in whole.items()}
        self._draws = Draws(sketch, like, seed)
        agree(self._links, rank, [*digest(self._draws, wire), _sum(whole.values())])
        self._held = taken(self._draws, rank, 0, ((name, {PARAMS: p}) for name, p in whole.items()))

    @property
    def k(self) -> int:
        """The round that goes on, or comes next."""
        return self._held.k + self._merged

    def rounds(self, n_rounds: int) -> Iterator[nn.Module]:
        """This worker's subnetwork, round for round: a real, smaller module, in training mode.

        Train it in the body of the loop as you like. When the body ends, its parameters are taken
        back, merged and handed over; a body that is left by `break` leaves its round undone. It can
        be called again to go on.

        Raises:
            DivergedError: on every rank, where a parameter or a state that is carried is no finite
                number any more on one of them (an entry that was infinite before may stay so). The
                round is undone: `model` is that of its start.
            WorkerLostError: where another rank is lost.
            RunFailedError: on every rank, where another one is not at the same point of the same
                round.
        """
        for _ in range(n_rounds):
            self._begin()
            module = self._subnetwork()
            self._carried = []
            self._in_body = True
            try:
                yield module
            finally:
                self._in_body = False
                for stepped in self._carried:
                    stepped.let_go()
            self._end(module)

    def carry(self, optimizer: Optimizer) -> None:
        """Let the state of an optimizer travel with the parameters, by coordinate.

        Call it in the body of the loop, in every round, after the optimizer was made from
        `sub.parameters()`: it fills in what earlier holders of these coordinates left, and what is
        there when the body ends goes on. Without it, state starts anew whenever you make a new
        optimizer. Works for optimizers whose state has the shape of the parameter, and counts of
        steps: SGD, Adam, AdamW, Adagrad, RMSprop.

        Raises:
            ValueError: where the optimizer steps other parameters, and outside the loop's body.
        """
        if self._module is None or not self._in_body:
            raise ValueError(
                "session.carry was called where no round goes on. Call it in the body of "
                "`for sub in session.rounds(...)`, for an optimizer over sub.parameters()."
            )
        for stepped in [s for s in self._carried if s.optimizer is optimizer]:
            stepped.let_go()
            self._carried.remove(stepped)
        named = dict(self._module.named_parameters())
        self._carried.append(put(optimizer, named, self._state(), self._plan.layout))

    def model(
        self,
        *,
        everywhere: bool = False,
        stream: Callable[[], Iterable[object]] | None = None,
    ) -> nn.Module | None:
        """The whole model as it stands: a plain copy of `plan.model` with the merged parameters.

        Every rank has to call it. In the body of the loop it is the model at the round's start.

        Raises:
            RunFailedError: on every rank, where another one does not call it.

        Args:
            everywhere: whether every rank gets it; else rank 0 does, and the others get None.
            stream: yields batches of inputs, to recompute batch statistics (`recalibrate`):
                those of parts are not those of the merged model, and are not taken over.
        """
        self._all_call("session.model", {"everywhere": everywhere})
        to = tuple(range(self.n_workers)) if everywhere else (0,)
        whole = {
            name: tensors[PARAMS]
            for name, tensors in whole_parameters(
                self._held, self._draws, self.rank, self._links, to
            )
            if tensors and not is_counter(name)
        }
        if self.rank not in to:
            return None
        model = copied(self._plan.model)
        load_params(model, whole)
        if stream is not None:
            return recalibrate(model, stream)
        norms = [m for m in model.modules() if gathers(m)]
        if norms:
            warnings.warn(
                f"The model has {len(norms)} normalisations whose statistics are those that it "
                "started with. Pass stream= to session.model, or call subnetwork.nets.recalibrate.",
                stacklevel=2,
            )
        return model

    def leave(self) -> None:
        """What `join` does when its block is left: the links to the other ranks are gone."""
        self._links = left

    def _begin(self) -> None:
        self._all_call("session.rounds", {})
        if self._merged:
            self._held = self._over(handed_over(self._draws, self.rank, self._let_go(), self.wire))
            self._merged = False

    def _end(self, module: nn.Module) -> None:
        named = dict(module.named_parameters())
        _check_whole(named)
        told = self._told(named, unpacked(self._held.submodel).params)
        self._check_finite(told)
        self._make_room({kind for words in told for kind in words["kinds"]})
        own = unpacked(self._held.submodel)
        params = {name: named[name].detach().to(p) for name, p in own.params.items()}
        moments = own.moments
        if self._carried:
            after = read(self._carried, named, self._state())
            moments = {**after.moments, **({COUNTER: after.counters} if after.counters else {})}
        held = replace(self._held, submodel=packed(Submodel(params, moments)))
        self._held = self._over(merged(self._draws, self.rank, held, self.wire))
        self._merged = True

    def _told(
        self, named: Mapping[str, nn.Parameter], before: Mapping[str, Tensor]
    ) -> list[dict[str, Any]]:
        """What every rank found at the end of the round: one that took no step, nothing new."""
        states = [of for stepped in self._carried for of in stepped.state().values()]
        tensors = [t for state in states for t in state.values() if isinstance(t, Tensor)]
        words = {
            "kinds": sorted(kinds(self._carried)),
            "finite": all(_sound(named[name], p) for name, p in before.items())
            and all(bool(t.isfinite().all()) for t in tensors),
        }
        return self._all_call("the end of the body", {}, words)

    def _all_call(
        self, call: str, same: Mapping[str, Any], more: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Tell every rank what this one is about to do; what all of them told.

        Ranks that did something else would send pieces of other sizes, which gloo does not survive.

        Args:
            call: what is done.
            same: what has to be the same on all ranks.
            more: what need not be.

        Raises:
            RunFailedError: on every rank, where one of them does something else.
        """
        own: dict[str, Any] = {"call": call, "round": self.k, **same}
        told = tell(self._links, self.rank, self.n_workers, {**own, **(more or {})})
        for other, words in enumerate(told):
            if {key: words.get(key) for key in own} != own:
                raise RunFailedError(
                    f"rank {other} is at {_said(words)}, and rank {self.rank} at {_said(own)}. "
                    "Call session.rounds and session.model on every rank alike, and leave no body "
                    "by break on some of them alone."
                )
        return told

    def _check_finite(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Before anything is merged, and on all ranks alike."""
        bad = [rank for rank, words in enumerate(told) if not words["finite"]]
        if bad:
            raise DivergedError(
                f"In round {self.k} a parameter, or a state of its optimizer, is no finite number "
                f"any more on rank {', '.join(map(str, bad))}. Nothing was merged: session.model() "
                "is the model at the round's start. Use a smaller step size."
            )

    def _make_room(self, found: set[str]) -> None:
        """For state that was not there before on any rank: on all at once, and zero at first."""
        known = unpacked(self._held.submodel).moments
        new = sorted(found - set(known))
        moments = [name for name in new if name != COUNTER]
        if moments:
            self._held = with_new_moments(self._draws, self.rank, self._held, moments)
        if COUNTER in new:
            self._draws, self._held = with_new_counters(self._draws, self.rank, self._held)

    def _state(self) -> State:
        own = unpacked(self._held.submodel)
        moments = {m: t for m, t in own.moments.items() if m != COUNTER}
        return State(moments, own.moments.get(COUNTER, {}))

    def _subnetwork(self) -> nn.Module:
        own = unpacked(self._held.submodel)
        module = self._module
        if module is None or not _same_kind(module, own, self._plan):
            units = self._draws.partition(self._held.k).units(self.rank)
            module = self._plan.builder.build(self._plan.model, units)
        load_params(module, own.params)
        module.zero_grad(set_to_none=True)
        names = [name for name, _ in module.named_parameters()]
        ignored = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignored(module, names)  # type: ignore[no-untyped-call]
        self._module = module
        return module.train()

    def _let_go(self) -> Held:
        """The part, which is the exchange's from now on: its memory is needed there."""
        held = self._held
        self._held = Held(held.k, Submodel({}), {})
        return held

    def _over(self, exchange: Exchange[Held]) -> Held:
        done = carried(exchange, self._links)
        self.bytes_sent += done.bytes_sent
        self.bytes_received += done.bytes_received
        return done.result


def _said(words: Mapping[str, Any]) -> str:
    given = {None: "", False: "()", True: "(everywhere=True)"}[words.get("everywhere")]
    return f"{words['call']}{given} in round {words['round']}"


def _sound(p: Tensor, before: Tensor) -> bool:
    """Whether all entries are finite, but for infinite ones that have been so before: a mask's."""
    finite = p.isfinite()
    if finite.all():
        return True
    before = before.to(p.device)
    return bool((finite | (before.isinf() & (p == before))).all())


def _check_scales(whole: Mapping[str, Tensor], wire: Wire) -> None:
    """Raise ValueError where int8 would have to scale by infinity."""
    if wire != "int8":
        return
    endless = [name for name, p in whole.items() if not p.isfinite().all()]
    if endless:
        raise ValueError(
            f"{endless[0]} has infinite entries, and int8 sends entries by their share of the "
            "largest one. Use wire='bfloat16', which keeps infinity, or make a mask a buffer."
        )


def _same_kind(module: nn.Module, own: Submodel, plan: Plan) -> bool:
    """Whether last round's module can take these parameters: same shapes, and no unit matters."""
    shapes = {name: p.shape for name, p in module.named_parameters()}
    only_sizes = not plan.layout.depth and not plan.layout.buffers
    return only_sizes and shapes == {name: p.shape for name, p in own.params.items()}


def _check_whole(named: Mapping[str, nn.Parameter]) -> None:
    """Raise ValueError where a part was spread over ranks, which are workers with other parts."""
    from torch.distributed.tensor import DTensor

    spread = [name for name, p in named.items() if isinstance(p, DTensor)]
    if spread:
        raise ValueError(
            f"The subnetwork's {spread[0]} was sharded (fully_shard), but every process of join is "
            "a worker with a subnetwork of its own. Train it on one process."
        )


def _sum(tensors: Iterable[Tensor]) -> int:
    """A number that tells two models apart."""
    total = 0
    for t in tensors:
        total = zlib.crc32(t.contiguous().view(-1).view(torch.uint8).numpy().data, total)
    return total
