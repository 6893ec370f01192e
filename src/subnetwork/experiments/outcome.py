"""A claim and what was measured of it, side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from subnetwork.record import writing

Verdict: TypeAlias = Literal["holds", "fails", "silent"]


@dataclass(frozen=True)
class Outcome:
    """One row of the table of claims.

    Attributes:
        claim: the statement in a sentence; says how `measured` and `claimed` should compare.
        equation: its number, such as "(24)".
        measured: what was found.
        claimed: what the statement says; None where it is silent.
        verdict: of the claim as printed. "silent": its assumptions do not hold here, so it says
            neither that the method converges nor that it diverges.
        unit: of both numbers; empty for none.
        record: name of the record that the numbers came from, or None.
        correction: what holds instead, or what the reader has to know; None where the print stands.
        corrected: the verdict of that correction.
    """

    claim: str
    equation: str
    measured: float
    claimed: float | None
    verdict: Verdict
    unit: str = ""
    record: str | None = None
    correction: str | None = None
    corrected: Verdict | None = None

    @property
    def stands(self) -> bool:
        """Whether the statement holds, in its corrected form where it has one."""
        return (self.corrected or self.verdict) == "holds"

    def with_correction(self, correction: str, corrected: bool) -> "Outcome":
        """The same row with what holds instead of the print."""
        return replace(self, correction=correction, corrected=verdict(corrected))


def verdict(holds: bool) -> Verdict:
    """The verdict of a statement that does speak."""
    return "holds" if holds else "fails"


def equal(
    claim: str, equation: str, measured: float, claimed: float, *, tolerance: float = 1e-10
) -> Outcome:
    """The claim that two numbers are equal, to `tolerance` times the larger of |claimed| and 1."""
    close = abs(measured - claimed) <= tolerance * max(abs(claimed), 1.0)
    return Outcome(claim, equation, measured, claimed, verdict(close))


def at_most(claim: str, equation: str, measured: float, claimed: float) -> Outcome:
    """The claim that one number is at most another one, up to rounding."""
    below = measured <= claimed + 1e-12 * max(abs(claimed), 1.0)
    return Outcome(claim, equation, measured, claimed, verdict(below))


def write_claims(folder: Path, outcomes: Sequence[Outcome], *, seed: int) -> Path:
    """Write claims.jsonl in `folder`, one row an outcome; returns its path."""
    path = folder / "claims.jsonl"
    with writing(path, kind="claims", name="claims", config={"seed": seed}) as write:
        for outcome in outcomes:
            write(asdict(outcome))
    return path
