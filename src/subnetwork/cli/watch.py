"""`subnetwork watch`: a run's workers as a live table, read from its record as it grows."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import is_written, run_folder, unfinished
from subnetwork.record import Record, believing, read

EVERY = 0.5  # seconds between two looks at the record
PATIENCE = 3.0  # seconds in which a run that has ended moves to its place
WIDE = 160  # columns where the output is no terminal
RECENT = 20  # rows that a rate is taken over
Rows: TypeAlias = Sequence[Mapping[str, Any]]


def watch(run: Path = Path("runs/train")) -> int:
    """Show a run's progress and its workers; end when the run ends.

    A run that is starting is waited for. Where the output is no terminal, one table is printed.

    Parameters
    ----------
    run:
        The run's folder: the one that is being written, else the complete one.
    """
    folder = unfinished(run) if unfinished(run).is_dir() else run_folder(run)
    console, took = Output(), 0.0
    if not console.is_terminal:
        if _is_starting(folder):
            say(console, f"The run in {run} is starting; ask again in a moment.")
            return 0
        console.width, (record, _) = WIDE, _newest(folder)
        with believing(folder):
            console.print(shown(record, _status(record, folder)))
        return 0
    with Live(console=console, auto_refresh=False) as live:
        while _is_starting(folder):
            live.update(Text("starting"), refresh=True)
            time.sleep(EVERY)
        record, path = _newest(_now(run, folder))
        while True:
            status = _status(record, folder)
            with believing(folder):
                live.update(shown(record, status), refresh=True)
            if status != "running":
                return 0
            time.sleep(max(EVERY, 5 * took))  # a long record is not read all the time
            began = time.monotonic()
            record, path = _again(run, folder, path)
            took = time.monotonic() - began


def shown(record: Record, status: str) -> Group:
    """A line on the run, and a table with a row for each worker."""
    rows = record.rows
    workers = max((len(row.get("bytes_down") or ()) for row in rows[-1:]), default=0)
    table = Table("worker", box=None, pad_edge=False, collapse_padding=True)
    columns = [column for column in _COLUMNS if any(column[1] in row for row in rows[-1:])]
    for head, _, _ in columns:
        table.add_column(head, justify="right")
    for worker in range(workers):
        table.add_row(str(worker), *(cell(rows, worker) for _, _, cell in columns))
    faults = [fault for row in rows for fault in row.get("faults", [])]
    lines: list[RenderableType] = [Text(_line(record, status)), table]
    lines += [Text(_told(fault)) for fault in faults[-5:]]
    return Group(*lines)


def _line(record: Record, status: str) -> str:
    if not record.rows:
        return f"{record.name}  no row yet  {status}"
    last = record.rows[-1]
    loss, tested = last.get("loss"), [row for row in record.rows if row.get("accuracy") is not None]
    parts = [
        record.name,
        f"round {last.get('k', 0) + 1}{_of_rounds(record.header['config'])}",
        f"step {last.get('steps')}",
        f"training loss {loss:.4f}" if loss is not None else "",
        _accuracy(tested[-1], last) if tested else "",
        f"{last.get('seconds') or 0.0:.1f} s",
        status,
    ]
    return "  ".join(part for part in parts if part)


def _accuracy(tested: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Of the last row that was tested; it says which, if others came after it."""
    at = "" if tested is last else f" (step {tested.get('steps')})"
    return f"accuracy {tested['accuracy']:.1%}{at}"


def _of_rounds(config: Mapping[str, Any]) -> str:
    """How many rounds there are to be; of methods that merge after each step, how many rows."""
    tau, steps, rounds = config.get("local_steps"), config.get("steps"), config.get("rounds")
    if not tau or not rounds or config.get("method") == "synchronous_sgd":
        return ""
    return f" of {math.ceil(steps / tau) if steps else rounds}"


def _told(fault: Mapping[str, Any]) -> str:
    who = f"worker {fault['worker']}: " if "worker" in fault else ""
    reason = f" ({fault['reason']})" if fault.get("reason") else ""
    return f"round {fault.get('round', fault.get('k'))}: {who}{fault.get('kind')}{reason}"


