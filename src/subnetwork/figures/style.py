"""The look of every figure: colours, a panel to plot on, a canvas to draw on, and the way to SVG.

All figures are `WIDTH` points wide and stand alone: a page puts two beside each other where there
is room and one under the other on a phone, so that no label ever shrinks below reading size.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from math import floor, isfinite, log10
from typing import Any, ParamSpec

from matplotlib import style as rc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

P = ParamSpec("P")

WIDTH = 340.0  # points
SMALL = 10.0  # font size of labels, points: 11 pixels on a phone, 15 on a desk

# name -> (on white paper, on a dark screen). Figures are drawn in the first; a page may swap them.
# The methods' colours are Okabe and Ito's, which all common kinds of colour blindness tell apart.
COLORS: Mapping[str, tuple[str, str]] = {
    "paper": ("#fdfdfb", "#15181d"),
    "ink": ("#1d232c", "#e6e8ec"),
    "muted": ("#636b78", "#9aa3b0"),
    "faint": ("#dfe2e7", "#333942"),
    "ist": ("#d55e00", "#f58a3c"),
    "local_sgd": ("#0072b2", "#5ab4ee"),
    "diloco": ("#00916a", "#3cc79c"),
    "synchronous_sgd": ("#3a4250", "#c3cad4"),
    "other_1": ("#b0578d", "#e29cc6"),
    "other_2": ("#a87400", "#e8b23c"),
    "other_3": ("#2f6f73", "#7cc4c8"),
    "other_4": ("#7a6a53", "#c9b899"),
    "bound": ("#6257c4", "#aaa2f5"),
    "tightened": ("#a3479b", "#e39adb"),
    "holds": ("#1b7f4d", "#4cc38a"),
    "fails": ("#b42318", "#f97066"),
    "worker_1": ("#4f8fcb", "#77aade"),
    "worker_2": ("#d9683f", "#ee8867"),
    "worker_3": ("#c9ad2e", "#eedd89"),
    "worker_4": ("#2f9d80", "#44bb9a"),
    "worker_5": ("#e0788f", "#ffaabc"),
    "worker_6": ("#4fb4dc", "#99ddfe"),
    "worker_7": ("#93a41c", "#bbcc34"),
    "worker_8": ("#8a8a12", "#aaaa01"),
}
PAPER, INK, MUTED, FAINT = (COLORS[name][0] for name in ("paper", "ink", "muted", "faint"))
# Fills for a worker's cells (Tol's light scheme), the same on paper and screen, and ink upon them.
TINTS = ("#77aadd", "#ee8866", "#eedd88", "#44bb99", "#ffaabb", "#99ddff", "#bbcc33", "#aaaa00")
LINES = tuple(COLORS[f"worker_{i}"][0] for i in range(1, 9))  # a worker's edges and words
ON_TINT = "#20262e"

LABELS = {
    "ist": "IST",
    "local_sgd": "Local SGD",
    "diloco": "DiLoCo",
    "synchronous_sgd": "synchronous SGD",
}
_OTHERS = tuple(COLORS[f"other_{i}"][0] for i in range(1, 5))
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so widths agree everywhere
    "svg.fonttype": "none",  # letters stay letters: they take the page's font, and can be searched
    "svg.hashsalt": "subnetwork",
    "path.simplify": False,
    "savefig.bbox": None,
    "savefig.facecolor": "none",
    "savefig.edgecolor": "none",
}


def label(name: str) -> str:
    """What a method is called on paper: "IST" for `ist`; a name unknown here stays as it is."""
    return LABELS.get(name, name.replace("_", " "))


def colors(names: Sequence[str]) -> dict[str, str]:
    """A colour for every method: its own where it has one, else the next of four, in order."""
    others = [name for name in names if name not in LABELS]
    spare = {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    return {name: spare[name] if name in spare else COLORS[name][0] for name in names}


def tint(worker: int) -> str:
    """The fill of a worker's cells; from the ninth worker on, colours repeat."""
    return TINTS[worker % len(TINTS)]


def line(worker: int) -> str:
    """The colour of a worker's edges and words."""
    return LINES[worker % len(LINES)]


