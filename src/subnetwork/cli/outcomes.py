"""Claims as a table on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from subnetwork.experiments.outcome import Outcome

STYLES = {"holds": "green", "fails": "red", "silent": "dim"}


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """One row a claim, and below it what holds instead where the print had to be corrected."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column, numeric in (
        ("eq.", False),
        ("claim", False),
        ("claimed", True),
        ("measured", True),
    ):
        table.add_column(column, justify="right" if numeric else "left")
    table.add_column("verdict")
    for o in outcomes:
        table.add_row(
            Text(o.equation), Text(o.claim), _number(o.claimed), _number(o.measured), _verdict(o)
        )
        if o.correction:
            corrected = Text(o.corrected or "", style=STYLES.get(o.corrected or "", ""))
            table.add_row("", Text(f"instead: {o.correction}", style="dim"), "", "", corrected)
    console.print(table)


def _verdict(outcome: Outcome) -> Text:
    as_printed = " as printed" if outcome.correction else ""
    return Text(outcome.verdict + as_printed, style=STYLES[outcome.verdict])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
