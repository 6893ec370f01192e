"""Lines 5-6 for networks: what one worker does with its submodel."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from subnetwork.keys import NOISE, key
from subnetwork.nets.architecture import Architecture
from subnetwork.nets.counters import COUNTER
from subnetwork.nets.data import Inputs
from subnetwork.nets.evaluate import called
from subnetwork.nets.modules import Modules
from subnetwork.nets.optimizers import MOMENTUM, Optimizer, check_step_size
from subnetwork.nets.scale import Scale, scaled, unscaled
from subnetwork.nets.schedules import Schedule
from subnetwork.nets.seeding import seeded
from subnetwork.nets.state import Submodel, copied
from subnetwork.nets.stepping import Stepping

__all__ = ["MOMENTUM", "Feed", "Gradients", "Local", "LocalSteps", "Loss", "Supervised"]

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""(module, batch) -> the loss to descend; the batch is whatever the feed gives."""


class Local(Protocol):
    """The local work of one worker: a function of what it is given and of nothing else."""

    def __call__(self, k: int, worker: int, submodel: Submodel, /) -> Submodel:
        """What worker i returns in round k."""
        ...


@runtime_checkable
class Stoppable(Local, Protocol):
    """Local work of several steps, which may end early with what it has."""

    def until(self, stop: Callable[[int], bool], /) -> Local:
        """The same work, which ends as soon as `stop(steps taken)` is true; one step is taken."""
        ...


class Feed(Protocol):
    """Where batches come from: a function of (worker, step), the same wherever it is asked."""

    @property
    def seed(self) -> int:
        """Seed of the data; the noise in the network is keyed by it too."""
        ...

    def batch(self, worker: int, step: int) -> Any:  # noqa: ANN401  (whatever the loss takes)
        """The batch of a worker at a global step."""
        ...


@dataclass(frozen=True)
class Supervised:
    """The loss of a module's outputs beside targets, on batches of (inputs, targets).

    With `autocast` the module multiplies in that type (torch.autocast); parameters, gradients and
    the loss itself keep float32.
    """

    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    autocast: torch.dtype | None = None

    def __call__(self, module: nn.Module, batch: tuple[Inputs, Tensor]) -> Tensor:
        """loss(module(inputs), targets); a tuple of inputs is positional arguments."""
        inputs, targets = batch
        if self.autocast is None:
            return self.loss(called(module, inputs), targets)
        with torch.autocast(next(module.parameters()).device.type, self.autocast):
            outputs = called(module, inputs)
        if isinstance(outputs, Tensor) and outputs.dtype == self.autocast:
            outputs = outputs.float()
        return self.loss(outputs, targets)


