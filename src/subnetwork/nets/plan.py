"""A plan: what of a model is cut, how its subnetworks are built, and what they cost."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from subnetwork.deals import Deal, Hands
from subnetwork.nets.axes import Axis
from subnetwork.nets.bench import Bench
from subnetwork.nets.builders import Builder
from subnetwork.nets.builders.block import Block
from subnetwork.nets.copying import HELD, OF, uncompiled
from subnetwork.nets.counters import no_moments
from subnetwork.nets.hollow import filled, hollowed, with_statistics, with_values
from subnetwork.nets.layout import Layout
from subnetwork.nets.partition import NetPartition, NetSketch
from subnetwork.nets.state import ModelState
from subnetwork.nets.table import table, text
from subnetwork.nets.trace.tracer import Inputs
from subnetwork.nets.verify import Evidence, measured

GIVE_IT = "Give it the model with its values."


@dataclass(frozen=True, repr=False)
class Plan:
    """How one model is cut into physically smaller ones. Made by `decompose`.

    A plan is an `Architecture`: sketches, local work, merges and runtimes take it as they take
    an `MLP`. It refers to the model that it was made from and never changes it.

    >>> import torch
    >>> from subnetwork import Perm, decompose
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> plan = decompose(model, torch.ones(3, 4))
    >>> subs = plan.cut(model, deal=Perm(2))
    >>> subs[0][0]
    Linear(in_features=4, out_features=4, bias=True)
    """

    model: nn.Module
    inputs: Inputs
    layout: Layout  # cut along the axes of the plan
    builder: Builder
    axes: tuple[Axis, ...]  # all that the model has
    whole: Mapping[str, str]  # axis that is not cut -> why
    blocks: tuple[Block, ...] = ()  # the units of its axis of depth
    kept: Mapping[str, str] = field(default_factory=dict)  # block that cannot be left out -> why
    fixed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # why -> dims without axis
    notes: tuple[str, ...] = ()
    evidence: Evidence | None = None  # None: never measured

    @property
    def exact(self) -> bool:
        """Whether its subnetworks are meant to equal the model at masked parameters."""
        return not any(axis.flags for axis in self.axes if axis.name in self.layout.sizes)

    def build(self, units: Mapping[str, Tensor], /) -> nn.Module:
        """A module with these units of each axis, holding the model's values, if it has any.

        Raises:
            ValueError: where a buffer holds a value a unit, so that numbers do not determine it, or
                has no value and is no batch statistic.
        """
        odd = [name for name in self.layout.buffers if not _is_statistic(self.model, name)]
        sizes = {a: n for a, n in self.layout.sizes.items() if a not in self.layout.depth}
        if odd and any(len(units[axis]) < n for axis, n in sizes.items()):
            raise ValueError(
                f"The buffer {odd[0]} holds values of single units, and their number does not "
                "say which ones a module holds. Build it with plan.cut(model, deal=...) instead."
            )
        device = torch.get_default_device()
        indexing = torch.device("cpu") if device.type == "meta" else nullcontext()
        with indexing:
            part = self.builder.build(self.model, units)
        filled(part, device)
        return part if device.type == "meta" else with_statistics(part, device)

    def hollow(self) -> "Plan":
        """The same plan, which keeps the shapes of the model and lets go of its values.

        Its parts have memory for their parameters and nothing in it: for `initial_state`, local
        work, merges and `runtime.seated`, which bring the values, so that a worker holds those of
        its part alone. `cut`, `merge` and `state` want the model then, and `join` the plan as it
        was. A plan of parts that are built by export stays as it is: the graph has the values too.
        """
        if self.builder.kind == "export":
            return self
        return replace(self, model=hollowed(self.model))

    def state(self, model: nn.Module | None = None, *, moments: Sequence[str] = ()) -> ModelState:
        """x: copies of the parameters of the model, with optimizer moments that start at zero.

        Raises:
            ValueError: where the plan is hollow and no model is given.
        """
        named = with_values(model or self.model, "plan.state", GIVE_IT).named_parameters()
        params = {name: p.detach().clone() for name, p in named}
        self.layout.check(params)
        return ModelState(params, no_moments(self.layout, params, moments))

    def cut(
        self,
        model: nn.Module,
        *,
        deal: Deal | Mapping[str, Deal],
        seed: int = 0,
        round: int = 0,
    ) -> list[nn.Module]:
        """One smaller module for each worker, with copies of the model's values.

        Args:
            model: the one of the plan, or another of the same architecture.
            deal: who gets which units of each axis; one for all, or one for each pattern of names.
            seed: of the deal; the same seed and round give the same cut anywhere.
            round: number of the round.

        Returns:
            n modules in the model's mode, whose parameters have the model's names. Each says in
            its attribute ``held_units`` which units of each axis it holds.
        """
        model = uncompiled(model)
        self.layout.check(dict(model.named_parameters()))
        partition = NetSketch(self.layout, deal).sample(seed, round)
        return [self._part(model, partition.units(i)) for i in range(partition.n_workers)]

    def _part(self, model: nn.Module, units: Mapping[str, Tensor]) -> nn.Module:
        part = self.builder.build(model, units)
        object.__setattr__(part, HELD, dict(units))
        object.__setattr__(part, OF, dict(self.layout.sizes))
        return part

    def merge(self, model: nn.Module, subs: Iterable[nn.Module]) -> nn.Module:
        """Write trained parts back, in place: the mean over the holders of each entry.

        An entry that one part holds takes its value, one that nobody holds keeps its own. Buffers
        are left alone: recalibrate batch statistics (`subnetwork.nets.recalibrate`).

        Parts of another type, or on another device, are brought back to the model's; a compiled
        part is the part.

        Raises:
            ValueError: where there is no part, a part does not say which units it holds, is one of
                another plan, or has not the parameters of its units, in their shapes; where the
                model has no values.
        """
        subs, given = list(subs), with_values(model, "plan.merge", GIVE_IT)
        if not subs:
            raise ValueError("plan.merge was given no parts. Give it those of plan.cut.")
        model = uncompiled(model)
        if not all(hasattr(sub, HELD) for sub in subs):
            raise ValueError(
                "plan.merge was given a module that does not say which units it holds. "
                "Give it the modules that plan.cut returned."
            )
        if any(getattr(sub, OF) != dict(self.layout.sizes) for sub in subs):
            raise ValueError(
                "plan.merge was given a part of another plan, whose axes have other units. Merge "
                "with the plan that cut it."
            )
        hands: dict[str, Hands] = {
            axis: tuple(getattr(sub, HELD)[axis].numpy() for sub in subs)
            for axis in self.layout.sizes
        }
        whole = {name: p.detach() for name, p in model.named_parameters()}
        partition = NetPartition(self.layout, hands)
        parts = [_brought_back(sub, whole, partition, i) for i, sub in enumerate(subs)]
        merged = partition.merge(whole, parts)
        for name, p in whole.items():
            p.copy_(merged[name])
        return given

    def verify(self, *, gradients: bool = False) -> "Plan":
        """Measure again, near the model's present values; returns the plan with the evidence.

        Raises:
            ValueError: where a subnetwork is not the model at masked parameters, or the plan is
                hollow.
        """
        with_values(self.model, "plan.verify", "Ask the plan of a model with values, not hollow().")
        if not self.exact:
            raise ValueError(
                "There is nothing to verify: the plan cuts flagged axes, so that its subnetworks "
                "are not the model at masked parameters. Make one without inexact=True."
            )
        bench = Bench.of(self.model, self.inputs, self.layout)
        builder = self.builder.at(bench.model, bench.inputs)
        evidence = measured(bench, builder, gradients=gradients)
        if evidence.problem:
            raise ValueError(
                f"The plan does not hold: {evidence.problem}. "
                "Make a new one with decompose, which leaves the axis at fault whole."
            )
        return replace(self, evidence=evidence)

    def table(self, n_workers: int = 2) -> str:
        """What a worker holds, computes, remembers and is sent, for n workers, beside the whole."""
        return table(self, n_workers)

    def __str__(self) -> str:
        """Axes, what stays whole and why, and how the subnetworks are built."""
        return text(self)

    __repr__ = __str__


def _brought_back(
    sub: nn.Module, whole: Mapping[str, Tensor], partition: NetPartition, i: int
) -> dict[str, Tensor]:
    """The parameters of part i, in the types of the whole ones and where these are."""
    named = dict(uncompiled(sub).named_parameters())
    lacking = [name for name in whole if partition.holds(name, i) and name not in named]
    if lacking:
        raise ValueError(
            f"plan.merge was given a part without {lacking[0]}, which it holds. Give it the "
            "modules that plan.cut returned, without a wrapper."
        )
    for name, p in whole.items():
        shape = partition.entries(name, p, i).shape
        if name in named and partition.holds(name, i) and tuple(named[name].shape) != shape:
            raise ValueError(
                f"plan.merge was given a part whose {name} has shape {tuple(named[name].shape)}, "
                f"but its units make {shape}. Give it the modules that plan.cut returned."
            )
    return {name: named[name].detach().to(p) for name, p in whole.items() if name in named}


def _is_statistic(model: nn.Module, name: str) -> bool:
    """Whether a buffer belongs to batch normalisation, which fills it anew."""
    path, _, _ = name.rpartition(".")
    return isinstance(model.get_submodule(path), nn.modules.batchnorm._NormBase)
