"""The page's sentences: its title and first lines, and what is missing or was cut off."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from subnetwork.figures.courses import ORDER, Course
from subnetwork.record import Record
from subnetwork.report import words
from subnetwork.report.claims import Claim
from subnetwork.report.numbers import Result

THEOREMS = ("interpolation", "neighbourhood")


@dataclass(frozen=True)
class Line:
    """A sentence and the records that its numbers came from."""

    text: str
    records: tuple[str, ...]


def title(
    runs: Sequence[Course], training: Sequence[Record], labs: Sequence[Record], folder: Path
) -> str:
    """What ran: "IST and Local SGD on digits"; the theorems' names where nothing was trained."""
    if runs:
        data = sorted({str(r.header["config"]["data"]) for r in training if _has_data(r)})
        on = f" on {words.joined(data)}" if data else ""
        return words.joined([run.label for run in runs]) + on
    if labs:
        return f"The lab: {words.joined([record.name.replace('_', ' ') for record in labs])}"
    return f"Records of {folder.name}"


def _at(result: Result) -> str:
    """Where the last row has no test: after how many steps there was one."""
    return "" if result.tested == result.steps else f" (after {result.tested:g} steps)"


def lead(totals: Sequence[Result], claims: Sequence[Claim]) -> list[Line]:
    """The result in a few sentences: accuracies, payload of the first method, verdicts."""
    found = []
    tested = [result for result in totals if result.accuracy is not None]
    if tested:
        ends = words.joined([f"{r.label} {words.percent(r.accuracy)}{_at(r)}" for r in tested])
        text = f"Test accuracy at the end: {ends}."
        found.append(Line(text, tuple(r.name for r in tested)))
    if totals:
        found.append(_payload(totals[0], {result.name: result for result in totals}))
    if claims:
        count = Counter(words.verdict(claim.verdict).word for claim in claims)
        order = [*words.VERDICTS, *sorted(set(count) - set(words.VERDICTS))]
        parts = [f"{count[word]} {_plural(count[word], word)}" for word in order if count[word]]
        of = "claim" if len(claims) == 1 else "claims"
        text = f"Of {len(claims)} {of}, {words.joined(parts)}{_corrected(claims)}."
        found.append(Line(text, ("claims",)))
    return found


def endings(records: Mapping[str, Record]) -> list[str]:
    """A note on every record that was cut off, ended early, or holds no rows."""
    notes = []
    for name, record in records.items():
        rows = f"{len(record.rows)} row{'' if len(record.rows) == 1 else 's'}"
        if record.end is None:
            notes.append(
                f"Record {name} was cut off after {rows}: its last line is missing, so the run may"
                " have been killed. What it holds is shown."
            )
        elif record.end != "done":
            notes.append(f"Record {name} ended early after {rows}: {record.end}")
        elif not record.rows:
            notes.append(f"Record {name} holds no rows.")
    return notes


def missing(of_kind: Mapping[str, Sequence[Record]]) -> dict[str, list[str]]:
    """By section, one line on what a demo would have recorded and this folder lacks."""
    absent = {
        "training": _absent(of_kind["train"], ORDER),
        "lab": _absent(of_kind["lab"], THEOREMS),
        "claims": _absent(of_kind["claims"], ("claims",)),
        "deal": _absent(of_kind["deal"], ("deal",)),
    }
    return {
        section: [
            f"Missing in this folder: {words.joined(names)}. “subnetwork demo” records it all."
        ]
        if names
        else []
        for section, names in absent.items()
    }


def provenance(records: Mapping[str, Record]) -> list[Line]:
    """Versions and machine; a line for each that differs, with its records."""
    groups: dict[str, list[str]] = {}
    for name, record in records.items():
        versions = ", ".join(f"{k} {v}" for k, v in (record.header.get("versions") or {}).items())
        machine = ", ".join(f"{k} {v}" for k, v in (record.header.get("machine") or {}).items())
        text = f"Versions: {versions or 'not recorded'}. Machine: {machine or 'not recorded'}."
        groups.setdefault(text, []).append(name)
    return [Line(text, tuple(names)) for text, names in groups.items()]


def _has_data(record: Record) -> bool:
    return "data" in record.header["config"]


def _payload(first: Result, by_name: Mapping[str, Result]) -> Line:
    moved = f"{first.label} moved {words.megabytes(first.payload)} MB of payload"
    known = [(by_name[name], r) for name, r in first.ratios.items() if r and name != first.name]
    if not known:
        return Line(f"{moved}.", (first.name,))
    ratios = words.joined([f"{words.times(r)} that of {other.label}" for other, r in known])
    names = (first.name, *(other.name for other, _ in known))
    return Line(f"{moved}, {ratios}, at equal local steps.", names)


def _corrected(claims: Sequence[Claim]) -> str:
    """How many of the claims that fail as printed hold in the form that corrects them."""
    fails = [claim for claim in claims if claim.verdict == "fails"]
    hold = sum(claim.corrected == "holds" for claim in fails)
    fail = _plural(hold, "fails")
    return f"; {hold} that {fail} as printed {_plural(hold, 'holds')} as corrected" if hold else ""


def _plural(n: int, word: str) -> str:
    """The verdict as a verb of its count: "1 holds", "2 hold", "1 is silent"."""
    if word == "silent":
        return "is silent" if n == 1 else "are silent"
    return word.removesuffix("s") if word in words.VERDICTS and n > 1 else word


def _absent(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    there = {record.name for record in records}
    return [name for name in names if name not in there]
