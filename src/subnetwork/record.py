"""Records: one JSON line a round under a header, one file a run; what figures and reports read.

A record is a text file. Its first line is the header (`schema`, `kind`, `name`, `config`, seeds,
versions, machine), then comes one line a round, and the last line is ``{"end": "done"}`` or says
why the run ended early. A record without that last line is still being written, or its writer died.
"""

import errno
import io
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

SCHEMA = 1
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
def writing(  # noqa: PLR0913 (each has a name)
    path: Path,
    *,
    kind: str,
    name: str,
    config: Row,
    more: Row | None = None,
    rows: Sequence[Row] = (),
    late: Callable[[], Sequence[Row] | None] = list,
    waits: bool = False,
) -> Iterator[Callable[[Row], None]]:
    """Open a record and yield the function that adds a row.

    An earlier record is there until the new one has its header and the rows that it goes on from;
    it takes its leave as a whole. Every line is in the file when `write` returns; where the disk is
    full it waits in memory and is written with the next one. Leaving the block ends the record:
    with "done", or, when an exception passes through, with its message.

    Args:
        path: the file.
        kind: what kind of record: "train", "lab", ...
        name: what ran.
        config: how it ran.
        more: further entries of the header.
        rows: rows of a run that goes on.
        late: asked when the block was left for faults that no row has: the last line has them. With
            None there is no last line where it ended well: the record is gone on with at once.
        waits: whether lines wait for space from the beginning on. The earlier record is there then
            until there was some.

    Raises:
        OSError: the file cannot be written; a full disk only when the record ends, or begins
            without having to wait.
    """
    header = {
        "schema": SCHEMA,
        "kind": kind,
        "name": name,
        "config": config,
        "versions": versions(),
        "machine": machine(),
        **(more or {}),
    }
    with closing(_Lines(path)) as lines:
        lines.add(header, *rows)
        if not waits:
            lines.all_written()
        try:
            yield lines.add
        except BaseException as reason:  # Ctrl-C too; it goes on up, and the record says why
            lines.add(_end(str(reason) or type(reason).__name__, late() or ()))
            raise
        left = late()
        if left is not None:
            lines.add(_end("done", left))
        lines.all_written()


def ended(path: Path, how: str) -> None:
    """Have a record that has no last line say how it ended, where there is space for it."""
    with suppress(OSError), path.open("rb+") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        last = data.rfind(b"\n", 0, max(0, whole - 1)) + 1
        if whole and not data.startswith(b'{"end": ', last):
            file.seek(whole)
            file.truncate()
            file.write(_encoded(_end(how, ())))


