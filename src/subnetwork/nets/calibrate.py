"""Batch statistics of a merged model, and its accuracy."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from subnetwork.nets.evaluate import called
from subnetwork.nets.losses import right
from subnetwork.nets.trace.tracer import first_line


def recalibrate(model: nn.Module, stream: Callable[[], Iterable[object]]) -> nn.Module:
    """Set the running mean and variance of every normalisation from data; return the model.

    Merged running statistics are those of no model. Layer by layer, in the order in which the model
    runs them, the inputs of a normalisation are pooled over the whole stream (Chan et al. 1979),
    with every earlier one already set. The result is that of one batch holding all rows, up to
    rounding, so the model predicts the same at any test batch size. Several batches are read once
    for each layer, as far as that layer; a single one is read once, but is in memory whole. The
    statistics of an instance normalisation that gathers any are the means over all instances.

    Args:
        model: the merged model; left in evaluation mode.
        stream: called once per layer and once more; yields batches of inputs, of any sizes, without
            targets. What `model` is called with: a tensor (or a graph, or whatever it takes as its
            one argument), a tuple of positional or a dict of keyword arguments.

    Raises:
        ValueError: `stream` is no function, gives no batch, or the model does not take one.
    """
    if not callable(stream):
        raise ValueError(
            f"recalibrate reads its batches once for each layer, so stream= is a function that "
            f"begins anew, not a {type(stream).__name__}. Pass lambda: (x for x, _ in loader)."
        )
    model.eval()
    first, *more = list(islice(stream(), 2)) or [None]
    if first is None:
        raise ValueError("recalibrate was given a stream without a batch: there are no statistics.")
    calls = _calls(model, first)
    once = len(calls) == len(set(calls))  # nothing is pooled over several calls of one module
    if once and not more:
        with reading(calls, _set_at_once), torch.no_grad():
            _run(model, first)
        return model
    for norm in dict.fromkeys(calls):
        pooled = pool(norm)
        with reading([norm], _pooling(pooled, stop=once)), torch.no_grad():
            for batch in stream():
                with suppress(_Read):
                    _run(model, batch)
        pooled.write_to(norm)
    return model


def accuracy(model: nn.Module, inputs: object, targets: Tensor) -> float:
    """Share of targets at which the largest output is, in [0, 1]; targets of -100 do not count.

    Args:
        model: left in evaluation mode.
        inputs: what it is called with: a tensor (or a graph, ..), a tuple or a dict of arguments.
        targets: classes, one a row (or a place of a row).

    Raises:
        ValueError: the model returns no single tensor with one output a class.
    """
    model.eval()
    with torch.no_grad():
        outputs: object = called(model, inputs)
    outputs = getattr(outputs, "logits", outputs)  # of transformers' models
    if not isinstance(outputs, Tensor) or outputs.shape[:-1] != targets.shape:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"accuracy wants outputs (.., classes) for targets {tuple(targets.shape)}, but the "
            f"model returned {found}. Wrap it so that it returns the scores of the classes alone."
        )
    return float(right(outputs, targets).double().mean())


def _run(model: nn.Module, batch: object) -> None:
    try:
        called(model, batch)
    except TypeError as problem:
        many = f" of {len(batch)}" if isinstance(batch, tuple | list | dict) else ""
        raise ValueError(
            f"The model does not take the batches of the stream: {first_line(problem)}. A "
            f"{type(batch).__name__}{many} is all its arguments; leave targets out: "
            "lambda: (x for x, _ in loader)."
        ) from problem


Read: TypeAlias = Callable[[_NormBase, Tensor], None]


@contextmanager
def reading(norms: Iterable[_NormBase], read: Read) -> Iterator[None]:
    """While it lasts, `read` is told of what each normalisation is given, before it is used."""
    hooks = [norm.register_forward_pre_hook(_told(read), with_kwargs=True) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _told(read: Read) -> Callable[[_NormBase, tuple[Any, ...], dict[str, Any]], None]:
    return lambda norm, args, named: read(norm, args[0] if args else named["input"])


def _set_at_once(norm: _NormBase, inputs: Tensor) -> None:
    pooled = pool(norm)
    pooled.add(inputs)
    pooled.write_to(norm)


class _Read(BaseException):
    """The rest of a forward pass is not wanted."""


def _pooling(pooled: "Pooled | PooledInstances", *, stop: bool) -> Read:
    def read(_: _NormBase, inputs: Tensor) -> None:
        pooled.add(inputs)
        if stop:
            raise _Read

    return read


CHANNELS = 256


class Pooled:
    """Count, mean and squared deviations per channel of all batches so far, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.deviations = torch.zeros(())

    def add(self, inputs: Tensor) -> None:
        """One more batch; some channels at a time, since sums are taken in float64."""
        parts = [_moments(part) for part in torch.split(inputs.detach(), CHANNELS, dim=1)]
        count = parts[0][0]
        mean = torch.cat([part[1] for part in parts])
        deviations = torch.cat([part[2] for part in parts])
        total, gap = self.count + count, mean - self.mean
        self.mean = self.mean + gap * count / total
        self.deviations = self.deviations + deviations + gap.square() * self.count * count / total
        self.count = total

    def write_to(self, norm: _NormBase) -> None:
        """Set the running statistics of a normalisation."""
        _write(norm, self.mean, self.deviations / max(self.count - 1, 1))


class PooledInstances:
    """The sums over all instances so far of each one's mean and variance, per channel."""

    def __init__(self, n_dims: int) -> None:
        """`n_dims` of an instance, of which the channels are the first."""
        self.n_dims, self.count = n_dims, 0
        self.means = self.variances = torch.zeros(())

    def add(self, inputs: Tensor) -> None:
        """One more batch, or a single instance."""
        rows = inputs.detach().double().flatten(2 if inputs.dim() > self.n_dims else 1)
        rows = rows if inputs.dim() > self.n_dims else rows[None]  # (instances, channels, places)
        self.count += len(rows)
        self.means = self.means + rows.mean(dim=2).sum(dim=0)
        self.variances = self.variances + rows.var(dim=2).sum(dim=0)

    def write_to(self, norm: _NormBase) -> None:
        """Set the running statistics of a normalisation."""
        _write(norm, self.means / self.count, self.variances / self.count)


def gathers(module: nn.Module) -> TypeGuard[_NormBase]:
    """Whether a module normalises by statistics that it gathers in training."""
    return isinstance(module, _NormBase) and module.running_mean is not None


def pool(norm: _NormBase) -> Pooled | PooledInstances:
    """What its statistics are made of."""
    if isinstance(norm, _InstanceNorm):
        return PooledInstances(norm._get_no_batch_dim())  # type: ignore[no-untyped-call]
    return Pooled()


def _write(norm: _NormBase, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None, "it gathers statistics"
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _moments(inputs: Tensor) -> tuple[int, Tensor, Tensor]:
    """Entries of a channel, their mean and the sum of their squared deviations, by channel."""
    rows = inputs.double().transpose(0, 1).flatten(1)  # channels first
    mean = rows.mean(dim=1)
    return rows.shape[1], mean, (rows - mean[:, None]).square_().sum(dim=1)


def _calls(model: nn.Module, batch: object) -> list[_NormBase]:
    """The normalisations in the order in which the model runs them, as often as it does."""
    calls: list[_NormBase] = []
    norms = [module for module in model.modules() if gathers(module)]
    with reading(norms, lambda norm, _: calls.append(norm)), torch.no_grad():
        _run(model, batch)
    return calls
