"""Convex losses of the margin t = y a'x of a sample (a, y), y = -1 or +1."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from subnetwork.shapes import Floats


@dataclass(frozen=True)
class Loss:
    """phi, its first two derivatives, and the largest value that phi'' takes.

    Attributes:
        name: what it is called.
        value: phi(t), entry by entry.
        slope: phi'(t).
        curvature: phi''(t); one of its one-sided values where it jumps.
        largest: sup phi'', so that f_i is smooth with the matrix largest A_i'A_i / m_i.
    """

    name: str
    value: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]
    curvature: Callable[[Floats], Floats]
    largest: float


LOGISTIC = Loss(
    "logistic",
    value=lambda t: np.logaddexp(0.0, -t),
    slope=lambda t: -np.asarray(expit(-t)),
    curvature=lambda t: np.asarray(expit(t) * expit(-t)),
    largest=0.25,
)

SQUARED = Loss(  # (y - a'x)^2 / 2
    "squared",
    value=lambda t: np.asarray((1 - t) ** 2 / 2),
    slope=lambda t: t - 1,
    curvature=np.ones_like,
    largest=1.0,
)

SMOOTHED_HINGE = Loss(  # Rennie & Srebro 2005
    "smoothed_hinge",
    value=lambda t: np.asarray(np.clip(1 - t, 0, 1) ** 2 / 2 - np.minimum(t, 0)),
    slope=lambda t: -np.clip(1 - t, 0, 1),
    curvature=lambda t: np.asarray(((t > 0) & (t < 1)).astype(np.float64)),
    largest=1.0,
)

HUBER = Loss(  # of the residual 1 - t = y (y - a'x), with the corner at 1
    "huber",
    value=lambda t: np.asarray(np.minimum(np.abs(1 - t), 1) * (np.abs(1 - t) + _outside(t)) / 2),
    slope=lambda t: np.clip(t - 1, -1, 1),
    curvature=lambda t: np.asarray((np.abs(1 - t) < 1).astype(np.float64)),
    largest=1.0,
)

LOSSES: Mapping[str, Loss] = {
    loss.name: loss for loss in (LOGISTIC, SQUARED, SMOOTHED_HINGE, HUBER)
}


def loss_named(name: str) -> Loss:
    """The loss of that name; raises ValueError with the known names for any other name."""
    if name not in LOSSES:
        raise ValueError(f"There is no loss {name!r}. Known losses: {', '.join(LOSSES)}.")
    return LOSSES[name]


def _outside(t: Floats) -> Floats:
    """What the residual exceeds the corner by."""
    return np.asarray(np.maximum(np.abs(1 - t) - 1, 0))
