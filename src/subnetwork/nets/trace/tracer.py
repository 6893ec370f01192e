"""One forward pass under a dispatch mode: every tensor that the model touches gets its terms."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from subnetwork.nets import seeding
from subnetwork.nets.copying import CannotCopyError, copied, plain_tensors
from subnetwork.nets.trace.outside import Reached, ReachesOutsideError, leaves
from subnetwork.nets.trace.rule import Call, Reading, Rule
from subnetwork.nets.trace.seen import Seen, Watch, readings
from subnetwork.nets.trace.terms import Dims, freeze, fresh


@dataclass(frozen=True)
class Inputs:
    """What one call of a model is given."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, batch: object) -> "Inputs":
        """A tensor is one argument, a tuple or list positional, a mapping keyword arguments."""
        if isinstance(batch, Inputs):
            return batch
        if isinstance(batch, Mapping):
            return cls((), dict(batch))
        return cls(tuple(batch), {}) if isinstance(batch, tuple | list) else cls((batch,), {})

    def each(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same inputs with every tensor changed."""
        args, kwargs = tree_map_only(Tensor, change, (self.args, dict(self.kwargs)))
        return Inputs(args, kwargs)

    def tensors(self) -> list[Tensor]:
        """All tensors among the inputs."""
        return [x for x in tree_leaves((self.args, dict(self.kwargs))) if isinstance(x, Tensor)]


@dataclass(frozen=True)
class Traced:
    """The terms of every parameter and buffer after one forward pass."""

    params: Mapping[str, Dims]
    buffers: Mapping[str, Dims]
    unknown: frozenset[str]  # operations that no rule reads, in words
    note: str | None  # why the pass could not run without memory


def trace(model: nn.Module, inputs: Inputs, rules: Sequence[Rule] = ()) -> Traced:
    """Run the model once, on a copy, and read what its operations say about its dims.

    The copy is on the meta device, which takes no memory and no time, and on real tensors where
    the model does not run there. Training mode, gradients enabled: what is read is what trains.
    Before that it is run once as it is, since forward may fill caches that outlive this pass.

    Raises:
        ValueError: where the model does not run on the inputs at all, cannot be copied, or reaches
            tensors through closures that its copies share.
    """
    try:
        rehearse(model, inputs)
        traced = _traced_on_meta(model, inputs, rules)
        if isinstance(traced, Traced):
            return traced
        return _traced(_copied(model, None), inputs.each(torch.clone), rules, traced)
    except (CannotCopyError, ReachesOutsideError):
        raise
    except Exception as problem:
        raise ValueError(
            f"The model cannot be traced on the example batch: {first_line(problem)}. "
            "Give a batch on which model(batch) runs in training mode; a tuple or a list is taken "
            "as positional arguments (write ([...],) where a list is one) and a dict as keyword "
            "arguments."
        ) from problem


def _traced_on_meta(model: nn.Module, inputs: Inputs, rules: Sequence[Rule]) -> Traced | str:
    """What the pass showed, or why it could not run there."""
    try:
        with torch.device("meta"):  # for what forward makes
            return _traced(_copied(model, "meta"), inputs.each(lambda x: x.to("meta")), rules, None)
    except (NotImplementedError, RuntimeError, TypeError, ValueError, AssertionError) as problem:
        return f"traced on real tensors, since on meta: {first_line(problem)}"


def rehearse(model: nn.Module, inputs: Inputs) -> None:
    """Run a copy of the model in training mode, before passes on tensors that hold no values.

    A cache outside the model (`functools.lru_cache`) that forward fills so holds real tensors: one
    that such a pass filled would be of no use to the model afterwards.

    Raises:
        ReachesOutsideError: the copy reads a parameter or writes a buffer of the model itself.
    """
    tensors = [*model.parameters(), *model.buffers(), *inputs.tensors()]
    if any(x.is_meta for x in tensors):
        return
    given, twin = inputs.each(torch.clone), _copied(model, None).train()
    with seeded(), torch.no_grad(), without_mkldnn(), Reached(model) as reached:
        twin(*given.args, **given.kwargs)
    reached.check_buffers()


def first_line(problem: Exception) -> str:
    """An exception in one line."""
    text = str(problem).strip().split("\n")[0][:200].rstrip(".")
    return f"{type(problem).__name__}: {text}"


def _copied(model: nn.Module, device: str | None) -> nn.Module:
    """A copy whose parameters and buffers live on a device, taking no memory on meta."""
    memo: dict[int, Any] = {}
    for p in model.parameters():
        moved = p.detach().to(device) if device else p.detach().clone()
        memo[id(p)] = nn.Parameter(moved, p.requires_grad)
    for b in model.buffers():
        memo[id(b)] = b.detach().to(device) if device else b.detach().clone()
    return copied(model, memo)


def _traced(model: nn.Module, inputs: Inputs, rules: Sequence[Rule], note: str | None) -> Traced:
    seen = Seen(readings(rules), {id(x): name for name, x in plain_tensors(model)})
    params = announced(seen, model.named_parameters())
    buffers = announced(seen, model.named_buffers())
    layers = {name: r.read for r in rules for name in r.names}
    for module in model.modules():
        if type(module).__name__ in layers:
            seen.used |= {id(p) for p in module.parameters()}
            _close(module, seen, layers[type(module).__name__])
    watch(seen, model.train(), inputs)
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in seen.used:
            for term in seen.of(tensor):
                freeze(term, "not used on the example batch")
    return Traced(params, buffers, frozenset(seen.unknown), note)


def _close(layer: nn.Module, seen: Seen, read: Reading) -> None:
    """Have a layer read by the user's rule; nobody looks inside while it runs."""
    inside = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with _disable_current_modes():
            out = inside(*args, **kwargs)
        outs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        arguments = {**{str(i): x for i, x in enumerate(args)}, **kwargs}
        shapes = [tuple(x.shape) for x in outs]
        name = type(layer).__name__
        seen.read(name, read, Call(name, arguments, shapes, seen.of, seen.is_weight, layer), outs)
        return out

    layer.forward = forward


def announced(seen: Seen, named: Iterable[tuple[str, Tensor]]) -> dict[str, Dims]:
    """Make parameters or buffers known, each with units of its own."""
    dims = {}
    for name, tensor in named:
        dims[name] = fresh(tensor.shape)
        seen.put(tensor, dims[name])
        seen.weights.add(id(tensor))
    return dims


@contextmanager
def without_mkldnn() -> Iterator[None]:
    """Off inside the block: its fused kernels hide what they do."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def seeded() -> Iterator[None]:
    """Random numbers of torch, numpy and Python start alike inside the block, and go on after it.

    So every pass takes the same path where layers are dropped at random.
    """
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 (what models draw from)
    try:
        with seeding.seeded(0):
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002


class Quiet(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dropout keeps everything: a part and the whole would draw different masks."""

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run the operation, unless it is one that draws what is kept."""
        name = func._schema.name
        if name == "aten::bernoulli_" and not isinstance(args[1] if args[1:] else 0.5, Tensor):
            return args[0].fill_(args[1] if args[1:] else 0.5)
        if name == "aten::native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **(kwargs or {}))


def watch(seen: Seen, run: Callable[..., object], inputs: Inputs) -> None:
    """Call the model under the watch; freeze what comes in and what goes out."""
    for x in inputs.tensors():
        seen.put(x, fresh(x.shape, "the model's input"))
    with (
        seeded(), torch.enable_grad(), without_mkldnn(),
        Quiet(), Watch(seen),  # type: ignore[no-untyped-call]
    ):  # fmt: skip
        out = run(*inputs.args, **inputs.kwargs)
    outs = list(leaves(out))
    if not any(x.is_floating_point() or x.is_complex() for x, _ in outs):
        raise ValueError(
            f"forward returned a {type(out).__name__} in which no floating-point tensor is found, "
            "which could be compared; return a tensor, a tuple or a dict"
        )
    for x, name in outs:
        for term in seen.of(x):
            freeze(term, "the model's output" + (f", in an object of class {name}" if name else ""))
