"""How numbers and verdicts are written on the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Any

from subnetwork.figures.courses import number

DASH = "\N{EN DASH}"  # also: no number
_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Verdict:
    """A verdict as it is shown: a sign that needs no colour, the word, and the style's class."""

    sign: str
    word: str
    style: str


VERDICTS = {
    "holds": Verdict("✓", "holds", "holds"),
    "fails": Verdict("✗", "fails", "fails"),
    "silent": Verdict("○", "silent", "silent"),
}


def verdict(word: object) -> Verdict:
    """The verdict of a claim; a word that is none of the three is shown as it is."""
    return VERDICTS.get(str(word), Verdict("?", str(word), "silent"))


def digits(value: object, unit: str = "") -> str:
    """Four significant digits and the unit; a dash where there is no number.

    >>> digits(0.25), digits(12345.6, "bytes"), digits(2.5e-7), digits(None)
    ('0.25', '12,346 bytes', '2.5·10⁻⁷', '–')
    """
    x = number(value)
    if x is None:
        return DASH
    if x == 0 or 1e-3 <= abs(x) < 1e3:
        text = f"{x:.4g}"
    elif 1e3 <= abs(x) < 1e6:
        text = f"{x:,.0f}"
    else:
        text = _power(x)
    return f"{text} {unit}".rstrip().replace("-", _MINUS, int(x < 0))


def percent(share: float | None) -> str:
    r"""A share in [0, 1] as percent with one decimal.

    >>> percent(0.9642), percent(None)
    ('96.4\xa0%', '–')
    """
    return DASH if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def megabytes(count: float) -> str:
    """Bytes as megabytes (10⁶ bytes), three significant digits.

    >>> megabytes(1_234_567), megabytes(2_500_000_000), megabytes(0)
    ('1.23', '2,500', '0')
    """
    size = count / 1e6
    return f"{size:,.0f}" if size >= 1000 else f"{size:.3g}"


def times(ratio: float | None) -> str:
    """A ratio to a reference.

    >>> times(0.25), times(None)
    ('0.25×', '–')
    """
    if ratio is None:
        return DASH
    return f"{ratio:,.0f}{_TIMES}" if ratio >= 1000 else f"{ratio:.3g}{_TIMES}"


def count(value: float) -> str:
    """A whole number with its thousands apart.

    >>> count(20480.0)
    '20,480'
    """
    return f"{value:,.0f}"


def equal(symbol: str, value: object) -> str:
    r"""A symbol and its value, on one line.

    >>> equal("K", 2000)
    'K\xa0=\xa02,000'
    """
    return f"{symbol} = {digits(value)}".replace(" ", "\N{NO-BREAK SPACE}")


def joined(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    >>> joined(["IST", "DiLoCo", "Local SGD"])
    'IST, DiLoCo and Local SGD'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _power(x: float) -> str:
    exponent = floor(log10(abs(x)))
    factor = f"{x / 10**exponent:.4g}"
    return f"{factor}·10{str(exponent).translate(_SUPERSCRIPT)}"


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "megabytes": megabytes,
    "times": times,
    "digits": digits,
    "count": count,
    "joined": joined,
    "verdict": verdict,
}
