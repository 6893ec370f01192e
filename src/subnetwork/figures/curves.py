"""Several methods or step sizes in one panel, against rounds, bits or work; or any other x."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from subnetwork.figures import style
from subnetwork.figures.courses import number
from subnetwork.record import Record, Row

AXES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "rounds": ("rounds", ("k",)),
    "bits_down": ("bits sent by the server", ("bits_down",)),
    "bits_up": ("bits sent by the workers", ("bits_up",)),
    "bits": ("bits sent, down + up", ("bits_down", "bits_up")),
    "work": ("coordinate work: entries of L read", ("work",)),
}
"""The axes of a run: what is written under them, and the columns that are added up."""

DECADES = 16.0  # below the largest value: deeper is rounding
COLORS = (
    *("ist", "local_sgd", "diloco", "other_1", "other_2", "synchronous_sgd", "other_3", "fails"),
    *("bound", "other_4", "holds", "tightened", "worker_1", "worker_7"),
)


@dataclass(frozen=True)
class Curve:
    """One curve of a record, with the columns that it has; gaps are dropped."""

    name: str
    color: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    exact: tuple[float | None, ...]
    bound: tuple[float | None, ...]


@style.drawn
def curves(record: Record, axis: str | None = None) -> Figure:
    """All curves of a record with their 5-95 % bands, exact expectations, and the floor.

    Where a row has an exact expectation it is a thin line upon the measured one; where it has a
    bound, that is dashed. The y axis ends under the lowest curve, and `DECADES` below the highest
    unless the config says "decades".

    Args:
        record: rows with `curve`, `measured`, an x, and `low`, `high`, `exact`, `bound` or not.
        axis: one of `AXES`; what the record's config says unless given, else rounds.

    Raises:
        ValueError: no such axis, or a record without its columns.
    """
    config = record.header["config"]
    label, found = _read(record, axis or str(config.get("x", "rounds")))
    floor = number(config.get("floor"))
    heights = [y for c in found for y in (*c.y, *_drawn(c.exact), *_drawn(c.bound)) if y > 0]
    heights += [floor] if floor else []
    low, high = _limits(heights, number(config.get("decades")) or DECADES)
    figure, axes = style.panel(
        label,
        _y_label(str(config.get("measure", "")), found),
        height=max(276, 110 + 13 * _lines(found)),
        right=130,
    )
    for curve in reversed(found):
        _draw(axes, curve, low)
    _scale(axes, found, (low, high), logarithmic=config.get("x_scale") == "log")
    ends = _ends(found, low, str(config.get("bound_name", "bound")))
    if floor:
        axes.axhline(floor, color=style.MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        name = fill(str(config.get("floor_name", "floor")), 18)
        ends.append((axes.get_xlim()[1], floor, name, style.MUTED))
    style.name_ends(axes, ends)
    return figure


def axes_of(record: Record) -> list[str]:
    """The axes that a record can be drawn against."""
    if "x" in record.header["config"] and record.header["config"]["x"] not in AXES:
        return [str(record.header["config"]["x"])]
    columns = set().union(*(row.keys() for row in record.rows)) if record.rows else set()
    return [name for name, (_, keys) in AXES.items() if columns.issuperset(keys)]


def _read(record: Record, axis: str) -> tuple[str, list[Curve]]:
    """The label under the axis, and the curves in the order of the record."""
    known = axes_of(record)
    if axis not in known:
        raise ValueError(
            f"{record.name} has no axis {axis!r}. It can be drawn against: {', '.join(known)}."
        )
    label, keys = AXES.get(axis, (str(record.header["config"].get("x_label", axis)), (axis,)))
    names = list(dict.fromkeys(str(row["curve"]) for row in record.rows))
    table = [(row, sum(float(row[key]) for key in keys)) for row in record.rows]
    return label, [
        _curve(name, COLORS[place % len(COLORS)], [r for r in table if r[0]["curve"] == name])
        for place, name in enumerate(names)
    ]


def _curve(name: str, color: str, table: Sequence[tuple[Row, float]]) -> Curve:
    rows = [(row, x) for row, x in table if number(row.get("measured")) is not None]

    def column(key: str) -> tuple[float | None, ...]:
        return tuple(number(row.get(key)) for row, _ in rows)

    y = tuple(value if value > 0 else nan for value in (row["measured"] for row, _ in rows))
    return Curve(
        name,
        style.COLORS[color][0],
        tuple(x for _, x in rows),
        y,
        tuple(v if v is not None else here for v, here in zip(column("low"), y, strict=True)),
        tuple(v if v is not None else here for v, here in zip(column("high"), y, strict=True)),
        column("exact"),
        column("bound"),
    )


def _draw(axes: Axes, c: Curve, lowest: float) -> None:
    if not c.x:
        return
    low = [max(v, lowest / 10) for v in c.low]
    axes.fill_between(c.x, low, c.high, color=c.color, alpha=0.16, linewidth=0, zorder=2)
    exact = [(x, y) for x, y in zip(c.x, c.exact, strict=True) if y is not None]
    axes.plot(
        c.x, c.y, color=c.color, linewidth=3 if exact else 1.5, alpha=0.5 if exact else 1, zorder=3
    )
    if exact:
        axes.plot(*zip(*exact, strict=True), color=style.INK, linewidth=0.8, zorder=4)
    bound = [(x, y) for x, y in zip(c.x, c.bound, strict=True) if y is not None]
    if bound:
        axes.plot(*zip(*bound, strict=True), "--", color=_BOUND, linewidth=1.5, zorder=3)


_BOUND = style.COLORS["bound"][0]


def _drawn(column: Sequence[float | None]) -> list[float]:
    return [value for value in column if value is not None and value > 0]


def _limits(heights: Sequence[float], decades: float) -> tuple[float, float]:
    """The y axis: a little around all curves, not deeper than so many decades under the highest."""
    high = max(heights, default=1.0)
    low = max(min(heights, default=0.1), high / 10**decades)
    if high < 3 * low:  # too little for a logarithm
        return low - 0.08 * (high - low or low), high + 0.05 * (high - low or low)
    return low / 1.8, high * 1.5


def _scale(
    axes: Axes, found: Sequence[Curve], limits: tuple[float, float], *, logarithmic: bool
) -> None:
    """Logarithms upwards unless all is within a factor of 3; sideways where the record says so."""
    low, high = limits
    if high < 4 * low:
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    else:
        style.log_axis(axes, "y", low, high)
    xs = [x for c in found for x, seen in zip(c.x, _seen(c, low), strict=True) if seen]
    if logarithmic:
        positive = [x for x in xs if x > 0] or [1.0]
        style.log_axis(axes, "x", min(positive), max(positive))
    elif xs:
        axes.set_xlim(min(xs), max(xs))
        whole = all(x == round(x) for x in xs)  # workers, coordinates, rounds: no ticks between
        axes.xaxis.set_major_locator(MaxNLocator(3 if max(xs) >= 1e5 else 4, integer=whole))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: style.power(v) if v else "0"))


def _seen(c: Curve, low: float) -> list[bool]:
    """Where the curve, its bound, or the gap of a zero is above the foot of the axis."""
    return [
        isnan(y) or y >= low or (b is not None and b >= low)
        for y, b in zip(c.y, c.bound, strict=True)
    ]


def _ends(
    found: Sequence[Curve], low: float, bound_name: str
) -> list[tuple[float, float, str, str]]:
    """Where each curve leaves the plot, its name and colour."""
    ends = []
    for c in found:
        seen = [(x, y) for x, y in zip(c.x, c.y, strict=True) if y >= low]
        if seen:
            ends.append((*seen[-1], fill(c.name, 18), c.color))
        bound = [(x, b) for x, b in zip(c.x, c.bound, strict=True) if b is not None and b >= low]
        if bound:
            ends.append((*bound[-1], bound_name, _BOUND))
    return ends


def _y_label(measure: str, found: Sequence[Curve]) -> str:
    exact = "\nthin line: exact expectation" if any(_drawn(c.exact) for c in found) else ""
    return fill(measure, 50) + exact


def _lines(found: Sequence[Curve]) -> int:
    return sum(len(fill(c.name, 18).splitlines()) for c in found)
