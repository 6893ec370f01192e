"""The table of methods. A new one is a function here and a row in `METHODS`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from subnetwork.algorithm import Merge
from subnetwork.deals import Deal, Full, Perm
from subnetwork.keys import DATA, INIT, PARTITION
from subnetwork.methods.training import Training
from subnetwork.nets import (
    MLP,
    SGD,
    Batches,
    DataSet,
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
    load,
)
from subnetwork.nets.local import Local

NetMerge = Merge[ModelState, NetPartition, Submodel]


@dataclass(frozen=True)
class Task:
    """A run with its data and its network: what every method of one seed shares."""

    run: Training
    data: DataSet
    architecture: MLP
    batches: Batches

    def start(self, moments: tuple[str, ...] = ()) -> ModelState:
        """x^0, the same for all methods of one seed."""
        return initial_state(self.architecture, seed=self.run.stream(INIT), moments=moments)


@dataclass(frozen=True)
class Method:
    """What `rounds` is handed."""

    x: ModelState  # x^0
    sketch: NetSketch
    local: Local
    merge: NetMerge
    seed: int  # of the partition
    n_rounds: int
    steps_a_round: int  # local steps of a worker in a full round


def task(run: Training) -> Task:
    """Load the data and size the network; raises ValueError for unknown names and bad sizes."""
    data = load(run.data, run.stream(DATA))
    inputs, targets = data.train_inputs, data.train_targets
    architecture = MLP(inputs.shape[1], tuple(run.hidden), data.n_classes)
    batches = Batches(inputs, targets, run.workers, run.batch_size, run.stream(DATA))
    return Task(run, data, architecture, batches)


def ist(t: Task) -> Method:
    """Independent subnetwork training (Yuan et al. 2022): a permutation deals out the neurons."""
    return _with_local_steps(t, Perm(t.run.workers), holders)


def local_sgd(t: Task) -> Method:
    """Local SGD (Stich 2019): everyone trains the whole model, models are averaged."""
    return _with_local_steps(t, Full(t.run.workers), holders)


def diloco(t: Task) -> Method:
    """DiLoCo (Douillard et al. 2023): Local SGD under an outer Nesterov step."""
    outer = Outer(t.run.outer_step_size, t.run.outer_momentum)
    return _with_local_steps(t, Full(t.run.workers), outer)


def synchronous_sgd(t: Task) -> Method:
    """Synchronous data-parallel SGD: one gradient a round, averaged; the merge steps."""
    sketch = NetSketch(t.architecture.layout, Full(t.run.workers))
    local = Gradients(t.architecture, t.batches)
    merge = StepOnGradients(t.run.step_size, t.run.momentum)
    return Method(t.start(), sketch, local, merge, t.run.stream(PARTITION), t.run.total_steps, 1)


METHODS: Mapping[str, Callable[[Task], Method]] = {
    "ist": ist,
    "local_sgd": local_sgd,
    "diloco": diloco,
    "synchronous_sgd": synchronous_sgd,
}


def method(t: Task) -> Method:
    """The row that the run names; raises ValueError with the known names for another one."""
    if t.run.method not in METHODS:
        raise ValueError(f"There is no method {t.run.method!r}. Known are: {', '.join(METHODS)}.")
    return METHODS[t.run.method](t)


def _with_local_steps(t: Task, deal: Deal, merge: NetMerge) -> Method:
    run = t.run
    sketch = NetSketch(t.architecture.layout, deal)
    optimizer = SGD(run.step_size, run.momentum)
    local = LocalSteps(t.architecture, t.batches, optimizer, run.local_steps, run.total_steps)
    x = t.start(local.moments)
    n_rounds = math.ceil(run.total_steps / run.local_steps)
    return Method(x, sketch, local, merge, run.stream(PARTITION), n_rounds, run.local_steps)