@dataclass(frozen=True)
class LocalSteps:
    """`n_steps` steps of a torch optimizer on the worker's own batches, in training mode.

    The optimizer's state comes with the submodel, cut like its parameters, and goes back with it.
    One worker that holds everything takes the steps that torch's optimizer takes, to the bit.
    Batch statistics that the module gathers on the way are dropped (see `recalibrate`).
    """

    architecture: Architecture
    batches: Feed
    optimizer: Optimizer
    n_steps: int
    total_steps: int | None = None
    """With it the last round does only the steps that are left."""
    loss: Loss = field(default_factory=Supervised)
    schedule: Schedule | None = None
    """Global step -> factor on the step size."""
    clip: float | None = None
    """Largest norm of the gradient of the worker's subnetwork; longer ones are shortened to it."""
    state: Literal["slice", "reset"] = "slice"
    """slice: the state travels. reset: it starts anew each round, and the model carries none."""
    scale: Scale | None = None
    """Scale of the axes; None: none."""
    seconds: float | None = None
    """Stop after the step during which so much time is over, for workers that may be slow. What
    such a round returns depends on the clock; its `n_steps` says how far it came."""
    stop: Callable[[int], bool] | None = field(default=None, compare=False)
    """Asked after each step, by how many are taken; see `until`."""
    in_place: bool = False
    """Train in the submodel's own memory: what is returned is what was given, overwritten."""
    let_go: Callable[[list[Tensor]], None] | None = field(default=None, compare=False)
    """Told the last step's gradients, whose memory may be used again: nothing that the module or
    its hooks did may still refer to it."""
    modules: Modules = field(default_factory=Modules, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, int | float):
            raise ValueError(
                f"LocalSteps takes an optimizer, not the step size {self.optimizer}. "
                f"Write SGD({self.optimizer}), of subnetwork.nets."
            )
        if min(self.n_steps, self.total_steps or 1) < 1:
            raise ValueError(f"A round takes at least one local step, not {self.n_steps}.")
        if self.clip is not None:
            check_step_size(self.clip)
        if self.state not in ("slice", "reset"):
            raise ValueError(
                f"The optimizer's state is sliced or reset each round, not {self.state!r}. "
                "Use state='slice' or state='reset'."
            )

    @property
    def moments(self) -> tuple[str, ...]:
        """The moments that the model has to carry: `initial_state(..., moments=local.moments)`."""
        return self.optimizer.moments if self.state == "slice" else ()

    def until(self, stop: Callable[[int], bool], /) -> "LocalSteps":
        """The same steps, but none after `stop(steps taken)` is true."""
        return replace(self, stop=stop)

    def steps(self, k: int) -> range:
        """Global numbers of the steps of round k: a batch is named by (worker, step)."""
        end = (k + 1) * self.n_steps
        steps = range(k * self.n_steps, min(end, self.total_steps or end))
        if not steps:
            raise ValueError(
                f"Round {k} has no local step left of total_steps={self.total_steps}. Run "
                f"{-(-(self.total_steps or 0) // self.n_steps)} rounds."
            )
        return steps

    def __call__(self, k: int, worker: int, submodel: Submodel, /) -> Submodel:
        """z_i^+ after the round's steps, with its moments and the mean of its training losses."""
        self._check(submodel)
        steps = self.steps(k)
        z = submodel if self.in_place else copied(submodel)
        layout = self.architecture.layout
        with self.modules.lent(self.architecture, z) as (module, named), torch.enable_grad():
            scales = self.scale.of(layout, module, z) if self.scale else {}
            scaled(z, scales)
            stepping = Stepping(self.optimizer, named, z.moments, layout, scales)
            with _keyed_noise(self.batches, worker, k):
                losses = self._train(module, named, stepping, scales, (worker, steps))
            stepping.write_counters()
            if self.let_go is not None:
                self.let_go([p.grad for p in named.values() if p.grad is not None])
        unscaled(z, scales)
        return replace(z, loss=sum(losses) / len(losses), n_steps=len(losses))

    def _train(
        self,
        module: nn.Module,
        named: Mapping[str, nn.Parameter],
        stepping: Stepping,
        scales: Mapping[str, float],
        where: tuple[int, range],
    ) -> list[float]:
        """The losses of the steps that were done: all, or those for which there was time."""
        worker, steps = where
        losses: list[float] = []
        stop = self._stop()
        for step in steps:
            stepping.zero_grad()
            loss = self.loss(module, self.batches.batch(worker, step))
            torch.autograd.backward(loss)
            if self.clip is not None:
                _clip(named, scales, self.clip)
            stepping.step(self.schedule(step) if self.schedule else 1.0)
            losses.append(loss.item())
            if stop(len(losses)):
                break
        return losses

    def _stop(self) -> Callable[[int], bool]:
        """Whether the round that begins now ends after so many steps: told to, or out of time."""
        told = self.stop or (lambda _: False)
        if self.seconds is None:
            return told
        end = time.monotonic() + self.seconds
        return lambda taken: told(taken) or time.monotonic() >= end

    def _check(self, submodel: Submodel) -> None:
        if set(self.moments) != set(submodel.moments):
            needed = list(self.moments)
            raise ValueError(
                f"{self.optimizer} with state={self.state!r} needs the moments {needed}, but the "
                f"model carries {list(submodel.moments)}. "
                f"Start from initial_state(..., moments={needed}), or plan.state(moments={needed})."
            )
        counters = submodel.moments.get(COUNTER, {}).values()
        if any(counter.element_size() < 4 for counter in counters):
            raise ValueError(
                f"{self.optimizer} counts steps in the parameters' dtype, which has 16 bits: it "
                "would stop at 256. Keep parameters in float32 under autocast, or state='reset'."
            )


@dataclass(frozen=True)
class Gradients:
    """One gradient on the worker's own batch, returned instead of a trained submodel."""

    architecture: Architecture
    batches: Feed
    loss: Loss = field(default_factory=Supervised)
    modules: Modules = field(default_factory=Modules, repr=False, compare=False)

    def __call__(self, k: int, worker: int, submodel: Submodel, /) -> Submodel:
        """C_i grad f_i(w_i) on batch k of worker i (line 5)."""
        with self.modules.lent(self.architecture, submodel) as (module, named):
            batch = self.batches.batch(worker, k)
            with _keyed_noise(self.batches, worker, k), torch.enable_grad():
                loss = self.loss(module, batch)
            torch.autograd.backward(loss)
            gradients = {
                name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named.items()
            }
        return Submodel(gradients, submodel.moments, loss.item(), 1)


@contextmanager
def _keyed_noise(batches: Feed, worker: int, k: int) -> Iterator[None]:
    """Dropout and the like draw from (seed, worker, round), wherever the worker lives."""
    with seeded(key(batches.seed, NOISE, worker, k)):
        yield


def _clip(named: Mapping[str, nn.Parameter], scales: Mapping[str, float], clip: float) -> None:
    """Shorten the gradient to the norm `clip`; where w is held as s w, its gradient is s times."""
    found = {name: p.grad for name, p in named.items() if p.grad is not None}
    norms = [grad * scales[name] if name in scales else grad for name, grad in found.items()]
    clip_grads_with_norm_([named[name] for name in found], clip, get_total_norm(norms))
