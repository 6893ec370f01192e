"""Steps of an optimizer whose state came with the parameters and goes back with them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from subnetwork.nets.counters import COUNTER, counter_type, spread
from subnetwork.nets.layout import Layout
from subnetwork.nets.optimizers import FIRST, SECOND, Adam, Group, Optimizer
from subnetwork.nets.state import Tensors

LARGE = 1 << 20  # bytes of a gradient that is not left to wait for the others


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
        self._named = named
        self._parts: list[_Plain | _PerUnit] = []
        self._alone: dict[nn.Parameter, _Plain | _PerUnit] = {}
        counters, sizes = moments.get(COUNTER, {}), layout.sizes_of(named)
        together: dict[float, list[str]] = {}
        for name, p in named.items():
            scale = scales.get(name, 1.0)
            own = {moment: tensors[name] for moment, tensors in moments.items()}
            if name in counters and _differ(counters[name]):
                assert isinstance(optimizer, Adam)
                dims = [spread(dim, sizes) for dim in layout.dims[name]]
                self._parts.append(_PerUnit(optimizer, p, own, dims, optimizer.options(scale)))
            elif is_large(p):
                self._parts.append(_Plain.of(optimizer, {scale: {p: own}}))
            else:
                together.setdefault(scale, []).append(name)
                continue
            if is_large(p):
                self._alone[p] = self._parts[-1]
        if together:
            small = {
                scale: {named[n]: {m: of[n] for m, of in moments.items()} for n in names}
                for scale, names in together.items()
            }
            self._parts.append(_Plain.of(optimizer, small))
        self._users = {p: _users(p) for p in self._alone}

    @contextmanager
    def early(self, factor: float = 1.0) -> Iterator[None]:
        """During a backward pass: step large parameters as their gradients come, and drop these.

        So there is one large gradient at a time and not all of them. A parameter of which something
        else in the graph still has the memory (`w.detach()`, say) waits for `step`, as do all that
        stand in one buffer. No number is changed by it.

        Raises:
            ValueError: the gradient of one parameter comes in pieces.
        """
        done: set[nn.Parameter] = set()

        def at_once(p: nn.Parameter) -> None:
            if p in done:
                raise ValueError(
                    "A parameter got its gradient in two pieces, from two reentrant checkpoints. "
                    "Use checkpoint(..., use_reentrant=False)."
                )
            if _users(p) == self._users[p]:
                self._alone[p].step(factor)
                p.grad = None
                done.add(p)

        trained = [p for p in self._alone if p.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(at_once) for p in trained]  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def step(self, factor: float = 1.0) -> None:
        """One step at `factor` times the step size, of all that have a gradient."""
        for part in self._parts:
            part.step(factor)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self._named.values():
            p.grad = None

    def write_counters(self) -> None:
        """Add the steps that were done to the counters, which are the one state kept elsewhere."""
        for part in self._parts:
            if isinstance(part, _Plain):
                part.write_counters()


def is_large(p: Tensor) -> bool:
    """Whether a parameter is stepped, and its gradient dropped, before the others are there."""
    return p.numel() * p.element_size() >= LARGE


@dataclass(frozen=True)
class _Plain:
    """Torch's optimizer on some parameters, with their own state."""

    optimizer: torch.optim.Optimizer
    rates: list[float]  # of its groups, before the schedule
    moments: Mapping[nn.Parameter, Tensors]

    @classmethod
    def of(
        cls, optimizer: Optimizer, by_scale: Mapping[float, Mapping[nn.Parameter, Tensors]]
    ) -> "_Plain":
        """Over parameters and their moments, by the scale that they are held at."""
        groups: list[Group] = [
            {"params": list(params), **optimizer.options(scale)}
            for scale, params in by_scale.items()
        ]
        torchs, moments = optimizer.over(groups), {}
        for params in by_scale.values():
            for p, own in params.items():
                if own:
                    torchs.state[p] = {m: _state(m, tensor) for m, tensor in own.items()}
                moments[p] = own
        return cls(torchs, [group["lr"] for group in groups], moments)

    def step(self, factor: float) -> None:
        """One step at `factor` times the step size."""
        if all(p.grad is None for p in self.moments):
            return
        for group, lr in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = lr * factor
        self.optimizer.step()

    def write_counters(self) -> None:
        """The steps that were done, as counters."""
        for p, own in self.moments.items():
            if COUNTER in own:
                own[COUNTER].fill_(float(self.optimizer.state[p][COUNTER]))


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


def _users(p: Tensor) -> int:
    """How many tensors have the memory of this one."""
    return int(torch._C._storage_Use_Count(p.untyped_storage()._cdata))
