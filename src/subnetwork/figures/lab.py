"""A theorem's figure: the measured left side, its exact expectation, and the bound."""

from dataclasses import dataclass
from math import nan
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from subnetwork.figures import style
from subnetwork.figures.courses import number
from subnetwork.record import Record

MEASURED, BOUND, TIGHTENED = (style.COLORS[c][0] for c in ("ist", "bound", "tightened"))
Column = list[float]


@dataclass(frozen=True)
class Line:
    """How one column of the record is drawn and named."""

    key: str
    name: str
    color: str
    dashes: str
    width: float


LINES = (
    Line("measured", "measured", MEASURED, "-", 3.2),
    Line("exact", "exact\nexpectation", style.INK, "-", 0.9),
    Line("bound", "bound", BOUND, "--", 1.5),
    Line("tightened", "tightened\nbound", TIGHTENED, "-.", 1.5),
)


@style.drawn
def theorem(record: Record) -> Figure:
    """Both sides of an inequality against the horizon K: measured with its band, exact, bound.

    The y axis starts a little under the lowest curve, so that the floor of the noise is in sight
    and the tail of the band below it is cut. A bound that the theorem does not give (null) is not
    drawn.
    """
    rows = [row for row in record.rows if (number(row.get("k")) or 0) >= 1]
    k = [float(row["k"]) for row in rows]
    columns = {key: _column([row.get(key) for row in rows]) for key in _KEYS}
    left_side = str(record.header["config"].get("left_side", "left side of the inequality"))
    figure, axes = style.panel("horizon K, rounds", fill(left_side, 50), height=276)
    axes.fill_between(
        k, columns["low"], columns["high"], color=MEASURED, alpha=0.18, linewidth=0, zorder=2
    )
    drawn = [line for line in LINES if any(_positive(columns[line.key]))]
    for line in drawn:
        axes.plot(
            k,
            columns[line.key],
            line.dashes,
            color=line.color,
            linewidth=line.width,
            alpha=0.55 if line.key == "measured" else None,
            zorder=3,
        )
    _scale(axes, k, [y for line in drawn for y in _positive(columns[line.key])])
    ends = [(*_last(k, columns[line.key]), line.name, line.color) for line in drawn]
    style.name_ends(axes, ends)
    return figure


def is_silent(record: Record) -> bool:
    """Whether the theorem gives no bound in this record: its assumptions did not hold."""
    return not any(_positive(_column(record.column("bound"))))


_KEYS = ("measured", "low", "high", "exact", "bound", "tightened")


def _column(values: list[object]) -> Column:
    """Numbers, with gaps where there are none; a logarithm has no room for zero either."""
    found = (number(value) for value in values)
    return [value if value is not None and value > 0 else nan for value in found]


def _positive(column: Column) -> Column:
    return [value for value in column if value > 0]


def _last(k: list[float], column: Column) -> tuple[float, float]:
    return next((x, y) for x, y in zip(reversed(k), reversed(column), strict=True) if y > 0)


def _scale(axes: Axes, k: list[float], heights: Column) -> None:
    """Logarithms upwards, and sideways too where K runs over more than a decade and a half."""
    low, high = min(heights, default=1.0) / 1.6, max(heights, default=1.0) * 1.4
    style.log_axis(axes, "y", low, high)
    if k and max(k) / min(k) > 30:
        style.log_axis(axes, "x", min(k), max(k))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
