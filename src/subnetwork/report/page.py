"""The page: read a folder's records, draw, fill the template, and put it in place at once."""

import os
import shlex
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from subnetwork.figures import style
from subnetwork.figures.courses import courses
from subnetwork.record import Record, believing, read_folder
from subnetwork.report import lines, sections, words
from subnetwork.report.claims import claims
from subnetwork.report.numbers import results, spent

KINDS = ("train", "lab", "claims", "deal")


def render(folder: Path, *, called: Path | None = None, found: bool = False) -> str:
    """The page of a folder of records: one HTML text that needs nothing beside itself.

    The same records give the same text. A record that is missing or was cut off is named on it.

    Args:
        folder: holds the records (`*.jsonl`), as `subnetwork demo` writes them.
        called: the folder's name on the page, where the folder will be moved there later.
        found: whether the records were found there and may be damaged; else what fails at one that
            was just written is a defect.

    Raises:
        ValueError: the folder holds no records, or a file in it is not one.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    records = read_folder(folder)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    template = environment.get_template("page.html.jinja")
    with believing(folder) if found else nullcontext():
        return template.render(**_content(records, called or folder)).lstrip()


def write(
    folder: Path, path: Path | None = None, *, called: Path | None = None, found: bool = False
) -> Path:
    """Render a folder's page into a file, and return the file's path.

    The file is replaced in one move when the page is complete: a failure leaves the old one as it
    was.

    Args:
        folder: holds the records.
        path: where the page goes; `folder/report.html` unless it is given.
        called: the folder's name on the page, where the folder will be moved there later.
        found: as for `render`.

    Raises:
        ValueError: the folder holds no records, or the page cannot be written there.
    """
    path = folder / "report.html" if path is None else path
    page = render(folder, called=called, found=found)
    try:
        _replace(path, page)
    except OSError as reason:
        raise ValueError(
            f"the report cannot be written to {path}: {reason.strerror}. Name a file in a folder "
            "that exists and that can be written to with --out."
        ) from None
    return path


def _content(records: Mapping[str, Record], folder: Path) -> dict[str, Any]:
    """Everything that the template names."""
    of_kind = {kind: [r for r in records.values() if r.header["kind"] == kind] for kind in KINDS}
    runs = courses(of_kind["train"])
    totals = results(runs)
    stated = claims(of_kind["claims"])
    color_names = {paper: name for name, (paper, _) in style.COLORS.items()}
    return {
        "title": lines.title(runs, of_kind["train"], of_kind["lab"], folder),
        "lead": lines.lead(totals, stated),
        "settings": sections.settings(of_kind["train"]),
        "notes": lines.endings(records),
        "missing": lines.missing(of_kind),
        "accuracy": sections.accuracy(runs),
        "results": totals,
        "spent": spent([records[run.name] for run in runs]),
        "labels": {run.name: run.label for run in runs},
        "dots": {run.name: color_names[run.color] for run in runs},
        "theorems": sections.theorems(of_kind["lab"]),
        "claims": stated,
        "cut": sections.cut(next(iter(of_kind["deal"]), None)),
        "provenance": lines.provenance(records),
        "command": f"subnetwork report {shlex.quote(str(folder))}",
        "folder": str(folder),
        "records": records,
        "kinds": KINDS,
        "colors": style.COLORS,
    }


def _replace(path: Path, text: str) -> None:
    """Write beside the file and move over it, with the rights that a new file gets."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode(errors="backslashreplace"))  # a folder's name need not be text
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:  # Ctrl-C too; it goes on up
        with suppress(OSError):
            Path(name).unlink()
        raise
