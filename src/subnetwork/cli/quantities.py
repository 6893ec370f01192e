"""Rates, times and sizes as people write them: ``100mbit``, ``20ms``, ``7.5 MB``."""

import math
import re
from collections.abc import Mapping

_BITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)\s*([a-z]+)")


def bits_per_second(text: str) -> float:
    """A rate in bits per second; raises ValueError with the units for anything else.

    >>> bits_per_second("100mbit")
    100000000.0
    """
    return _read(text, _BITS, "a rate", "100mbit")


def seconds(text: str) -> float:
    """A time in seconds; raises ValueError with the units for anything else.

    >>> seconds("20ms")
    0.02
    """
    return _read(text, _SECONDS, "a time", "20ms")


def n_bytes(count: float) -> str:
    """Bytes in three digits with a decimal unit.

    >>> n_bytes(7_448_616), n_bytes(12)
    ('7.45 MB', '12 B')
    """
    return _written(count, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")), "B")


def duration(span: float) -> str:
    """Seconds in three digits with a unit.

    >>> duration(0.0123), duration(75.0)
    ('12.3 ms', '75 s')
    """
    return _written(span * 1e6, ((1e6, "s"), (1e3, "ms")), "us")


def rate(bits: float) -> str:
    """Bits per second as they are asked for; infinity is a link that costs nothing.

    >>> rate(2.5e9), rate(1e5)
    ('2.5gbit', '100kbit')
    """
    if math.isinf(bits):
        return "unthrottled"
    unit = max((u for u, size in _BITS.items() if size <= max(bits, 1.0)), key=_BITS.__getitem__)
    return f"{bits / _BITS[unit]:.3g}{unit}"


def _read(text: str, units: Mapping[str, float], what: str, example: str) -> float:
    found = _NUMBER.fullmatch(text.strip().lower())
    value = float(found[1]) * units.get(found[2], 0.0) if found else 0.0
    if not 0 < value < math.inf:
        raise ValueError(
            f"{text!r} is not {what}. Write a positive number with one of the units "
            f"{', '.join(units)}, such as {example}."
        )
    return value


def _written(value: float, units: tuple[tuple[float, str], ...], smallest: str) -> str:
    size, unit = next((u for u in units if value >= u[0] * 0.9995), (1.0, smallest))
    scaled = value / size
    return f"{scaled:,.0f} {unit}" if scaled >= 1000 else f"{scaled:.3g} {unit}"