def drawn(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function that makes a figure: a user's matplotlibrc does not change its look."""

    @wraps(draw)
    def in_own_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _own_style():
            return draw(*args, **kwargs)

    return in_own_style


def panel(
    x_label: str, y_label: str, *, height: float = 262, right: float = 92
) -> tuple[Figure, Axes]:
    """A plot without a frame: faint horizontal rules, its y label lying flat above the axis.

    Args:
        x_label: quantity and unit, under the axis.
        y_label: quantity and unit, above the axis; may take several lines.
        height: of the whole figure, points.
        right: margin for the curves' names, points.
    """
    left, bottom = 40.0, 43.0
    top = 10 + 14.0 * len(y_label.splitlines())
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    box = (left, bottom, WIDTH - left - right, height - bottom - top)
    axes = figure.add_axes(
        (box[0] / WIDTH, box[1] / height, box[2] / WIDTH, box[3] / height), facecolor="none"
    )
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.spines["bottom"].set(color=MUTED, linewidth=0.8)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for which in ("major", "minor"):
        axes.tick_params(
            which=which, labelsize=SMALL, labelcolor=MUTED, color=MUTED, width=0.6, pad=4
        )
    axes.tick_params(axis="y", which="both", length=0)
    axes.set_xlabel(x_label, fontsize=SMALL, color=INK, loc="left", labelpad=5)
    figure.text(
        4 / WIDTH,
        1 - 4 / height,
        y_label,
        fontsize=SMALL,
        color=INK,
        va="top",
        linespacing=1.35,
        parse_math=False,
    )
    return figure, axes


def canvas(height: float) -> tuple[Figure, Axes]:
    """An empty sheet of `WIDTH` x `height` whose coordinates are points, y upwards."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1), facecolor="none")
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def spread(
    heights: Sequence[float], sizes: Sequence[float], low: float, high: float
) -> list[float]:
    """Move labels apart, in order, until none overlaps its neighbour, within low and high.

    Args:
        heights: where the labels' middles would like to stand.
        sizes: how tall they are.
        low: the least middle.
        high: the greatest middle.

    >>> spread([0.0, 10.0, 11.0], [5, 5, 5], low=0.0, high=12.0)
    [0.0, 7.0, 12.0]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for before, i in zip([None, *order], order, strict=False):
        gap = 0 if before is None else (sizes[before] + sizes[i]) / 2
        moved[i] = max(moved[i], low if before is None else moved[before] + gap)
    for after, i in zip([None, *reversed(order)], reversed(order), strict=False):
        gap = 0 if after is None else (sizes[after] + sizes[i]) / 2
        moved[i] = min(moved[i], high if after is None else moved[after] - gap)
    return moved


def name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each curve's name right of the plot, and lead a thin line from its end there.

    Args:
        axes: the plot; its limits and scales have to be set before.
        ends: of every curve the last x and y, the name and the colour.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    tall = axes.get_window_extent().height * 72 / axes.figure.dpi  # points
    places = [to_axes.transform((x, y)) for x, y, *_ in ends]
    sizes = [2.0 + 11.6 * len(name.splitlines()) for *_, name, _ in ends]
    moved = spread([float(y) * tall for _, y in places], sizes, 4, tall + 4)
    for (x, y), height, (*_, name, color) in zip(places, moved, ends, strict=True):
        level, out = height / tall, 1 + 16 / (axes.bbox.width * 72 / axes.figure.dpi)
        axes.plot(
            (x, out),
            (y, level),
            "-" if x > 0.97 else ":",  # a long solid line would look like more of the curve
            color=color,
            linewidth=0.7,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.annotate(
            name,
            (out, level),
            xycoords="axes fraction",
            xytext=(3, 0),
            textcoords="offset points",
            color=color,
            fontsize=SMALL,
            va="center",
            linespacing=1.1,
            parse_math=False,
        )


def log_axis(axes: Axes, which: str, low: float, high: float, *, unit: str = "") -> None:
    """Scale the x or y axis by logarithm, with few ticks, written 0.1, 1, 10, 10⁵ or as bytes."""
    decades = log10(high / low)
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    if decades > (1.6 if which == "x" else 3.0):
        locator = LogLocator(10, numticks=6)
    else:
        locator = LogLocator(10, subs=(1, 2, 5), numticks=8)
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda v, _: data_size(v) if unit == "B" else power(v)))


def power(value: float) -> str:
    """A tick of a logarithmic axis: plain from 0.001 to 50,000, a power of ten outside.

    >>> power(0.5), power(20000.0), power(100000.0), power(2e-5)
    ('0.5', '20,000', '10⁵', '2·10⁻⁵')
    """
    if not isfinite(value) or value <= 0:
        return ""
    if 0.001 <= value < 99_999:
        return f"{value:,g}"
    exponent = floor(log10(value) + 1e-9)
    factor = f"{value / 10**exponent:g}"
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if factor == "1" else f"{factor}·10{raised}"


def data_size(value: float) -> str:
    """Bytes in the largest decimal unit that leaves at least 1: "20 kB", "1 MB".

    >>> data_size(20_000), data_size(1_000_000)
    ('20 kB', '1 MB')
    """
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size * (1 - 1e-9):
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} B"


def to_svg(figure: Figure) -> str:
    """The figure as SVG text; the same figure gives the same text on every day and machine."""
    file = io.StringIO()
    with _own_style(), warnings.catch_warnings():
        # a letter that DejaVu lacks is measured as a box here and drawn by the reader's own font
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def to_png(figure: Figure, *, dots_per_inch: int = 200) -> bytes:
    """The figure as a PNG on white paper."""
    file = io.BytesIO()
    with _own_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        figure.savefig(file, format="png", dpi=dots_per_inch, facecolor="white")
    return file.getvalue()


def _own_style() -> AbstractContextManager[None]:
    return rc.context(["default", _RC])
