"""A model to measure on: a copy in float64, its values with noise."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subnetwork.nets.copying import copied
from subnetwork.nets.layout import Layout
from subnetwork.nets.state import Tensors
from subnetwork.nets.trace.outside import leaves
from subnetwork.nets.trace.tracer import Inputs, Quiet, first_line, seeded

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # the largest difference called rounding
_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}
_NOISE = (1.0, 0.1, 0.01)  # sizes that are tried, until the model takes one


@dataclass(frozen=True)
class Batch:
    """Inputs, with what the model of a bench makes of them.

    Attributes:
        inputs: of one call.
        whole: the outputs at the values of the bench.
        scales: of each output, how far the noise in the values moved it (`_scale`).
    """

    inputs: Inputs
    whole: Sequence[Tensor]
    scales: Sequence[float]


@dataclass(frozen=True)
class Bench:
    """A model to measure on: in training mode, its values kept aside.

    The values are the model's with noise, since a scale or a layer that starts at zero would hide
    whatever is wrong behind it. float64, or float32 where the model does not run in that.

    Attributes:
        model: the copy.
        layout: what is to be measured.
        values: of its parameters, with noise, and of its buffers.
        dtype: whose rounding explains a difference.
        batches: the example, and where a floating-point tensor of it has one value throughout
            (zeros, say), the same with noise there, if the model takes it.
        rounds: whether forward itself rounds values to float32.
    """

    model: nn.Module
    layout: Layout
    values: Tensors
    dtype: torch.dtype
    batches: tuple[Batch, ...]
    rounds: bool

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs, layout: Layout) -> "Bench":
        """A copy of the model; the model itself is left alone.

        Raises:
            ValueError: where it runs neither in float64 nor in float32, with noise in its values.
        """
        with suppress(Exception):  # no kernel for float64, or a forward that asks for float32
            return cls._in(torch.float64, model, inputs, layout)
        try:
            return cls._in(torch.float32, model, inputs, layout)
        except Exception as problem:
            raise ValueError(
                f"The model cannot be measured: {first_line(problem)}. It has to run in training "
                "mode, its parameters a little off; verify=False makes a plan without proof."
            ) from problem

    @classmethod
    def _in(cls, dtype: torch.dtype, model: nn.Module, inputs: Inputs, layout: Layout) -> "Bench":
        cast = partial(_cast, dtype=dtype)
        twin = copied(model)._apply(cast).train()  # type: ignore[no-untyped-call]
        own = {name: tensor.detach().clone() for name, tensor in _tensors(twin)}
        given = inputs.each(cast)
        with _holding(twin, own, own), _Rounding() as rounding:  # type: ignore[no-untyped-call]
            before = outputs(twin, given)
        values = _with_noise(twin, own, given, before)
        batches: list[Batch] = []
        for tried in (given, _varied(given)):
            if tried is None or (batches and not _takes(twin, values, tried, before)):
                continue
            found = []
            for tensors in (own, values):
                with _holding(twin, tensors, values):
                    found.append(outputs(twin, tried))
            scales = [_scale(b, a) for a, b in zip(*found, strict=True)]
            batches.append(Batch(tried, found[1], scales))
        return cls(twin, layout, values, dtype, tuple(batches), rounding.seen)

    @property
    def inputs(self) -> Inputs:
        """The example batch."""
        return self.batches[0].inputs

    @property
    def tolerance(self) -> float:
        """The largest relative difference that rounding explains."""
        return TOLERANCE[self.dtype]

    @property
    def least(self) -> float:
        """Outputs below this are compared with it: the tolerance of it is the rounding of 1."""
        return 10 * torch.finfo(self.dtype).eps / self.tolerance

    @property
    def tells(self) -> bool:
        """Whether any output moves with the parameters, so that comparing them says something."""
        return any(s > self.least * self.tolerance for batch in self.batches for s in batch.scales)

    @contextmanager
    def holding(self, values: Tensors) -> Iterator[nn.Module]:
        """The model with these values inside the block, with all of its own again after it."""
        with _holding(self.model, values, self.values):
            yield self.model


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The tensors that one forward pass returns, with dropout off; complex ones as real pairs."""
    with seeded(), torch.no_grad(), Quiet():  # type: ignore[no-untyped-call]
        return _returned(model, inputs.each(torch.clone))  # forward may write into them


