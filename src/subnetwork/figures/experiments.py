"""The figure of an experiment, from its record alone: what the record says it wants to be."""

from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from subnetwork.figures.curves import axes_of, curves
from subnetwork.figures.lab import theorem
from subnetwork.record import Record

FIGURES: Mapping[str, Callable[[Record, str | None], Figure]] = {
    "theorem": lambda record, axis: theorem(_only_horizons(record, axis)),
    "curves": curves,
}


def kind(record: Record) -> str:
    """How a record is drawn: "theorem" or "curves"."""
    return str(record.header["config"].get("figure", "theorem"))


def experiment(record: Record, axis: str | None = None) -> Figure:
    """Draw the record of an experiment.

    Args:
        record: of kind "lab".
        axis: one of `axes(record)`; what the record prefers unless given.

    Raises:
        ValueError: a record of another kind or figure, without rows, or an axis it does not have.
    """
    found = kind(record)
    if record.header["kind"] != "lab" or found not in FIGURES or not record.rows:
        raise ValueError(
            f"{record.path} holds no rows of an experiment of the lab, so there is no figure of "
            f"it. Records with figures are written by `subnetwork lab run`."
        )
    return FIGURES[found](record, axis)


def axes(record: Record) -> list[str]:
    """What an experiment's record can be drawn against."""
    return axes_of(record) if kind(record) == "curves" else ["k"]


def _only_horizons(record: Record, axis: str | None) -> Record:
    if axis not in (None, "k", "rounds"):
        raise ValueError(
            f"{record.name} has no axis {axis!r}: a theorem is drawn against the horizon K. Leave "
            "the axis out."
        )
    return record
