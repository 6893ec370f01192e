"""Yuan et al.'s picture: a network cut across workers, then the subnetworks on their own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from subnetwork.figures import style
from subnetwork.figures.deal import MOST_WORKERS, Dealt

_SAMPLE, _ENDS = 12, 5  # hidden neurons and inputs (outputs) that a picture shows
Place = tuple[float, float]


@dataclass(frozen=True)
class Neuron:
    """A neuron in the picture: its unit, its place, and its worker; None where all hold it."""

    unit: int
    place: Place
    worker: int | None


@dataclass(frozen=True)
class Box:
    """Where a network is drawn: left, bottom, width, height; and the radius of a neuron."""

    left: float
    bottom: float
    width: float
    height: float
    radius: float


def chosen(deal: Dealt) -> list[tuple[int, int]]:
    """The (unit, worker) pairs that a picture shows, by unit.

    All units of a small layer; of a large one the first few of every hand, so that each worker is
    seen.
    """
    hands = deal.hands[:MOST_WORKERS]
    small = sum(map(len, hands)) <= _SAMPLE
    most = _SAMPLE if small else max(2, _SAMPLE // len(hands))
    return sorted((u, i) for i, hand in enumerate(hands) for u in sorted(hand)[:most])


@style.drawn
def network(deals: Sequence[Dealt], layers: Sequence[int]) -> Figure:
    """The whole network of one round, every neuron and edge in the colour of who trains it.

    Args:
        deals: the cut hidden layers of one round, from input to output.
        layers: units of every layer, input and output included.
    """
    most = max(len(chosen(deal)) for deal in deals)
    box = Box(30, 38, style.WIDTH - 60, max(110.0, 19.0 * most), 7.8)
    figure, axes = style.canvas(box.height + 54)
    columns = _columns(deals, layers, box, None)
    _draw(axes, columns, box)
    for column, size in ((columns[0], layers[0]), (columns[-1], layers[-1])):
        if size > len(column):  # more of them than are drawn
            x, y = column[-1].place
            axes.text(x, y - 20, "⋮", fontsize=11, color=style.MUTED, ha="center", va="center")
    names = ["inputs", *(["hidden"] * len(deals)), "outputs"]
    for column, name, size in zip(
        columns, names, [layers[0], *_sizes(deals), layers[-1]], strict=True
    ):
        axes.text(
            column[0].place[0],
            6,
            f"{size} {name}",
            fontsize=style.SMALL,
            color=style.MUTED,
            ha="center",
        )
    return figure


@style.drawn
def subnetworks(deals: Sequence[Dealt], layers: Sequence[int]) -> Figure:
    """The workers' networks side by side: smaller, complete, and without an edge between them."""
    n = min(len(deals[0].hands), MOST_WORKERS)
    most = max(sum(w == i for _, w in chosen(deal)) for deal in deals for i in range(n))
    height, n_lines = max(84.0, 16.5 * most) + 40, (n + 1) // 2
    figure, axes = style.canvas(n_lines * height)
    for i in range(n):
        bottom = (n_lines - 1 - i // 2) * height
        box = Box(22 + 170.0 * (i % 2), bottom + 12, 126, height - 40, 7)
        _draw(axes, _columns(deals, layers, box, i), box)
        units = ", ".join(f"{len(d.hands[i])} of {d.size}" for d in deals)
        top = (box.left - 6, bottom + height - 16)
        axes.plot(top[0] + 3, top[1] + 3, "o", color=style.tint(i), markersize=6, markeredgewidth=0)
        axes.text(top[0] + 11, top[1], f"worker {i + 1}", fontsize=style.SMALL, color=style.INK)
        axes.text(
            box.left + box.width + 6, top[1], units, fontsize=8.5, color=style.MUTED, ha="right"
        )
    return figure


def _sizes(deals: Sequence[Dealt]) -> list[int]:
    return [deal.size for deal in deals]


def _columns(
    deals: Sequence[Dealt], layers: Sequence[int], box: Box, worker: int | None
) -> list[list[Neuron]]:
    """The neurons of every layer; of one worker's network, or of all."""
    contents: Sequence[Sequence[tuple[int, int | None]]] = [
        [(u, None) for u in range(min(layers[0], _ENDS))],
        *[[(u, i) for u, i in chosen(deal) if worker in (None, i)] for deal in deals],
        [(u, None) for u in range(min(layers[-1], _ENDS))],
    ]
    step = box.width / (len(contents) - 1)
    return [_column(c, box.left + step * j, box) for j, c in enumerate(contents)]


def _column(content: Sequence[tuple[int, int | None]], x: float, box: Box) -> list[Neuron]:
    pitch = min(box.height / max(len(content), 1), 3.2 * box.radius)
    top = box.bottom + box.height / 2 + pitch * (len(content) - 1) / 2
    return [Neuron(u, (x, top - pitch * j), i) for j, (u, i) in enumerate(content)]


def _draw(axes: Axes, columns: Sequence[Sequence[Neuron]], box: Box) -> None:
    """Edges first, then neurons: one shape a colour."""
    edges: dict[int, list[tuple[Place, Place]]] = {}
    for left, right in pairwise(columns):
        for a, b in ((a, b) for a in left for b in right):
            workers = {a.worker, b.worker} - {None}
            if len(workers) == 1:  # an edge between two workers' neurons rests this round
                edges.setdefault(_only(workers), []).append((a.place, b.place))
    for i, pairs in sorted(edges.items()):
        shape = Outline.make_compound_path(*(Outline(pair) for pair in pairs))
        axes.add_patch(
            PathPatch(shape, fill=False, edgecolor=style.line(i), linewidth=0.7, alpha=0.75)
        )
    for neuron in (neuron for column in columns for neuron in column):
        _neuron(axes, neuron, box.radius)


def _only(workers: Iterable[int | None]) -> int:
    return next(i for i in workers if i is not None)


def _neuron(axes: Axes, neuron: Neuron, radius: float) -> None:
    shared = neuron.worker is None
    radius = radius * 0.62 if shared else radius
    axes.add_patch(
        PathPatch(
            Outline.circle(neuron.place, radius),
            facecolor=style.FAINT if neuron.worker is None else style.tint(neuron.worker),
            edgecolor=style.MUTED if shared else "none",
            linewidth=0.7,
        )
    )
    if not shared:
        axes.text(
            *neuron.place,
            str(neuron.unit),
            fontsize=radius,
            color=style.ON_TINT,
            ha="center",
            va="center_baseline",
        )