def slopes(model: nn.Module, inputs: Inputs) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The outputs, and the gradients of a fixed random combination of them by parameter.

    The way back is taken under the conditions of the way there, since a checkpoint runs forward
    again. Frozen parameters have none; it is zero where no output depends on a parameter.
    """
    generator = torch.Generator().manual_seed(0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    _forget(trained)
    with seeded(), torch.enable_grad(), Quiet():  # type: ignore[no-untyped-call]
        out = _returned(model, inputs.each(_apart))
        weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in out]
        total = torch.stack([(x * w.to(x)).sum() for x, w in zip(out, weights, strict=True)]).sum()
        if total.requires_grad:
            torch.autograd.backward(total)  # not grad(), which a reentrant checkpoint refuses
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.to_dense()
        for name, p in trained.items()
    }
    _forget(trained)
    return [x.detach() for x in out], found


def _returned(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    out = model(*inputs.args, **inputs.kwargs)
    found = [x for x, _ in leaves(out)]
    real = [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in found]
    return [x.clone() for x in real if x.is_floating_point()]  # it may return its own buffers


def _apart(x: Tensor) -> Tensor:
    """A copy on which no gradient goes back to the tensor itself."""
    return x.detach().clone().requires_grad_(x.requires_grad)


def _forget(params: Mapping[str, nn.Parameter]) -> None:
    for p in params.values():
        p.grad = None


def new_nan(found: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether an output has become NaN somewhere that was nowhere."""
    pairs = zip(found, before, strict=True)
    return any(bool(a.isnan().any()) and not b.isnan().any() for a, b in pairs)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy, in another precision where it is of real or complex numbers."""
    if x.is_complex():
        return x.to(_COMPLEX[dtype], copy=True)
    return x.to(dtype, copy=True) if x.is_floating_point() else x.clone()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@contextmanager
def _holding(model: nn.Module, values: Tensors, after: Tensors) -> Iterator[None]:
    _write(model, values)
    try:
        yield
    finally:
        _write(model, after)


def _write(model: nn.Module, values: Tensors) -> None:
    with torch.no_grad():
        for name, tensor in _tensors(model):
            if name not in values or tensor.is_sparse:
                continue
            if tensor.shape == values[name].shape:
                tensor.copy_(values[name])
            else:  # a buffer that grew
                tensor.data = values[name].clone()


def _takes(model: nn.Module, values: Tensors, inputs: Inputs, before: Sequence[Tensor]) -> bool:
    """Whether the model runs with these values and inputs and makes no new NaN."""
    try:
        with _holding(model, values, values):
            found = outputs(model, inputs)
    except Exception:  # whatever the user's forward raises
        return False
    return not new_nan(found, before)


def _with_noise(
    model: nn.Module, own: Tensors, inputs: Inputs, before: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The values with as much noise in the parameters as the model takes."""
    names = [name for name, _ in model.named_parameters()]
    for size in _NOISE:
        generator = torch.Generator().manual_seed(0)
        values = {**own, **{name: _near(own[name], size, generator) for name in names}}
        if _takes(model, values, inputs, before):
            return values
    raise ValueError("it fails or returns NaN wherever its parameters are moved a little")


def _near(p: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """A parameter with noise: whole numbers and entries that are not finite keep their values.

    Where all entries have one sign they keep it: a variance, say, of which a root is taken.
    """
    if not (p.is_floating_point() or p.is_complex()):
        return p
    known = p[p.isfinite()]
    spread = float(known.std()) if known.numel() > 1 else 0.0
    noise = torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
    noise *= size * max(0.5 * spread, 0.02)
    moved = p + noise
    if known.numel() and not p.is_complex() and ((known > 0).all() or (known < 0).all()):
        moved = p * (noise / known.abs().mean()).clamp(-1, 1).exp()
    return torch.where(p.isfinite(), moved, p)


def _varied(inputs: Inputs) -> Inputs | None:
    """Inputs with noise where a tensor has one value throughout; None where there is none."""
    generator = torch.Generator().manual_seed(1)
    changed = []

    def vary(x: Tensor) -> Tensor:
        if x.layout != torch.strided or not (x.is_floating_point() or x.is_complex()):
            return x
        first = x.flatten()[:1]
        if x.numel() < (2 if first.any() else 1) or not (x == first).all():
            return x
        changed.append(x)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        return x * (0.1 * noise).exp() if first.any() else noise

    varied = inputs.each(vary)
    return varied if changed else None


def _scale(moved: Tensor, before: Tensor) -> float:
    """How far an output moves with the parameters: the median over the entries that do.

    Entries that a mask sets to -1e9 do not move, and so do not hide what happens to the others.
    """
    steps = (moved - before).abs() if moved.shape == before.shape else moved.abs()
    steps = steps[steps.isfinite()]
    if not steps.numel():
        return 0.0
    steps = steps[steps > 1e-9 * steps.max()]
    return float(steps.median()) if steps.numel() else 0.0


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees whether an operation makes float32 of float64."""

    seen = False

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run the operation and look at what came out."""
        out = func(*args, **(kwargs or {}))
        self.seen |= _has(torch.float64, args) and _has(torch.float32, out)
        return out


def _has(dtype: torch.dtype, tree: object) -> bool:
    kinds = (dtype, _COMPLEX[dtype])
    return any(isinstance(x, Tensor) and x.dtype in kinds for x in tree_leaves(tree))
