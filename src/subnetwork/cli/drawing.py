"""A figure's file appears whole or not at all."""

from pathlib import Path

from subnetwork.figures import style
from subnetwork.figures.experiments import experiment
from subnetwork.record import Record


def check_file(path: Path) -> None:
    """Raise ValueError unless a figure can be written there, before anything is run."""
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"{path} is no .svg or .png file. Name one with --out.")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}. Make it first.")


def write_figure(record: Record, path: Path, axis: str | None) -> None:
    """Draw the record of an experiment into an SVG or PNG file."""
    figure = experiment(record, axis)
    content = style.to_png(figure) if path.suffix == ".png" else style.to_svg(figure).encode()
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
