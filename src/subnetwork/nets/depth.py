"""Depth: which blocks of a model can be left out, found by setting their parameters to zero."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from subnetwork.nets.axes import patterns
from subnetwork.nets.bench import Bench, outputs
from subnetwork.nets.builders.block import Block
from subnetwork.nets.inward import Inward
from subnetwork.nets.layout import Layout
from subnetwork.nets.trace.outside import leaves
from subnetwork.nets.trace.tracer import first_line, seeded

BLOCKS = "blocks"
"""The name of the axis whose units are blocks."""

NOT_IDENTITY = "not the identity when its parameters are zero"
NOISY = "it adds noise to what it hands on, such as dropout on the stream"
FACTORS = (-8.0, 8.0)  # by which a block's input is multiplied where it is the model's own


@dataclass(frozen=True)
class Skippable:
    """The blocks that can be left out, and why others cannot.

    Attributes:
        blocks: all that are the identity at zero, by path, in the order of the model; they nest.
        kept: items of a list or sequence of layers that are not -> why.
    """

    blocks: Mapping[str, Block]
    kept: Mapping[str, str]


def skippable(bench: Bench) -> Skippable:
    """Run the model once; wherever a submodule runs, run it a second time with zero parameters.

    A block is skippable exactly when that returns its input, bit for bit, and it runs once in a
    forward pass, shares no parameter with the rest of the model and returns no other tensor. Where
    its input is the model's own, it has to return that at the other sign and at a larger size too;
    and with its dropout drawn, as it trains.
    """
    watched = {
        p: m for p, m in bench.model.named_modules() if p and any(True for _ in m.parameters())
    }
    found = _Found()
    inward = Inward(bench.inputs.tensors())
    with bench.holding(bench.values) as model, _watching(watched, found, inward), inward:
        outputs(model, bench.inputs)
    shared = _sharing(bench.model, found.blocks)
    blocks = {
        path: found.blocks[path]
        for path in watched
        if path in found.blocks and path not in shared and found.runs[path] == 1
    }
    reasons = {**found.reasons, **shared}
    reasons |= {path: "it runs more than once" for path, n in found.runs.items() if n > 1}
    kept = {
        path: reasons[path]
        for path in _items(bench.model)
        if path in reasons and not any(_nested(path, other) for other in blocks)
    }
    return Skippable(blocks, kept)


def chosen_blocks(all_blocks: Skippable, depth: bool | Sequence[str]) -> tuple[Block, ...]:
    """The innermost of the blocks, or of those that patterns name.

    Raises:
        ValueError: where a pattern names no block that can be left out.
    """
    named = () if isinstance(depth, bool) else patterns(depth)
    for pattern in named:
        if not any(fnmatch(path, pattern) for path in all_blocks.blocks):
            reason = next(
                (f" ({p}: {why})" for p, why in all_blocks.kept.items() if fnmatch(p, pattern)),
                "",
            )
            raise ValueError(
                f"No block that can be left out is called {pattern!r}{reason}. The blocks are: "
                f"{', '.join(all_blocks.blocks) or 'none'}."
            )
    taken = ("*",) if depth is True else named
    paths = [p for p in all_blocks.blocks if any(fnmatch(p, pattern) for pattern in taken)]
    return tuple(
        all_blocks.blocks[path]
        for path in paths
        if not any(other.startswith(f"{path}.") for other in paths)
    )


def with_blocks(layout: Layout, blocks: Sequence[Block]) -> Layout:
    """The layout with one axis more, `blocks`, whose units are these."""
    if not blocks:
        return layout
    unit_of = {
        name: (BLOCKS, unit)
        for unit, block in enumerate(blocks)
        for name in layout.dims
        if name.startswith(f"{block.path}.")
    }
    return replace(
        layout,
        sizes={**layout.sizes, BLOCKS: len(blocks)},
        unit_of=unit_of,
        unit_names={BLOCKS: tuple(block.path for block in blocks)},
    )


@dataclass
class _Found:
    """What one forward pass has shown; grows while it runs."""

    blocks: dict[str, Block] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    testing: bool = False  # inside a second run, whose calls count for nothing


@contextmanager
def _watching(modules: Mapping[str, nn.Module], found: _Found, inward: Inward) -> Iterator[None]:
    """Each of the modules tests itself when it is called inside the block."""
    patched = {path: vars(m)["forward"] for path, m in modules.items() if "forward" in vars(m)}
    for path, module in modules.items():
        module.forward = _tested(path, module, module.forward, found, inward)
    try:
        yield
    finally:
        for path, module in modules.items():
            del module.forward
            vars(module).update({"forward": patched[path]} if path in patched else {})


def _tested(
    path: str, module: nn.Module, forward: Callable[..., Any], found: _Found, inward: Inward
) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if found.testing:
            return forward(*args, **kwargs)
        before = tree_map_only(Tensor, torch.clone, (args, kwargs))  # it may write into them
        out = forward(*args, **kwargs)
        found.runs[path] = found.runs.get(path, 0) + 1
        found.testing = True
        try:
            tested = _at_zero(path, module, forward, before, out)
            if isinstance(tested, Block) and inward.holds(_argument(tested, before)):
                tested = _at_other_signs(tested, module, forward, before)
            if isinstance(tested, Block):
                tested = _under_noise(tested, module, forward, before)
        finally:
            found.testing = False
        if isinstance(tested, Block):
            found.blocks[path] = tested
        else:
            found.reasons[path] = tested
        return out

    return run


def _at_zero(
    path: str,
    module: nn.Module,
    forward: Callable[..., Any],
    given: tuple[tuple[Any, ...], dict[str, Any]],
    out: object,
) -> Block | str:
    """The block, or why the module is none."""
    args, kwargs = tree_map_only(Tensor, torch.clone, given)
    arguments: dict[int | str, Any] = dict(enumerate(given[0]))
    arguments.update(given[1].items())
    places = {
        place: x
        for place, x in arguments.items()
        if isinstance(x, Tensor) and x.is_floating_point()
    }
    returned = [x for x, _ in leaves(out)]
    if len(returned) != 1:
        return f"it returns {len(returned)} tensors"
    if returned[0].shape not in {x.shape for x in places.values()}:
        return "its output has another shape than its input"
    if any(x.shape == returned[0].shape and torch.equal(x, returned[0]) for x in places.values()):
        return "it does nothing on the example batch"
    try:
        with _zeroed(module):
            zeroed = forward(*args, **kwargs)
    except Exception as problem:  # whatever the user's forward raises; the plan says it
        return f"it does not run when its parameters are zero: {first_line(problem)}"
    return _passing(path, places, zeroed) or NOT_IDENTITY


def _at_other_signs(
    block: Block,
    module: nn.Module,
    forward: Callable[..., Any],
    given: tuple[tuple[Any, ...], dict[str, Any]],
) -> Block | str:
    """The block, or at which multiple of its input it is none."""
    for factor in FACTORS:
        args, kwargs = tree_map_only(Tensor, torch.clone, given)
        x = _argument(block, given) * factor
        if isinstance(block.place, str):
            kwargs = {**kwargs, block.place: x.clone()}
        else:
            args = (*args[: block.place], x.clone(), *args[block.place + 1 :])
        try:
            with _zeroed(module):
                zeroed = forward(*args, **kwargs)
        except Exception as problem:  # as above
            return f"it does not run on its input times {factor:g}: {first_line(problem)}"
        if _passing(block.path, {block.place: x}, zeroed) is None:
            return f"{NOT_IDENTITY} and its input, the model's own, is multiplied by {factor:g}"
    return block


def _under_noise(
    block: Block,
    module: nn.Module,
    forward: Callable[..., Any],
    given: tuple[tuple[Any, ...], dict[str, Any]],
) -> Block | str:
    """The block, or why it is none when its dropout and the like draw: no bench lets them."""
    args, kwargs = tree_map_only(Tensor, torch.clone, given)
    try:
        with _disable_current_modes(), seeded(), _zeroed(module):
            zeroed = forward(*args, **kwargs)
    except Exception as problem:  # as above
        return f"it does not run with its dropout: {first_line(problem)}"
    passed = _passing(block.path, {block.place: _argument(block, given)}, zeroed)
    return NOISY if passed is None else block


def _argument(block: Block, given: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    """What the block hands on."""
    x = given[1][block.place] if isinstance(block.place, str) else given[0][block.place]
    assert isinstance(x, Tensor)
    return x


@contextmanager
def _zeroed(module: nn.Module) -> Iterator[None]:
    """Its parameters are zero inside the block."""
    values = [p.detach().clone() for p in module.parameters()]
    try:
        for p in module.parameters():
            p.data.zero_()
        yield
    finally:
        for p, value in zip(module.parameters(), values, strict=True):
            p.data.copy_(value)


def _passing(path: str, places: Mapping[int | str, Tensor], zeroed: object) -> Block | None:
    form = type(zeroed) if type(zeroed) in (tuple, list) else None
    items: list[Any] = [zeroed]
    if isinstance(zeroed, tuple | list) and form is not None:
        items = list(zeroed)
    slots = [slot for slot, item in enumerate(items) if isinstance(item, Tensor)]
    if len(slots) != 1:
        return None
    x = items.pop(slots[0])
    for place, given in places.items():
        if given.shape == x.shape and torch.equal(given, x):
            return Block(path, place, form, tuple(items), slots[0], tuple(x.shape))
    return None


def _sharing(model: nn.Module, paths: Mapping[str, Block]) -> dict[str, str]:
    """Blocks that hold a parameter which is also one of another part of the model -> which."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    shared = {}
    for path in paths:
        for p in model.get_submodule(path).parameters():
            if outside := [n for n in names[id(p)] if not n.startswith(f"{path}.")]:
                shared[path] = f"it shares a parameter with {outside[0]}"
    return shared


def _items(model: nn.Module) -> list[str]:
    """Layers that stand in a list or sequence and are themselves made up of several."""
    return [
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for name, item in module.named_children()
        if len(list(item.children())) > 1
    ]


def _nested(a: str, b: str) -> bool:
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")
