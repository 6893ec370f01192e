"""What the figures of equations share: rows of a curve over any axis, and their config."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from subnetwork.experiments.outcome import Outcome, equal
from subnetwork.record import Row

TOLERANCE = 1e-10  # an identity holds below it
LEAST = 1e-17  # a deviation of 0 has no logarithm


def points(
    curve: str, x: str, xs: Sequence[float], ys: Iterable[float], **more: Sequence[float | None]
) -> list[Row]:
    """One row a point of a curve: x under its name, y as "measured", and more columns."""
    columns: Mapping[str, Sequence[Any]] = {x: xs, "measured": [float(y) for y in ys], **more}
    return [
        {"curve": curve, **dict(zip(columns, row, strict=True))}
        for row in zip(*columns.values(), strict=True)
    ]


def deviations(curve: str, x: str, xs: Sequence[float], ys: Sequence[float]) -> list[Row]:
    """Points of an identity's deviation, for a logarithmic axis: 0 is drawn as 1e-17."""
    return points(curve, x, xs, [max(float(y), LEAST) for y in ys])


def over(x: str, x_label: str, measure: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """The config of a figure over an axis of its own."""
    return {"figure": "curves", "x": x, "x_label": x_label, "measure": measure, **more}


def of_identities(x: str, x_label: str, measure: str) -> dict[str, Any]:
    """The config of a figure of deviations, with the tolerance as a line."""
    return over(x, x_label, measure, floor=TOLERANCE, floor_name="below: holds", decades=20)


def zero(claim: str, equation: str, deviation: float) -> Outcome:
    """An identity, by its largest deviation."""
    return equal(f"{claim}: largest deviation", equation, float(deviation), 0.0)
