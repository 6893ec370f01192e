"""From a model and a batch to a plan: trace, choose, build, prove."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from torch import nn
from torch.nn.parameter import is_lazy

from subnetwork.nets.axes import NOT_NAMED, Axis, Found, chosen, found, patterns, restricted
from subnetwork.nets.bench import Bench
from subnetwork.nets.builders import Builder, CannotBuildError
from subnetwork.nets.builders.block import Block
from subnetwork.nets.builders.blocks import hooked
from subnetwork.nets.builders.copy import Copy
from subnetwork.nets.builders.export import NOT_EXPORTED, exported
from subnetwork.nets.copying import uncompiled
from subnetwork.nets.depth import chosen_blocks, skippable, with_blocks
from subnetwork.nets.hollow import with_values
from subnetwork.nets.layout import Layout
from subnetwork.nets.overlaps import check_memory
from subnetwork.nets.plan import Plan
from subnetwork.nets.terms import axes_of
from subnetwork.nets.trace.rule import Rule
from subnetwork.nets.trace.tracer import Inputs, rehearse, trace
from subnetwork.nets.verify import Evidence, measured, problem_running

Make: TypeAlias = Callable[[nn.Module, Inputs, Layout, Mapping[str, Block]], Builder]
BUILDERS: dict[str, Make] = {
    "copy": lambda _, __, layout, skips: Copy(layout, skips),
    "export": lambda model, inputs, layout, _: exported(model, inputs, layout),
}
NOT_PROVED = "Without them take verify=False, and no blocks: nothing is proved then."


def decompose(  # noqa: PLR0913 (each has a name and a default)
    model: nn.Module,
    example_batch: object,
    *,
    width: Sequence[str] | None = None,
    depth: bool | Sequence[str] = False,
    inexact: bool = False,
    verify: bool = True,
    builder: str | None = None,
    rules: Sequence[Rule] = (),
) -> Plan:
    """Find out how a model can be cut into physically smaller networks, and prove it.

    A subnetwork is the model with some of its units zeroed, f(C x), computed with smaller tensors.
    One forward pass shows which dims of which parameters hold the same units. With `verify` the
    subnetworks of several cuts are compared with the masked model in float64 and training mode; an
    axis that does not pass stays whole, and the plan says why.

    Args:
        model: any module; it is neither changed nor moved.
        example_batch: what `model` is called with: a tensor, a tuple or list of positional or a
            dict of keyword arguments; a list that is one argument is given as ``([...],)``. Sizes
            other than the batch's should be typical.
        width: patterns of the names of the axes to cut, such as ``["*.heads", "*.mlp.hidden"]``;
            a string is one pattern. None takes all exact, outermost axes: heads, not the width of
            a head; () takes none.
        depth: whether whole blocks may be left out as well: those that are the identity when their
            parameters are zero. They are the units of the axis ``blocks``. Patterns of names, such
            as ``["layer3.*"]``, take some of them; the others stay in every part.
        inexact: whether axes may be cut whose units meet in a normalisation, a softmax or a mean,
            so that a part is not the model at masked parameters.
        verify: whether to prove the plan; without it, parts are only run once.
        builder: ``"copy"`` or ``"export"``; None takes a patched copy where that passes and an
            exported graph where it does not.
        rules: what operations or layers that the tracer does not know do with their dims.

    Raises:
        ValueError: where nothing can be cut, a pattern names no axis, the model does not run on
            the batch or cannot be copied, two of its parameters are views of one memory, or it has
            no values and is to be proved.
    """
    model = _ready(model)
    if verify or depth:
        with_values(model, "decompose", NOT_PROVED)
    inputs = Inputs.of(example_batch)
    everything = found(trace(model, inputs, rules))
    search = _Search(model, inputs, everything, _makes(builder), verify)
    width = None if width is None else patterns(width)
    whole, cut = chosen(everything.axes, width, inexact)
    blocks, kept = search.blocks(depth) if depth else ((), {})
    while cut or blocks:
        attempt = search.attempt(cut, blocks)
        if attempt.builder is not None:
            return search.plan(whole, kept, attempt)
        fallen = search.falls(cut, blocks)
        if not fallen:
            names = [*cut, *(block.path for block in blocks)]
            raise ValueError(
                f"{names} can be cut one by one but not together: {'; '.join(attempt.problems)}. "
                "Name some of them in width= and depth=."
            )
        whole = {**whole, **{axis: why for axis, why in fallen.items() if axis in cut}}
        kept = {**kept, **{path: why for path, why in fallen.items() if path not in cut}}
        cut = tuple(axis for axis in cut if axis not in fallen)
        blocks = tuple(block for block in blocks if block.path not in fallen)
    raise ValueError(_nothing_to_cut(model, everything, whole, kept))


def plan_from(
    layout: Layout,
    model: nn.Module,
    example_batch: object,
    *,
    verify: bool = True,
    builder: str | None = None,
) -> Plan:
    """The plan of a layout that was edited or written by hand, proved like a traced one.

    Args:
        layout: the axes to cut and the term of every dim of every parameter of the model.
        model: any module.
        example_batch: what it is called with, as for `decompose`.
        verify: whether to prove the plan; without it, parts are only run once.
        builder: ``"copy"``, ``"export"`` or None, as for `decompose`.

    Raises:
        ValueError: where the layout does not fit the model, or its parts are not the model at
            masked parameters.
    """
    model = _ready(model)
    if verify or layout.depth:
        with_values(model, "plan_from", NOT_PROVED)
    layout.check(dict(model.named_parameters()))
    places = {
        axis: tuple(
            f"{name}[{d}]"
            for name, dims in layout.dims.items()
            for d, dim in enumerate(dims)
            if axis in axes_of(dim)
        )
        for axis in layout.sizes
    }
    axes = tuple(Axis(axis, n, (), False, places[axis]) for axis, n in layout.sizes.items())
    everything = Found(axes, layout, {}, (), None)
    inputs = Inputs.of(example_batch)
    rehearse(model, inputs)
    search = _Search(model, inputs, everything, _makes(builder), verify)
    attempt = search.attempt_layout(layout, search.named_blocks(layout))
    if attempt.builder is None:
        raise ValueError(
            f"The layout does not hold for {type(model).__name__}: {'; '.join(attempt.problems)}. "
            "Compare it with decompose(model, batch).layout."
        )
    return search.plan({}, {}, attempt)


@dataclass(frozen=True)
class _Attempt:
    """A builder that passed, with its evidence; or why none did."""

    layout: Layout
    builder: Builder | None
    evidence: Evidence | None
    problems: tuple[str, ...]
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class _Search:
    model: nn.Module
    inputs: Inputs
    found: Found
    makes: Mapping[str, Make]
    verify: bool

    @cached_property
    def bench(self) -> Bench:
        return Bench.of(self.model, self.inputs, self.found.layout)

    def blocks(self, depth: bool | Sequence[str]) -> tuple[tuple[Block, ...], Mapping[str, str]]:
        """The blocks that are to be left out, and those that cannot be, with the reason."""
        everything = skippable(self.bench)
        return chosen_blocks(everything, depth), everything.kept

    def named_blocks(self, layout: Layout) -> tuple[Block, ...]:
        """The blocks that a layout names; raises ValueError where one cannot be left out."""
        if nameless := [axis for axis in layout.depth if axis not in layout.unit_names]:
            raise ValueError(
                f"The layout says which parameters belong to the blocks of {nameless}, but not "
                "which modules they are. Write their paths into unit_names."
            )
        names = [name for names in layout.unit_names.values() for name in names]
        found = {block.path: block for block in self.blocks(names)[0]} if names else {}
        return tuple(found[name] for name in names if name in found)

    def attempt(self, cut: Sequence[str], blocks: Sequence[Block]) -> _Attempt:
        """Cut these axes and blocks, and no others."""
        return self.attempt_layout(with_blocks(restricted(self.found.layout, cut), blocks), blocks)

    def attempt_layout(self, layout: Layout, blocks: Sequence[Block]) -> _Attempt:
        """The first builder whose subnetworks pass."""
        problems: list[str] = []
        skips = {block.path: block for block in blocks}
        for kind, make in self.makes.items():
            try:
                made = make(self.model, self.inputs, layout, skips)
                evidence = self.judged(made, layout)
            except CannotBuildError as problem:
                problems.append(f"{kind}: {problem}")
                continue
            if evidence.problem is None:
                return _Attempt(layout, made, evidence, tuple(problems), tuple(blocks))
            problems.append(f"{kind}: {evidence.problem}")
        return _Attempt(layout, None, None, tuple(problems))

    def judged(self, made: Builder, layout: Layout) -> Evidence:
        """Proved, or only run: without `verify`, and where a flagged axis is to be cut."""
        flagged = any(axis.flags for axis in self.found.axes if axis.name in layout.sizes)
        if flagged or not self.verify:
            return Evidence(problem=problem_running(self.model, self.inputs, layout, made))
        bench = replace(self.bench, layout=layout)
        return measured(bench, made.at(bench.model, bench.inputs))

    def falls(self, cut: Sequence[str], blocks: Sequence[Block]) -> dict[str, str]:
        """The axes and blocks that do not pass by themselves, with what was measured."""
        alone = {axis: self.attempt((axis,), ()) for axis in cut}
        alone |= {block.path: self.attempt((), (block,)) for block in blocks}
        return {name: "; ".join(a.problems) for name, a in alone.items() if a.builder is None}

    def plan(self, whole: Mapping[str, str], kept: Mapping[str, str], attempt: _Attempt) -> Plan:
        """The plan of an attempt that passed."""
        assert attempt.builder is not None
        notes = [self.found.note] if self.found.note else []
        if names := hooked(self.model):
            few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            notes.append(f"parts do not have the hooks on {few}: register them on each part's own")
        return Plan(
            model=self.model,
            inputs=self.inputs,
            layout=attempt.layout,
            builder=attempt.builder,
            axes=self.found.axes,
            whole=whole,
            blocks=attempt.blocks,
            kept=kept,
            fixed=self.found.fixed,
            notes=(*notes, *(f"not built by {p}" for p in attempt.problems), *self.found.unknown),
            evidence=attempt.evidence if self.verify else None,
        )


def _ready(model: nn.Module) -> nn.Module:
    """The model itself; raises ValueError where its tensors are not there, or not each its own."""
    model = uncompiled(model)
    tensors = (*model.named_parameters(), *model.named_buffers())
    if lazy := [name for name, x in tensors if is_lazy(x)]:
        raise ValueError(
            f"{lazy[0]} has no shape yet: its layer is lazy and takes it from the first batch. "
            "Run model(batch) once before the model is cut."
        )
    check_memory(model)
    return model


def _makes(builder: str | None) -> Mapping[str, Make]:
    if builder is None:
        return BUILDERS
    if builder not in BUILDERS:
        raise ValueError(
            f"There is no builder {builder!r}: subnetworks are patched copies or exported graphs. "
            f"Take one of {', '.join(BUILDERS)}, or None for the first that passes."
        )
    return {builder: BUILDERS[builder]}


def _nothing_to_cut(
    model: nn.Module, everything: Found, whole: Mapping[str, str], kept: Mapping[str, str]
) -> str:
    sizes = {axis.name: axis for axis in everything.axes}
    reasons = [f"block {path}: {why}" for path, why in kept.items()]
    reasons += [f"{sizes[name]}: {why}" for name, why in whole.items()]
    reasons += list(everything.unknown)
    reasons += [f"{where[0]}: {why}" for why, where in everything.fixed.items()]
    told = "; ".join(reasons[:4]) + ("; ..." if len(reasons) > 4 else "")
    advice = "Give it a hidden layer"
    if any(why == NOT_NAMED for why in whole.values()):
        advice = "Name an axis in width=, or leave out blocks with depth=True"
    if everything.unknown:
        advice = "Pass rules=[...] for the operations that are not understood"
    if any(axis.flags for axis in everything.axes):
        advice = "Pass inexact=True to cut an axis that is flagged"
    refused = [w for w in (*whole.values(), *kept.values()) if NOT_EXPORTED in w]
    if refused:
        advice = (
            "Have forward take its sizes from tensors (x.shape), so that a patched copy runs, or "
            "read no values (.item()) in it, so that it can be exported"
        )
    if refused and all(why.startswith(f"export: {NOT_EXPORTED}") for why in refused):
        advice = "Leave builder='export' out: a patched copy runs whatever forward does with values"
    return f"{type(model).__name__} has nothing that can be cut ({told}). {advice}."
