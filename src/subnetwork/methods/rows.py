"""The table of methods. A new one is a function here and a row in `METHODS`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from subnetwork.algorithm import Merge
from subnetwork.deals import AtLeast, Bernoulli, Deal, Full, Lazy, Ordered, Perm, Rolling
from subnetwork.keys import INIT, PARTITION
from subnetwork.methods.compiling import check_shapes, compiled_modules, parts
from subnetwork.methods.narrowed import narrowed
from subnetwork.methods.tasks import Task, task
from subnetwork.methods.training import Training
from subnetwork.methods.units import check_units
from subnetwork.nets import (
    Architecture,
    Gradients,
    LocalSteps,
    ModelState,
    NetPartition,
    NetSketch,
    Outer,
    StepOnGradients,
    Submodel,
    holders,
    initial_state,
)
from subnetwork.nets.architecture import without_values
from subnetwork.nets.data import GraphSet
from subnetwork.nets.layout import Layout
from subnetwork.nets.local import Local, Supervised
from subnetwork.nets.modules import Modules
from subnetwork.nets.optimizers import SGD, Adam, AdamW, Optimizer
from subnetwork.nets.scale import Scale

__all__ = ["METHODS", "Method", "Task", "method", "task"]

NetMerge = Merge[ModelState, NetPartition, Submodel]


@dataclass(frozen=True)
class Method:
    """What `rounds` is handed."""

    architecture: Architecture
    moments: tuple[str, ...]  # of the local optimizer, that travel
    init: int  # the seed of x^0
    sketch: NetSketch
    local: Local
    merge: NetMerge
    seed: int  # of the partition
    n_rounds: int
    steps_a_round: int  # local steps of a worker in a full round

    @cached_property
    def x(self) -> ModelState:
        """x^0, the same for all methods of one seed; made when it is first asked for."""
        return initial_state(self.architecture, seed=self.init, moments=self.moments)

    @cached_property
    def shapes(self) -> ModelState:
        """x^0 without its values, on the meta device: all that a worker needs of the whole."""
        return without_values(self.architecture, self.moments)


def ist(t: Task) -> Method:
    """Independent subnetwork training (Yuan et al. 2022): a permutation deals out the units."""
    return _with_local_steps(t, Perm(t.run.workers))


def lazy_ist(t: Task) -> Method:
    """IST of which a part of the units is dealt anew each round: few units change hands."""
    return _with_local_steps(t, Lazy(t.run.workers, t.run.period))


def never_dealt(t: Task) -> Method:
    """N narrow networks that are dealt once and for all, and merged: what exchange has to beat."""
    return _with_local_steps(t, Lazy(t.run.workers, None))


def narrow(t: Task) -> Method:
    """One network of a worker's size, trained alone: what other workers have to beat.

    Raises:
        ValueError: more than one worker.
    """
    if t.run.workers > 1:
        raise ValueError(
            f"narrow is one network of a worker's size, trained alone, not by {t.run.workers} "
            f"workers. Use --workers 1 --share {t.run.workers}."
        )
    small = narrowed(t.architecture, t.run.share)
    return _with_local_steps(t, Full(1), small)


def local_sgd(t: Task) -> Method:
    """Local SGD (Stich 2019): everyone trains the whole model, models are averaged."""
    return _with_local_steps(t, Full(t.run.workers))


def diloco(t: Task) -> Method:
    """DiLoCo (Douillard et al. 2023): Local SGD under an outer Nesterov step."""
    outer = replace(t, run=replace(t.run, outer="nesterov"))
    return _with_local_steps(outer, Full(t.run.workers))


def synchronous_sgd(t: Task) -> Method:
    """Synchronous data-parallel SGD: one gradient a round, averaged; the merge steps.

    Raises:
        ValueError: another optimizer, or weight decay.
    """
    if t.run.optimizer != "sgd" or t.run.weight_decay:
        raise ValueError(
            f"synchronous_sgd steps by SGD without weight decay, not by {t.run.optimizer} with "
            f"{t.run.weight_decay}. Leave the flags out, or use --method local_sgd --local-steps 1."
        )
    sketch = NetSketch(t.architecture.layout, Full(t.run.workers))
    local = Gradients(t.architecture, t.batches, _loss(t), _modules(t.run))
    merge = StepOnGradients(t.run.step_size, t.run.momentum)
    seeds = t.run.stream(INIT), t.run.stream(PARTITION)
    rounds = t.run.total_steps
    return Method(t.architecture, (), seeds[0], sketch, local, merge, seeds[1], rounds, 1)


def heterofl(t: Task) -> Method:
    """HeteroFL (Diao et al. 2021): nested prefixes of the units, by capacity."""
    return _with_local_steps(t, Ordered(_capacities(t)))


def fedrolex(t: Task) -> Method:
    """FedRolex (Alam et al. 2022): a window of the units that moves each round, by capacity."""
    return _with_local_steps(t, Rolling(_capacities(t)))


def federated_dropout(t: Task) -> Method:
    """Federated dropout (Caldas et al. 2018): every worker keeps units at random, by itself."""
    return _with_local_steps(t, Bernoulli(t.run.workers, t.run.keep))


def masked_relu(t: Task) -> Method:
    """Randomly masked neurons of one hidden layer (Liao & Kyrillidis 2022).

    Raises:
        ValueError: another model than relu.
    """
    if t.run.model != "relu":
        raise ValueError(
            f"masked_relu trains one hidden layer under fixed signs, not {t.run.model}. Use "
            "--model relu, or --method federated_dropout."
        )
    return _with_local_steps(t, Bernoulli(t.run.workers, t.run.keep))


def gist(t: Task) -> Method:
    """GIST (Wolfe et al. 2021): IST of a graph network, on clusters of the graph.

    Raises:
        ValueError: data that are no graph.
    """
    if not isinstance(t.data, GraphSet):
        raise ValueError(
            f"gist trains graph networks, and {t.data.name} is no graph. Use --data cora --model "
            "gcn, or --method ist."
        )
    return _with_local_steps(t, Perm(t.run.workers))


def resist(t: Task) -> Method:
    """ResIST (Dun et al. 2022): blocks are dealt out and left out; width stays whole.

    On gpt it is IST by blocks. Every worker holds `least_blocks` of them or more.
    """
    return _with_local_steps(t, AtLeast(t.run.workers, t.run.least_blocks))


METHODS: Mapping[str, Callable[[Task], Method]] = {
    "ist": ist,
    "lazy_ist": lazy_ist,
    "never_dealt": never_dealt,
    "narrow": narrow,
    "local_sgd": local_sgd,
    "diloco": diloco,
    "synchronous_sgd": synchronous_sgd,
    "heterofl": heterofl,
    "fedrolex": fedrolex,
    "federated_dropout": federated_dropout,
    "masked_relu": masked_relu,
    "gist": gist,
    "resist": resist,
}


def method(t: Task) -> Method:
    """The row that the run names; raises ValueError with the known names for another one."""
    if t.run.method not in METHODS:
        raise ValueError(f"There is no method {t.run.method!r}. Known are: {', '.join(METHODS)}.")
    if isinstance(t.data, GraphSet):
        _check_plain(t.run)
    row = METHODS[t.run.method](t)
    if t.run.shares == "measured":
        _check_shares(t.run, row)
    if t.run.compile:
        check_shapes(t.run.method, parts(row.shapes, row.sketch, row.seed, row.n_rounds))
    return row


def _check_shares(run: Training, row: Method) -> None:
    """Raise ValueError where shares cannot follow the speed."""
    if type(row.sketch.deal) is not Perm:
        raise ValueError(
            f"--shares measured deals unequal shares of a permutation, and {run.method} deals "
            "otherwise. Use --shares equal, or --method ist or gist."
        )
    if run.compile:
        raise ValueError(
            "--compile makes graphs for the shapes of equal shares, and --shares measured changes "
            "them. Leave one of them out."
        )


def _check_plain(run: Training) -> None:
    """Raise ValueError where a run on a graph asks for what graph networks do not do."""
    if run.compile:
        raise ValueError(
            f"--compile makes graphs for constant shapes, and batches of {run.data} have sizes of "
            "their own. Leave --compile out."
        )
    if run.autocast != "none":
        raise ValueError(
            f"--autocast {run.autocast} does not reach the sparse products of graph networks. "
            "Leave --autocast out."
        )


def _with_local_steps(t: Task, deal: Deal, architecture: Architecture | None = None) -> Method:
    run, built = t.run, architecture or t.architecture
    if isinstance(deal, Perm | Lazy):
        check_units(run, built.layout)
    local = LocalSteps(
        built,
        t.batches,
        _optimizer(run),
        run.local_steps,
        run.total_steps,
        loss=_loss(t),
        modules=_modules(run),
        scale=_scale(run, built.layout),
    )
    return Method(
        built,
        local.moments,
        run.stream(INIT),
        NetSketch(built.layout, deal),
        local,
        _merge(run),
        run.stream(PARTITION),
        math.ceil(run.total_steps / run.local_steps),
        run.local_steps,
    )


def _scale(run: Training, layout: Layout) -> Scale | None:
    """On every axis of width, or none."""
    if run.scale == "none":
        return None
    return Scale({axis: "inverted" for axis in layout.sizes if axis not in layout.depth})


def _loss(t: Task) -> Supervised:
    return Supervised(t.loss, torch.bfloat16 if t.run.autocast == "bfloat16" else None)


def _modules(run: Training) -> Modules:
    return compiled_modules() if run.compile else Modules()


def _optimizer(run: Training) -> Optimizer:
    match run.optimizer:
        case "adam":
            return Adam(run.step_size, weight_decay=run.weight_decay)
        case "adamw":
            return AdamW(run.step_size, weight_decay=run.weight_decay)
    return SGD(run.step_size, run.momentum, weight_decay=run.weight_decay)


def _capacities(t: Task) -> tuple[float, ...]:
    """One for each worker."""
    n, given = t.run.workers, t.run.capacities
    if not given:
        return tuple(0.5 ** (i % 3) for i in range(n))
    if len(given) != n:
        raise ValueError(
            f"There are {len(given)} capacities for --workers {n}. Give one share of the units in "
            "(0, 1] for each worker."
        )
    return given


def _merge(run: Training) -> NetMerge:
    """The mean over holders, and the outer step on top of it."""
    if run.outer == "nesterov":
        return Outer(run.outer_step_size, run.outer_momentum)
    return holders
