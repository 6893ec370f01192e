"""What is known of deals without a draw, and draws of which each hand is checked."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from math import isinf
from typing import Any

import numpy as np

from subnetwork import deals
from subnetwork.deals import Deal, Hands
from subnetwork.shapes import Units

KINDS: Mapping[str, type[Deal]] = {
    kind.__name__: kind
    for kind in (
        *(deals.Full, deals.Perm, deals.AtLeast, deals.WarmUp, deals.RandQ, deals.Bernoulli),
        *(deals.Lazy, deals.Ordered, deals.Rolling, deals.Scored),
    )
}
"""The deals that can be written down: all of `subnetwork.deals`."""


def check_deals(given: Iterable[object]) -> None:
    """Raise ValueError unless all of these are deals."""
    for deal in given:
        if not isinstance(deal, Deal):
            raise ValueError(
                f"deal={deal!r} is no deal. Write Perm(2), say, of subnetwork, for two workers."
            )


def check_draw(seed: object, k: object) -> None:
    """Raise ValueError unless both, of which a draw is made, are whole numbers."""
    for name, number in (("seed", seed), ("round", k)):
        if not hasattr(number, "__index__"):
            raise ValueError(f"{name}={number!r} is no whole number. Give one, such as 0.")


def dealt(deal: Deal, axis: str, size: int, number: int, *, seed: int, k: int) -> Hands:
    """The hands of a round on one axis, as int64.

    Args:
        deal: the deal.
        axis: the name of the axis.
        size: its units.
        number: its number.
        seed: of the draw.
        k: the round.

    Raises:
        ValueError: where the deal refuses, or its hands are none: other hands than workers, or one
            whose units are not ascending or not on the axis.
    """
    try:
        hands = deal.hands(size, seed=seed, k=k, axis=number)
    except ValueError as mistake:
        raise ValueError(f"Axis {axis}: {mistake}") from None
    if len(hands) != deal.n_workers:
        raise ValueError(
            f"Axis {axis}: the deal gave {len(hands)} hands in round {k}, but there are "
            f"n_workers={deal.n_workers}. Return a hand for every worker, an empty one for none."
        )
    return tuple(_checked(hand, i, (axis, size, k)) for i, hand in enumerate(hands))


def _checked(hand: object, worker: int, where: tuple[str, int, int]) -> Units:
    units, (axis, size, k) = np.asarray(hand), where
    if not units.size:
        return np.empty(0, np.int64)
    whole = units.ndim == 1 and units.dtype.kind in "iu"
    if not whole or units[0] < 0 or units[-1] >= size or not (units[1:] > units[:-1]).all():
        raise ValueError(
            f"Axis {axis}: the deal gave worker {worker} in round {k} a hand that is no ascending "
            f"list of different units from 0 to {size - 1}. Return np.unique(units)."
        )
    return units.astype(np.int64, copy=False)


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
