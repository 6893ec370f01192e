"""Models that are shapes: their parameters are on the meta device, and take no memory."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from subnetwork.nets.copying import copied


def hollowed(model: nn.Module) -> nn.Module:
    """A copy of a model whose parameters have no values; buffers are copied as they are."""
    memo: dict[int, object] = {id(p): _twin(p, "meta") for p in model.parameters()}
    return copied(model, memo)


def filled(module: nn.Module, device: torch.device) -> nn.Module:
    """Give the parameters that have no memory some, of any content; in place, and returned.

    Tied parameters stay tied.
    """
    new: dict[nn.Parameter, nn.Parameter] = {}
    for inside in module.modules():
        for name, p in inside._parameters.items():
            if p is not None and p.is_meta:
                if p not in new:
                    new[p] = _twin(p, device)
                setattr(inside, name, new[p])  # recurrent layers list theirs a second time
    return module


def with_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """Give the normalisations of a model on the meta device the statistics that they start from.

    In place, and returned.

    Raises:
        ValueError: another buffer is on the meta device: nobody knows what it held.
    """
    for path, module in model.named_modules():
        buffers = {n: b for n, b in module._buffers.items() if b is not None and b.is_meta}
        if buffers and not isinstance(module, _NormBase):
            name = f"{path}.{next(iter(buffers))}".lstrip(".")
            raise ValueError(
                f"The buffer {name} is on the meta device, and only the model knows what it holds. "
                "Plan a model whose buffers have values."
            )
        for name, buffer in buffers.items():
            module._buffers[name] = torch.empty_like(buffer, device=device)
        if buffers:
            module.reset_running_stats()
    return model


def with_values(model: nn.Module, what: str, advice: str) -> nn.Module:
    """The model; raises ValueError where its parameters have no values."""
    if any(p.is_meta for p in model.parameters()):
        raise ValueError(
            f"{what} needs a model with values, and this one's parameters are on the meta device. "
            f"{advice}"
        )
    return model


def _twin(p: nn.Parameter, device: str | torch.device) -> nn.Parameter:
    """A parameter of the same shape, type and attributes."""
    twin = nn.Parameter(torch.empty_like(p, device=device), p.requires_grad)
    vars(twin).update(vars(p))
    return twin
