"""Steps of an optimizer whose state came with the parameters and goes back with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from subnetwork.nets.counters import COUNTER, counter_type, spread
from subnetwork.nets.layout import Layout
from subnetwork.nets.optimizers import FIRST, SECOND, Adam, Group, Optimizer
from subnetwork.nets.state import Tensors


class Stepping:
    """An optimizer over a module's parameters; its state are the given tensors, changed in place.

    Torch's own optimizer does the work, to the bit. The one exception are parameters of which some
    units have been stepped more often than others, under Adam: its bias correction depends on the
    number of steps, so each unit is corrected by its own (`per unit`). A parameter without gradient
    is not stepped and does not count a step, as in torch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        named: Mapping[str, nn.Parameter],
        moments: Mapping[str, Tensors],
        layout: Layout,
        scales: Mapping[str, float],
    ) -> None:
        self._named, self._counters = named, moments.get(COUNTER, {})
        sizes = layout.sizes_of(named)
        uneven = {n for n, c in self._counters.items() if n in named and _differ(c)}
        groups: dict[tuple[float, bool], list[str]] = {}
        for name in named:
            groups.setdefault((scales.get(name, 1.0), name in uneven), []).append(name)
        self._plain: list[Group] = []
        self._uneven: list[_PerUnit] = []
        for (scale, is_uneven), names in groups.items():
            if not is_uneven:
                params = [named[name] for name in names]
                self._plain.append({"params": params, **optimizer.options(scale)})
                continue
            assert isinstance(optimizer, Adam)
            for name in names:
                own = {moment: tensors[name] for moment, tensors in moments.items()}
                dims = [spread(dim, sizes) for dim in layout.dims[name]]
                options = optimizer.options(scale)
                self._uneven.append(_PerUnit(optimizer, named[name], own, dims, options))
        self._torch = optimizer.over(self._plain) if self._plain else None
        self._lr = [group["lr"] for group in self._plain]
        for name, p in named.items():
            if name not in uneven and self._torch is not None and moments:
                self._torch.state[p] = {m: _state(m, moments[m][name]) for m in moments}

    def step(self, factor: float = 1.0) -> None:
        """One step at `factor` times the step size."""
        if self._torch is not None:
            for group, lr in zip(self._torch.param_groups, self._lr, strict=True):
                group["lr"] = lr * factor
            self._torch.step()
        for part in self._uneven:
            part.step(factor)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self._named.values():
            p.grad = None

    def write_counters(self) -> None:
        """Add the steps that were done to the counters, which are the one state kept elsewhere."""
        if self._torch is None or not self._counters:
            return
        for name, p in self._named.items():
            if p in self._torch.state:
                self._counters[name].fill_(float(self._torch.state[p][COUNTER]))


@dataclass
class _PerUnit:
    """Adam on one parameter, with the bias correction of each unit's own number of steps.

    The order of operations is that of torch.optim.Adam on one tensor, so that every entry equals,
    to the bit, what torch gives for its number of steps; a complex one is two real ones, as there.
    """

    optimizer: Adam
    param: nn.Parameter
    moments: Tensors
    spread: list[Tensor | None]
    options: Group
    n_done: int = 0
    _lowest: int = field(init=False)
    _range: int = field(init=False)
    _index: Tensor = field(init=False)

    def __post_init__(self) -> None:
        counts = self.moments[COUNTER].double().round()
        self._lowest = int(counts.min())
        self._range = int(counts.max()) - self._lowest + 1
        self._index = (counts - self._lowest).to(torch.int64)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One step at `factor` times the step size."""
        if self.param.grad is None:
            return
        lr = self.options["lr"] * factor
        p, grad, first, second = (
            torch.view_as_real(t) if t.is_complex() else t
            for t in (self.param, self.param.grad, self.moments[FIRST], self.moments[SECOND])
        )
        beta1, beta2 = self.optimizer.betas
        decay = self.options["weight_decay"]
        if decay and self.optimizer.decoupled:
            p.mul_(1 - lr * decay)
        elif decay:
            grad = grad.add(p, alpha=decay)
        self.n_done += 1
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = self._by_unit(self._corrections(beta2) ** 0.5)
        step = self._by_unit(-(lr / self._corrections(beta1)))
        denominator = second.sqrt().div_(root).add_(self.options["eps"])
        p.addcdiv_(first * step, denominator)
        self.moments[COUNTER].add_(1)

    def _corrections(self, beta: float) -> np.ndarray:
        """1 - beta^t for every number of steps t that occurs, in float64."""
        t = self._lowest + self.n_done
        return np.array([1 - beta ** float(t + more) for more in range(self._range)])

    def _by_unit(self, table: np.ndarray) -> Tensor:
        """The table's value for each unit, as a tensor that broadcasts to the parameter."""
        values = torch.from_numpy(table).to(self.param.device, counter_type(self.param))
        values = values.take(self._index)
        for d, index in enumerate(self.spread):
            if index is not None:
                values = values.index_select(d, index.to(values.device))
        return values[..., None] if self.param.is_complex() else values


def _differ(counter: Tensor) -> bool:
    return bool(counter.min() != counter.max()) if counter.numel() else False


def _state(moment: str, tensor: Tensor) -> Tensor:
    """As torch keeps it: the count as one number, anything else as the tensor itself."""
    if moment != COUNTER:
        return tensor
    count = float(tensor.reshape(-1)[0].round()) if tensor.numel() else 0.0
    return torch.tensor(count)
