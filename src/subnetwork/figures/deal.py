"""The deck's four steps, sample - compute - resample - compute, drawn from an actual deal."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from subnetwork.figures import style
from subnetwork.record import Record

MOST_UNITS, MOST_WORKERS = 32, 8
_LEFT, _RIGHT, _BUS = 70.0, 300.0, 326.0  # where the cells start and end, where the wire runs
_SERVER, _ROW, _PITCH, _GAP = 18.0, 12.0, 20.0, 30.0  # heights, points


@dataclass(frozen=True)
class Dealt:
    """One axis of the model as one round deals it: `hands[i]` are the units of worker i."""

    k: int
    axis: str
    size: int
    hands: tuple[tuple[int, ...], ...]

    @property
    def shown(self) -> range:
        """The units that fit in the picture: all, or the first `MOST_UNITS`."""
        return range(min(self.size, MOST_UNITS))

    def holders(self, unit: int) -> list[int]:
        """The workers that hold a unit: one under Perm; none or several under other deals."""
        return [i for i, hand in enumerate(self.hands) if unit in hand]


def dealt(record: Record) -> list[Dealt]:
    """The rows of a deal record, in their order."""
    return [
        Dealt(int(row["k"]), str(row["axis"]), int(row["size"]), tuple(map(tuple, row["hands"])))
        for row in record.rows
    ]


@style.drawn
def sample(deal: Dealt, before: Dealt | None = None) -> Figure:
    """Steps 1 and 3: the server cuts x into submodels and sends each worker its own.

    Args:
        deal: the round that is drawn.
        before: the last round; a thin strip under each of the server's cells then tells who
            trained it there.
    """
    figure, axes = _sheet(deal)
    _server(axes, deal, before)
    for i, y in _rows(deal):
        _cells(axes, deal, deal.hands[i], (y, _ROW), style.tint(i))
        _arrow(axes, (_BUS, y + _ROW / 2), (_RIGHT + 5, y + _ROW / 2))
    server = _top(deal) + _SERVER / 2
    _wire(axes, [(_RIGHT + 5, server), (_BUS, server), (_BUS, _middle(deal, -1))])
    return figure


@style.drawn
def compute(deal: Dealt) -> Figure:
    """Steps 2 and 4: every worker trains its submodel alone, and the server merges what returns.

    A dot in a cell: its value is new.
    """
    figure, axes = _sheet(deal)
    _server(axes, deal, None)
    for i, y in _rows(deal):
        _cells(axes, deal, deal.hands[i], (y, _ROW), style.tint(i))
        _dots(axes, deal, deal.hands[i], y + _ROW / 2)
        axes.text(
            _LEFT - 9, y + _ROW / 2, "↻", fontsize=11, color=style.INK, ha="center", va="center"
        )
        _wire(axes, [(_RIGHT + 5, y + _ROW / 2), (_BUS, y + _ROW / 2)])
    server = _top(deal) + _SERVER / 2
    _dots(axes, deal, [u for u in deal.shown if deal.holders(u)], server)
    _wire(axes, [(_BUS, _middle(deal, -1)), (_BUS, server)])
    _arrow(axes, (_BUS, server), (_RIGHT + 5, server))
    return figure


def _sheet(deal: Dealt) -> tuple[Figure, Axes]:
    figure, axes = style.canvas(_top(deal) + _SERVER + 18)
    axes.text(
        4, _top(deal) + _SERVER / 2, "server", fontsize=style.SMALL, color=style.INK, va="center"
    )
    for i, y in _rows(deal):
        axes.text(
            4, y + _ROW / 2, f"worker {i + 1}", fontsize=style.SMALL, color=style.INK, va="center"
        )
        _cells(axes, deal, deal.shown, (y, _ROW), "none", edge=style.FAINT)
    width = (_RIGHT - _LEFT) / len(deal.shown)
    for unit in (0, len(deal.shown) - 1):
        axes.text(
            _LEFT + (unit + 0.5) * width,
            _top(deal) + _SERVER + 4,
            str(unit),
            fontsize=8.5,
            color=style.MUTED,
            ha="center",
        )
    return figure, axes


def _server(axes: Axes, deal: Dealt, before: Dealt | None) -> None:
    """The whole vector, a cell coloured by who holds it now, a strip by who held it before."""
    y = _top(deal)
    _cells(axes, deal, deal.shown, (y, _SERVER), "none", edge=style.MUTED)
    _owners(axes, deal, y, _SERVER)
    if before is not None:
        _owners(axes, before, y - 6, 4)


def _owners(axes: Axes, deal: Dealt, y: float, height: float) -> None:
    """A unit's cell in the colours of its holders, one slice each."""
    slices: dict[tuple[int, float, float], list[int]] = {}
    for unit in deal.shown:
        holders = deal.holders(unit)
        for place, i in enumerate(holders):
            part = height / len(holders)
            slices.setdefault((i, y + place * part, part), []).append(unit)
    for (i, bottom, part), units in slices.items():
        _cells(axes, deal, units, (bottom, part), style.tint(i))


def _cells(
    axes: Axes,
    deal: Dealt,
    units: Sequence[int],
    row: tuple[float, float],
    fill: str,
    edge: str = "none",
) -> None:
    """The cells of some units in a row (its y, its height), as one shape."""
    width, (y, height) = (_RIGHT - _LEFT) / len(deal.shown), row
    inset = min(0.6, width / 10)
    boxes = []
    for unit in (u for u in units if u in deal.shown):
        x = _LEFT + unit * width
        corners = [(x + inset, y), (x + width - inset, y)]
        corners += [(x + width - inset, y + height), (x + inset, y + height)]
        boxes.append(Outline([*corners, corners[0]], closed=True))
    if boxes:
        shape = Outline.make_compound_path(*boxes)
        axes.add_patch(PathPatch(shape, facecolor=fill, edgecolor=edge, linewidth=0.6))


def _dots(axes: Axes, deal: Dealt, units: Sequence[int], y: float) -> None:
    width = (_RIGHT - _LEFT) / len(deal.shown)
    x = [_LEFT + (unit + 0.5) * width for unit in units if unit in deal.shown]
    axes.plot(x, [y] * len(x), "o", color=style.ON_TINT, markersize=2.4, markeredgewidth=0)


def _wire(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    axes.plot(*zip(*points, strict=True), color=style.MUTED, linewidth=1, solid_capstyle="round")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {"arrowstyle": "-|>,head_width=0.16,head_length=0.32", "color": style.MUTED}
    axes.annotate("", end, start, arrowprops={**look, "shrinkA": 0, "shrinkB": 0, "linewidth": 1})


def _rows(deal: Dealt) -> list[tuple[int, float]]:
    """The workers that fit, each with the y of its row, the first on top."""
    n = min(len(deal.hands), MOST_WORKERS)
    return [(i, 8 + (n - 1 - i) * _PITCH) for i in range(n)]


def _middle(deal: Dealt, place: int) -> float:
    return _rows(deal)[place][1] + _ROW / 2


def _top(deal: Dealt) -> float:
    return _rows(deal)[0][1] + _ROW + _GAP
