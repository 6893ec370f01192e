"""The saw-tooth of randomly masked neurons (Liao & Kyrillidis 2022): train, merge, resample.

A network of one hidden layer of ReLU under fixed signs; every worker keeps each neuron with
probability `keep`, takes tau gradient steps on all rows, the neurons are merged, and new masks are
drawn. Within a round the loss of the masked networks falls; under new masks it jumps up again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from subnetwork.algorithm import rounds
from subnetwork.deals import Bernoulli
from subnetwork.experiments import evidence
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.experiments.runs import rows_of
from subnetwork.record import Row
from subnetwork.shapes import Floats

if TYPE_CHECKING:
    from torch import Tensor

    from subnetwork.nets import NetPartition, Submodel

NAME = "saw_tooth"
KEEP = (0.5, 0.8, 1.0)
INPUTS = 10


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, and how."""

    n_rounds: int
    n_workers: int
    n_steps: int
    neurons: int
    n_rows: int
    step_size: float


def run(
    *,
    n_rounds: int = 20,
    n_seeds: int = 3,
    n_workers: int = 4,
    seed: int = 0,
    n_steps: int = 10,
    neurons: int = 512,
    n_rows: int = 40,
) -> Evidence:
    """Train masked networks on made-up rows by full gradients; needs torch.

    Args:
        n_rounds: rounds of tau steps, a merge and new masks.
        n_seeds: runs, each with rows, weights and masks of its own.
        n_workers: n; all of them see all rows.
        seed: the seed of these runs' seeds.
        n_steps: tau, local steps a round.
        neurons: m.
        n_rows: rows on the unit sphere, with targets N(0, 1).

    Returns:
        The mean loss of the masked networks against local steps, for every keep in `KEEP`; at the
        end of a round there are two values, under the old masks and under the new ones. Verdicts:
        new masks raise the loss, the steps between lower it; without masks nothing jumps; fewer
        neurons kept end higher.
    """
    evidence.require_runs(n_rounds, n_seeds)
    setting = Setting(
        n_rounds=n_rounds,
        n_workers=n_workers,
        n_steps=n_steps,
        neurons=neurons,
        n_rows=n_rows,
        step_size=n_rows / 20,  # a twentieth of the sum of squares, below the limit of stability
    )
    seeds = evidence.run_seeds(seed, n_seeds)
    courses = {keep: np.array([course(setting, keep, s) for s in seeds]) for keep in KEEP}
    config = {
        "figure": "curves",
        "x": "step",
        "x_label": "local steps",
        "measure": "mean loss of the masked networks",
        **asdict(setting),
        "n_seeds": n_seeds,
        "seed": seed,
    }
    rows = [row for keep in KEEP for row in _rows(setting, keep, courses[keep])]
    return Evidence(NAME, config, rows, _outcomes(courses))


def course(setting: Setting, keep: float, seed: int) -> Floats:
    """The mean loss over the workers of one run.

    Returns:
        A row a round; a column before each of the tau steps and one after the last of them.
    """
    import torch

    from subnetwork.nets import (
        SGD,
        Gradients,
        LocalSteps,
        NetSketch,
        Supervised,
        decompose,
        holders,
        initial_state,
    )
    from subnetwork.nets.models import MaskedReLU

    generator = torch.Generator().manual_seed(seed % 2**63)
    x = torch.nn.functional.normalize(torch.randn(setting.n_rows, INPUTS, generator=generator))
    rows = _AllRows(x, torch.randn(setting.n_rows, 1, generator=generator), seed)
    plan = decompose(MaskedReLU(INPUTS, setting.neurons, 1), x, verify=False)
    mean_square = Supervised(torch.nn.functional.mse_loss)
    step = LocalSteps(plan, rows, SGD(setting.step_size), 1, loss=mean_square)
    after = Gradients(plan, rows, mean_square)
    losses: list[list[float]] = []

    def work(k: int, _: "NetPartition", submodels: "Sequence[Submodel]") -> "list[Submodel]":
        z, seen = list(submodels), []
        for t in range(setting.n_steps):
            z = [step(k * setting.n_steps + t, i, part) for i, part in enumerate(z)]
            seen.append(np.mean([part.loss for part in z]))  # before the step
        seen.append(np.mean([after(k, i, part).loss for i, part in enumerate(z)]))
        losses.append([float(loss) for loss in seen])
        return z

    start = initial_state(plan, seed=seed % 2**63)
    sketch = NetSketch(plan.layout, Bernoulli(setting.n_workers, keep))
    for _ in rounds(start, sketch, work, holders, seed=seed, n_rounds=setting.n_rounds):
        pass
    return np.array(losses)


@dataclass(frozen=True, eq=False)
class _AllRows:
    """A feed that gives every worker all rows in every step."""

    inputs: "Tensor"
    targets: "Tensor"
    seed: int

    def batch(self, worker: int, step: int) -> "tuple[Tensor, Tensor]":
        del worker, step
        return self.inputs, self.targets


def _rows(setting: Setting, keep: float, runs: Floats) -> list[Row]:
    """Two rows where masks change, at the same step."""
    steps = [k * setting.n_steps + t for k in range(setting.n_rounds) for t in range(runs.shape[2])]
    name = "no masks" if keep == 1 else f"keep {keep:g}"
    found = rows_of(name, steps, runs.reshape(len(runs), -1))
    return [{**row, "step": row["k"]} for row in found]


def _outcomes(courses: Mapping[float, Floats]) -> list[Outcome]:
    """The jumps, the way down between them, and where it ends; from the mean over seeds."""
    found, ends = [], {}
    for keep, runs in courses.items():
        mean = runs.mean(axis=0)
        jumps = mean[1:, 0] / mean[:-1, -1] - 1
        ends[keep] = float(mean[-max(1, len(mean) // 4) :, -1].mean())
        if keep == 1:
            largest = float(np.abs(jumps).max(initial=0.0))
            claim = "without masks a merge changes nothing: the largest jump is rounding"
            found.append(Outcome(claim, "", largest, 1e-4, verdict(largest <= 1e-4), record=NAME))
            continue
        jump = float(jumps.mean()) if jumps.size else 0.0
        claim = f"keep {keep:g}: new masks raise the loss; the mean relative jump is above zero"
        found.append(Outcome(claim, "", jump, 0.0, verdict(jump > 0), record=NAME))
        falls = float((mean[:, -1] / mean[:, 0]).max())
        claim = f"keep {keep:g}: the steps of a round lower it; its largest factor in a round"
        found.append(Outcome(claim, "", falls, 1.0, verdict(falls < 1), record=NAME))
    order = [ends[keep] for keep in sorted(ends)]
    claim = (
        "fewer neurons kept end higher: the end at keep 0.5 is above that at 0.8, above no masks"
    )
    stands = all(a > b for a, b in pairwise(order))
    return [*found, Outcome(claim, "", order[0], order[1], verdict(stands), record=NAME)]
