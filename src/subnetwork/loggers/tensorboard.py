"""The example of a logger: rows as TensorBoard's scalars, in the run's folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """Writes RUN/tensorboard; needs the package tensorboard, which is imported late."""

    def begin(self, folder: Path, config: Mapping[str, Any], k: int, /) -> None:
        """Open the files. Where the run goes on, later points of the earlier part are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        place = str(folder / "tensorboard")
        self._writer = SummaryWriter(place, purge_step=k or None)
        lines = [f"| {name} | {value} |" for name, value in config.items()]
        self._writer.add_text("config", "\n".join(["| | |", "|-|-|", *lines]), k)

    def row(self, row: Mapping[str, Any], /) -> None:
        """A point at the row's round in every curve; a curve for each worker where there is one."""
        for name, value in scalars(row):
            self._writer.add_scalar(name, value, row["k"])
        self._writer.flush()

    def end(self, reason: str, /) -> None:
        """Close the files."""
        del reason
        self._writer.close()


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a row by name.

    >>> list(scalars({"k": 3, "loss": 0.5, "bytes_up": [8, 4], "accuracy": None, "faults": []}))
    [('loss', 0.5), ('bytes_up/0', 8), ('bytes_up/1', 4), ('faults', 0)]
    """
    for name, value in row.items():
        if name == "faults":
            yield name, len(value)
        elif name == "usual_norms":
            continue  # what clipping remembers: no curves
        elif isinstance(value, list):
            yield from ((f"{name}/{worker}", one) for worker, one in enumerate(value))
        elif value is not None and name != "k":
            yield name, value
