"""What is known of a deal without a draw: its smallest hand, and itself as plain data."""

from collections.abc import Mapping
from dataclasses import fields
from math import isinf
from typing import Any

import numpy as np

from subnetwork import deals
from subnetwork.deals import Deal

KINDS: Mapping[str, type[Deal]] = {
    kind.__name__: kind
    for kind in (
        *(deals.Full, deals.Perm, deals.AtLeast, deals.WarmUp, deals.RandQ, deals.Bernoulli),
        *(deals.Lazy, deals.Ordered, deals.Rolling, deals.Scored),
    )
}
"""The deals that can be written down: all of `subnetwork.deals`."""


def least_hand(deal: Deal, size: int, axis: int = 0) -> int | None:
    """The fewest units that any worker holds in any round; None where no draw bounds it.

    Args:
        deal: the deal.
        size: units of the axis.
        axis: its number, which `Scored` looks its scores up by.
    """
    match deal:
        case deals.Perm():
            weights = deal.weights or (1,) * deal.n_workers
            return min(size * weight // sum(weights) for weight in weights)
        case deals.Lazy():
            return size // deal.n_workers
        case deals.AtLeast():
            return max(deal.least, size // deal.n_workers)
        case deals.WarmUp():
            return least_hand(deal.deal, size, axis)
        case deals.Full() | deals.RandQ() | deals.Ordered() | deals.Rolling() | deals.Scored():
            return min(map(len, deal.hands(size, seed=0, k=0, axis=axis)))  # the same in each round
    return None


def written(deal: Deal) -> dict[str, Any]:
    """A deal as plain data for JSON, scores included; `deal_from` reads it to the bit.

    Raises:
        ValueError: a deal of the user's own, or scores that are infinite.
    """
    name = type(deal).__name__
    if KINDS.get(name) is not type(deal):
        raise ValueError(
            f"A deal of the class {name} cannot be written down, only {', '.join(KINDS)}. Keep "
            "what it is made of beside the checkpoint, and hand the same deal to the next rounds."
        )
    values = {f.name: getattr(deal, f.name) for f in fields(deal)}  # type: ignore[arg-type]
    return {"kind": name, **{field: _written(value) for field, value in values.items()}}


def deal_from(data: Mapping[str, Any]) -> Deal:
    """The deal that `written` wrote.

    Raises:
        ValueError: the data are not those of a deal.
    """
    values = {field: _read(value) for field, value in data.items() if field != "kind"}
    if data.get("kind") not in KINDS:
        raise ValueError(
            f"There is no deal {data.get('kind')!r}. Known are: {', '.join(KINDS)}; a newer "
            "version of the package may know it."
        )
    try:
        return KINDS[data["kind"]](**values)
    except TypeError as mistake:
        raise ValueError(f"The data of a deal do not fit it: {mistake}.") from None


def _written(value: object) -> object:
    if isinstance(value, tuple):
        return [_written(item) for item in value]
    if isinstance(value, np.generic):
        return _written(value.item())
    if isinstance(value, float) and isinf(value):
        raise ValueError(
            "Scores that are infinite cannot be written down. Give the unit a number above or "
            "below all others."
        )
    return written(value) if isinstance(value, Deal) else value


def _read(value: object) -> object:
    if isinstance(value, list):
        return tuple(_read(item) for item in value)
    return deal_from(value) if isinstance(value, dict) else value
