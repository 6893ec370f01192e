"""A block that can be left out: what hands its input on when it is not there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Block:
    """A submodule that is the identity when its parameters are zero.

    So the network without it is f(C x) with its parameters zeroed, computed without it.
    """

    path: str  # of the submodule
    place: int | str  # the argument that it hands on, by position or by name
    form: type | None = None  # tuple or list; None where it returns the tensor alone
    beside: tuple[object, ...] = ()  # what else a tuple or list holds, none of it a tensor
    slot: int = 0  # where among them the tensor stands
    shape: tuple[int, ...] = ()  # of what it handed on, on the example batch

    def passed(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """What it returns when it is left out."""
        x = kwargs[self.place] if isinstance(self.place, str) else args[self.place]
        if self.form is None:
            return x
        return self.form((*self.beside[: self.slot], x, *self.beside[self.slot :]))