def _of(row: Mapping[str, Any], key: str, worker: int) -> float:
    """A worker's entry of a row; zero where it has none, as before another one joined."""
    column = row.get(key) or []
    return float(column[worker]) if worker < len(column) else 0.0


def _sum(rows: Rows, key: str, worker: int) -> float:
    return sum(_of(row, key, worker) for row in rows)


def _rate(rows: Rows, worker: int) -> str:
    """Local steps of a worker a second, lately, and since there are as many workers as now."""
    recent = rows[-RECENT - 1 :]
    counts = [len(row.get("worker_steps") or ()) for row in recent]
    others = [i for i, n in enumerate(counts) if n != counts[-1]]
    recent = recent[others[-1] :] if others else recent
    before = recent[0].get("seconds") or 0.0 if len(rows) > 1 else 0.0
    taken = recent[1:] if len(rows) > 1 else recent
    passed = (rows[-1].get("seconds") or 0.0) - before
    return f"{_sum(taken, 'worker_steps', worker) / passed:,.0f}" if passed > 0 else "-"


def _faults(rows: Rows, worker: int) -> str:
    """How often something went wrong with the worker; the last ones are told below the table."""
    faults = [fault for row in rows for fault in row.get("faults", [])]
    own = [fault for fault in faults if fault.get("worker") == worker]
    return str(sum(fault.get("kind") not in ("joined", "waiting") for fault in own))


def _megabytes(*keys: str) -> Callable[[Rows, int], str]:
    return lambda rows, worker: f"{sum(_sum(rows, key, worker) for key in keys) / 1e6:.2f}"


def _seconds(key: str) -> Callable[[Rows, int], str]:
    return lambda rows, worker: f"{_sum(rows, key, worker):.1f}"


def _peak(rows: Rows, worker: int) -> str:
    peak = _of(rows[-1], "peak_bytes", worker)
    return f"{peak / 1e6:.0f}" if peak else "-"


_COLUMNS: tuple[tuple[str, str, Callable[[Rows, int], str]], ...] = (
    ("steps/s", "worker_steps", _rate),
    ("MB\ndown", "bytes_down", _megabytes("bytes_down")),
    ("MB\nup", "bytes_up", _megabytes("bytes_up")),
    ("MB\nwire", "wire_down", _megabytes("wire_down", "wire_up")),
    ("s\ncompute", "compute_seconds", _seconds("compute_seconds")),
    ("s\nexchange", "exchange_seconds", _seconds("exchange_seconds")),
    ("s\nwait", "wait_seconds", _seconds("wait_seconds")),
    ("MB\nmemory", "peak_bytes", _peak),
    ("faults", "faults", _faults),
)


def _status(record: Record, folder: Path) -> str:
    if record.end is not None:
        return "complete" if record.end == "done" else record.end
    return "running" if is_written(folder) else "its process is gone"


def _is_starting(folder: Path) -> bool:
    """Whether a process writes the run there that has not begun its record."""
    return is_written(folder) and not any(folder.glob("*.jsonl"))


def _now(run: Path, folder: Path) -> Path:
    """The run's folder, which may have moved from OUT.unfinished to OUT."""
    return folder if folder.is_dir() else run_folder(run)


def _newest(folder: Path) -> tuple[Record, Path]:
    """The record that was written to last."""
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise ValueError(f"{folder} holds no record yet. Start `subnetwork train` first.")
    return read(paths[-1]), paths[-1]


def _again(run: Path, folder: Path, path: Path) -> tuple[Record, Path]:
    """The record as it is now; a run that was completed has moved from OUT.unfinished to OUT."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return read(path), path
        except FileNotFoundError:
            pass
        try:
            return _newest(_now(run, folder))
        except (FileNotFoundError, ValueError):
            if time.monotonic() > until:
                raise
        time.sleep(0.05)  # between the places