def force(path: Path) -> None:
    """Have what is in a record on disk, where there is one, so that no loss of power takes it.

    Raises:
        OSError: it cannot be written there.
    """
    with suppress(FileNotFoundError):
        for one in (path, path.parent):  # its lines and its name
            descriptor = os.open(one, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _end(how: str, late: Sequence[Row]) -> Row:
    return {"end": how, "faults": list(late)} if late else {"end": how}


class _Lines:
    """The lines of a file, whole ones only, whatever interrupts or stops the writing.

    The file takes its place when what was added first is in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.beside = path.with_name(f".{path.name}.new")
        self.file: io.FileIO | None = None  # until there is space for one
        self.placed = False
        self.whole = 0  # bytes of lines that are in the file
        self.waiting: list[bytes] = []
        self.reason = 0  # why they wait: an errno

    def add(self, *rows: Row) -> None:
        """Write what waits, then these rows."""
        self.waiting += map(_encoded, rows)
        data = b"".join(self.waiting)
        try:
            self._write(data)
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            if self.file is not None:
                self.file.truncate(self.whole)
            self.reason = error.errno or errno.ENOSPC
            return
        self.whole += len(data)
        self.waiting.clear()

    def all_written(self) -> None:
        """Raise OSError where lines wait."""
        if self.waiting:
            raise OSError(self.reason, os.strerror(self.reason), str(self.path))

    def close(self) -> None:
        """Write no more; what never came to its place is removed."""
        if self.file is not None:
            self.file.close()
        if not self.placed:
            self.beside.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        if self.file is None:
            self.file = self.beside.open("wb", buffering=0)
        self.file.seek(self.whole)
        self.file.truncate()
        rest = memoryview(data)
        while rest:
            rest = rest[self.file.write(rest) :]
        if not self.placed:
            os.fsync(self.file.fileno())
            self.beside.replace(self.path)
            self.placed = True


def read(path: Path) -> Record:
    """Read one record; raises ValueError with the file and line where it is not one."""
    data = path.read_bytes()
    try:
        text = data[: data.rfind(b"\n") + 1].decode()  # a line cut off as it was written is no row
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text: this is not a record. Move it away.") from None
    lines = text.split("\n")[:-1]
    rows = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
    if not rows or rows[0].get("schema") != SCHEMA:
        raise ValueError(
            f"{path} is not a record of schema {SCHEMA}. Records are written by `subnetwork demo`, "
            "`train` and `lab run`; run one of them again."
        )
    header, body = rows[0], rows[1:]
    end = body.pop()["end"] if body and "end" in body[-1] else None
    _check_form(path, header, body)
    return Record(header, tuple(body), end, path)


@contextmanager
def believing(records: Path) -> Iterator[None]:
    """Read entries as what a record should hold; raises ValueError where one is something else.

    For records that lie in a folder, and may be anybody's: one that this process has just written
    is not damaged, and what fails at it is a defect.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"a record in {records} is damaged: {type(error).__name__} {error}. Run again the "
            "command that wrote it."
        ) from error


def read_folder(folder: Path) -> dict[str, Record]:
    """All records of a run's folder by name; raises ValueError where there are none."""
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise ValueError(
            f"{folder} holds no records (*.jsonl). Name a folder that `subnetwork demo`, `train` "
            "or `lab run` wrote, for example runs/demo."
        )
    return {record.name: record for record in map(read, paths)}


def repeatable(row: Row) -> dict[str, Any]:
    """The row less what a clock or the system measured: the same for the same seed, to the bit.

    Such entries are named ``..seconds`` or ``peak_..``, in a row and in its faults.
    """
    kept = {}
    for key, value in row.items():
        if key.endswith("seconds") or key.startswith("peak_"):
            continue
        items = value if isinstance(value, list) else []
        rows = [repeatable(item) for item in items if isinstance(item, dict)]
        kept[key] = rows or value
    return kept


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


def _encoded(row: Row) -> bytes:
    finite = {key: _finite(value) for key, value in row.items()}
    line = json.dumps(finite, allow_nan=False, ensure_ascii=False) + "\n"
    return line.encode(errors="backslashreplace")  # names of files need not be text


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """JSON has no NaN and no infinity: they are written as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _check_form(path: Path, header: Row, rows: Sequence[Row]) -> None:
    """Raise ValueError where a header or a row of training lacks what every one has."""
    missing = [key for key in ("kind", "name", "config") if key not in header]
    if missing:
        raise ValueError(f"{path}, line 1 lacks {missing}: the record is damaged. Run again.")
    if not isinstance(header["config"], dict):
        raise ValueError(
            f"{path}, line 1 has a {type(header['config']).__name__} as config, not an object: the "
            "record is damaged. Run again."
        )
    numbered = [type(row.get("k")) is int for row in rows]
    if header["kind"] == "train" and not all(numbered):
        raise ValueError(
            f"{path}, line {numbered.index(False) + 2} lacks k, the number of its round: the "
            "record is damaged. Run again."
        )


def _parse(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}, line {number} is not JSON ({str(error).split(':')[0]}): the record is "
            "damaged. Delete the file and run again."
        ) from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number} is not a JSON object: this is not a record.")
    return row
