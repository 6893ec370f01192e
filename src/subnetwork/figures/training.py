"""Accuracy of every method, against local steps and against payload."""

from collections.abc import Sequence
from math import floor

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from subnetwork.figures import style
from subnetwork.figures.courses import Course

Point = tuple[float, float]
Curve = tuple[Course, list[Point]]


@style.drawn
def accuracy_by_steps(courses: Sequence[Course]) -> Figure:
    """Test accuracy against local steps a worker has taken; all methods in one panel."""
    figure, axes = style.panel("local steps of each worker", "test accuracy, %")
    curves = [(course, _evaluated(course, course.steps)) for course in courses]
    _draw(axes, curves)
    axes.set_xlim(0, max((x for _, points in curves for x, _ in points), default=1.0))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style.name_ends(
        axes,
        [(*points[-1], _end_name(course), course.color) for course, points in curves if points],
    )
    return figure


@style.drawn
def accuracy_by_payload(courses: Sequence[Course]) -> Figure:
    """Test accuracy against payload, down and up over all workers, on a logarithmic axis.

    A dotted line drops from the end of each curve to its name: below it stands the whole payload.
    """
    figure, axes = style.panel(
        "payload so far, all workers, down + up", "test accuracy, %", right=18
    )
    curves = [
        (course, [point for point in _evaluated(course, course.payload) if point[0] > 0])
        for course in courses
    ]
    _draw(axes, curves)
    sizes = [x for _, points in curves for x, _ in points] or [1.0]
    beside = 1.3 if max(sizes) > 10 * min(sizes) else 3.3  # at least a decade
    style.log_axis(axes, "x", min(sizes) / beside, max(sizes) * beside, unit="B")
    _name_drops(axes, [curve for curve in curves if curve[1]])
    return figure


def _end_name(course: Course) -> str:
    name = course.label.replace(" SGD", "\nSGD")
    return name if course.complete else f"{name}\n(cut off)"


def _evaluated(course: Course, at: Sequence[float]) -> list[Point]:
    pairs = zip(at, course.accuracy, strict=True)
    return [(x, 100 * accuracy) for x, accuracy in pairs if accuracy is not None]


def _draw(axes: Axes, curves: Sequence[Curve]) -> None:
    """The curves, a dot where each ends (hollow where its record was cut off), and the y axis."""
    for course, points in reversed(curves):  # IST on top
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), color=course.color, linewidth=1.7, zorder=3)
        axes.plot(
            *points[-1],
            "o",
            markersize=5,
            color=course.color,
            markerfacecolor=course.color if course.complete else style.PAPER,
            clip_on=False,
            zorder=4,
        )
    axes.set_ylim(_lowest(curves), 100)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _lowest(curves: Sequence[Curve]) -> float:
    """Where the accuracy axis starts: late differences are small, so the first climb is cut."""
    ends = [points[-1][1] for _, points in curves if points]
    every = [y for _, points in curves for _, y in points]
    if not ends:
        return 0.0
    return max(0.0, 10 * floor(min(ends) / 10) - 40, 10 * floor(min(every) / 10))


def _name_drops(axes: Axes, curves: Sequence[Curve]) -> None:
    """Each name at the foot of a dotted line that drops from the end of its curve."""
    low, high = axes.get_ylim()
    by_end = sorted(curves, key=lambda curve: curve[1][-1][0], reverse=True)  # longest, lowest
    for rank, (course, points) in enumerate(by_end):
        x, y = points[-1]
        foot = low + (high - low) * (0.05 + 0.1 * rank)
        side = _free_side(axes, (x, foot), course.label, curves)
        axes.plot((x, x), (low, y), ":", color=course.color, linewidth=1, zorder=2)
        axes.annotate(
            course.label,
            (x, foot),
            xytext=(5 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=style.SMALL,
            color=course.color,
            bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1.5},
            zorder=5,
            parse_math=False,
        )


def _free_side(axes: Axes, foot: Point, label: str, curves: Sequence[Curve]) -> int:
    """1 or -1: right or left of the foot, where the label fits and hides less of the curves."""
    wide, tall = (6.2 * len(label) + 8) * axes.figure.dpi / 72, 8 * axes.figure.dpi / 72
    x, y = axes.transData.transform(foot)
    box = axes.get_window_extent()
    every = np.concatenate([_dense(axes, points) for _, points in curves])

    def hidden(side: int) -> float:
        outside = x + side * wide > box.x1 or x + side * wide < box.x0
        away = (every[:, 0] - x) * side
        across = (away > 0) & (away < wide) & (abs(every[:, 1] - y) < tall)
        return 1e6 * float(outside) + float(across.sum())

    return min((1, -1), key=hidden)


def _dense(axes: Axes, points: Sequence[Point]) -> NDArray[np.float64]:
    """A curve as it lies on the sheet, with points close together."""
    places = np.asarray(axes.transData.transform(points))
    at = np.linspace(0, len(places) - 1, 20 * len(places))
    index = np.arange(len(places))
    return np.stack([np.interp(at, index, places[:, j]) for j in (0, 1)], axis=1)
