"""The table of claims, as the records hold it."""

from collections.abc import Iterable
from dataclasses import dataclass

from subnetwork.record import Record


@dataclass(frozen=True)
class Claim:
    """A row of the table; `record` names where its numbers came from.

    `correction` says what holds instead of the printed claim, and `corrected` is the verdict on
    that; both are empty where the print stands.
    """

    claim: str
    equation: str
    claimed: object
    measured: object
    unit: str
    verdict: str
    record: str
    correction: str
    corrected: str


def claims(records: Iterable[Record]) -> list[Claim]:
    """All claims, in the order in which they were written."""
    return [
        Claim(
            claim=str(row.get("claim", "")),
            equation=row.get("equation") or "",
            claimed=row.get("claimed"),
            measured=row.get("measured"),
            unit=row.get("unit") or "",
            verdict=str(row.get("verdict", "no verdict")),
            record=row.get("record") or record.name,
            correction=row.get("correction") or "",
            corrected=row.get("corrected") or "",
        )
        for record in records
        for row in record.rows
    ]
