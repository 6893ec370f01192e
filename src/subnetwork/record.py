"""Records: one JSON line a round under a header, one file a run; what figures and reports read.

A record is a text file. Its first line is the header (`schema`, `kind`, `name`, `config`, seeds,
versions, machine), then comes one line a round, and the last line is ``{"end": "done"}`` or says
why the run ended early. A record without that last line was cut off while it was written.
"""

import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

SCHEMA = 1
Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """A record as it was read: `header`, one row a round, and how the run ended."""

    header: Row
    rows: tuple[Row, ...]
    end: str | None  # "done", a reason, or None where the file was cut off
    path: Path

    @property
    def name(self) -> str:
        """What ran: the method's or the claim's name."""
        return str(self.header["name"])

    def column(self, key: str) -> list[Any]:
        """One entry of every row, in order; None where a row has no such entry."""
        return [row.get(key) for row in self.rows]


@contextmanager
def writing(path: Path, *, kind: str, name: str, config: Row) -> Iterator[Callable[[Row], None]]:
    """Open a record and yield the function that adds a row.

    Every line is flushed as it is written. Leaving the block ends the record: with "done", or, when
    an exception passes through, with its message.
    """
    header = {
        "schema": SCHEMA,
        "kind": kind,
        "name": name,
        "config": config,
        "versions": versions(),
        "machine": machine(),
    }
    with path.open("w", encoding="utf-8") as file:

        def write(row: Row) -> None:
            file.write(_line(row))
            file.flush()

        write(header)
        try:
            yield write
        except BaseException as reason:
            write({"end": str(reason) or type(reason).__name__})
            raise
        write({"end": "done"})


def read(path: Path) -> Record:
    """Read one record; raises ValueError with the file and line where it is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text: this is not a record. Move it away.") from None
    lines = text[: text.rfind("\n") + 1].splitlines()  # a line cut off as it was written is no row
    rows = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
    if not rows or rows[0].get("schema") != SCHEMA:
        raise ValueError(
            f"{path} is not a record of schema {SCHEMA}. Records are written by `subnetwork demo`, "
            "`train` and `lab run`; run one of them again."
        )
    missing = [key for key in ("kind", "name", "config") if key not in rows[0]]
    if missing:
        raise ValueError(f"{path}, line 1 lacks {missing}: the record is damaged. Run again.")
    header, body = rows[0], rows[1:]
    end = body.pop()["end"] if body and "end" in body[-1] else None
    return Record(header, tuple(body), end, path)


def read_folder(folder: Path) -> dict[str, Record]:
    """All records of a run's folder by name; raises ValueError where there are none."""
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise ValueError(
            f"{folder} holds no records (*.jsonl). Name a folder that `subnetwork demo`, `train` "
            "or `lab run` wrote, for example runs/demo."
        )
    return {record.name: record for record in map(read, paths)}


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("subnetwork", "numpy", "numba", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """The kind of machine, without its name."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cpus": os.cpu_count() or 1,
        "byteorder": sys.byteorder,
    }


def _line(row: Row) -> str:
    finite = {key: _finite(value) for key, value in row.items()}
    return json.dumps(finite, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """JSON has no NaN and no infinity: they are written as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _parse(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {number} is not JSON ({error.msg}): the record is damaged. Delete the "
            "file and run again."
        ) from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number} is not a JSON object: this is not a record.")
    return row
