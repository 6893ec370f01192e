"""A multilayer perceptron as anyone would write it."""

from itertools import pairwise

from torch import nn


def between(width: int, norm: str) -> list[nn.Module]:
    """What stands between two layers of this width: a normalisation, or nothing.

    Batch normalisation treats every unit by itself, so that a part of the network is the network
    at masked parameters. Layer normalisation does not: its units meet in a mean.
    """
    known = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    if norm not in (*known, "none"):
        raise ValueError(f"There is no norm {norm!r}. Known are: batch, layer, none.")
    return [known[norm](width)] if norm in known else []


def mlp(
    inputs: int, hidden: tuple[int, ...], outputs: int, norm: str = "batch", dropout: float = 0.0
) -> nn.Sequential:
    """Linear, norm, ReLU, dropout, ..., linear."""
    layers: list[nn.Module] = []
    for below, above in pairwise((inputs, *hidden)):
        layers += [nn.Linear(below, above), *between(above, norm), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear((inputs, *hidden)[-1], outputs))
