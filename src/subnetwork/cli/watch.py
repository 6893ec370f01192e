"""`subnetwork watch`: a run's workers as a live table, read from its record as it grows."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from subnetwork.cli.console import Output
from subnetwork.cli.folder import is_written, run_folder, unfinished
from subnetwork.record import Record, read

EVERY = 0.5  # seconds between two looks at the record


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.2f} MB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"


_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("down", "bytes_down", _megabytes),
    ("up", "bytes_up", _megabytes),
    ("compute", "compute_seconds", _seconds),
    ("exchange", "exchange_seconds", _seconds),
    ("wait", "wait_seconds", _seconds),
)


def watch(run: Path = Path("runs/train")) -> int:
    """Show a run's progress and its workers; end when the run ends.

    Where the output is no terminal, one table is printed.

    Parameters
    ----------
    run:
        The run's folder: the one that is being written, else the complete one.
    """
    folder = unfinished(run) if unfinished(run).is_dir() else run_folder(run)
    console, (record, path) = Output(), _newest(folder)
    if not console.is_terminal:
        console.print(shown(record, _status(record, folder)))
        return 0
    with Live(console=console, auto_refresh=False) as live:
        while True:
            status = _status(record, folder)
            live.update(shown(record, status), refresh=True)
            if status != "running":
                return 0
            time.sleep(EVERY)
            record, path = _again(run, folder, path)


def shown(record: Record, status: str) -> Group:
    """A line on the run, and a table with a row for each worker."""
    rows, config = record.rows, record.header["config"]
    workers = int(config.get("workers", 0))
    last = rows[-1] if rows else {}
    table = Table("worker", box=None, pad_edge=False)
    columns = [column for column in _COLUMNS if any(column[1] in row for row in rows)]
    for head, _, _ in columns:
        table.add_column(head, justify="right")
    for worker in range(workers):
        cells = (say(_total(rows, key, worker)) for _, key, say in columns)
        table.add_row(str(worker), *cells)
    faults = [fault for row in rows for fault in row.get("faults", [])]
    lines: list[RenderableType] = [Text(_line(record, last, status)), table]
    lines += [Text(f"{fault.get('kind')}: {fault.get('reason')}") for fault in faults[-5:]]
    return Group(*lines)


def _line(record: Record, last: Mapping[str, Any], status: str) -> str:
    if not last:
        return f"{record.name}  no row yet  {status}"
    accuracy, loss = last.get("accuracy"), last.get("loss")
    parts = [
        record.name,
        f"step {last.get('steps')}",
        f"training loss {loss:.4f}" if loss is not None else "",
        f"accuracy {accuracy:.1%}" if accuracy is not None else "",
        f"{last.get('seconds', 0.0):.1f} s",
        status,
    ]
    return "  ".join(part for part in parts if part)


def _total(rows: Sequence[Mapping[str, Any]], key: str, worker: int) -> float:
    columns = (row.get(key) or [] for row in rows)
    return sum(float(column[worker]) for column in columns if worker < len(column))


def _status(record: Record, folder: Path) -> str:
    if record.end is not None:
        return "complete" if record.end == "done" else record.end
    return "running" if is_written(folder) else "its process is gone"


def _newest(folder: Path) -> tuple[Record, Path]:
    """The record that was written to last."""
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise ValueError(f"{folder} holds no record yet. Start `subnetwork train` first.")
    return read(paths[-1]), paths[-1]


def _again(run: Path, folder: Path, path: Path) -> tuple[Record, Path]:
    """The record as it is now; a run that was completed has moved from OUT.unfinished to OUT."""
    try:
        return read(path), path
    except FileNotFoundError:
        return _newest(run_folder(run) if not folder.is_dir() else folder)
