"""A parameter as a table of lines, and who holds which of them, as bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from subnetwork.nets.layout import Layout
from subnetwork.nets.terms import Cat, Dim, Prod

Words: TypeAlias = NDArray[np.uint64]
Table: TypeAlias = tuple[tuple[Dim, ...], tuple[Dim, ...], tuple[int, ...], tuple[str, int] | None]
"""What says who holds the lines of a parameter: those of equal tables have the same holders."""
WORKERS = 64  # bits of a word


@dataclass(frozen=True)
class Grid:
    """A parameter, row-major, as `n_rows` x `n_cols` lines of `length` entries each.

    All entries of a line are held by the same workers, and worker i holds line (u, v) where it
    holds row u and column v. Rows are the dims up to the first one that is cut, columns those up to
    the last one, a line is what follows: of a convolution between two cut axes, one kernel. Where
    nothing is cut, rows are the first dim.
    """

    shape: tuple[int, ...]
    rows: tuple[Dim, ...]
    cols: tuple[Dim, ...]
    unit: tuple[str, int] | None  # depth: the block that the parameter belongs to
    several: tuple[int, ...] = ()  # of the lines of several tensors, side by side: their lengths

    @classmethod
    def of(cls, layout: Layout, name: str, shape: Sequence[int]) -> "Grid":
        """The grid of a named parameter of this shape."""
        dims = layout.dims[name]
        cut = [d for d, dim in enumerate(dims) if dim is not None]
        first, end = (cut[0], cut[-1] + 1) if cut else (0, min(1, len(dims)))
        split = first + 1 if end - first > 1 else first  # one cut dim: the columns, under its rows
        if split == 0:
            split = end
        return cls(tuple(shape), dims[:split], dims[split:end], layout.unit_of.get(name))

    @property
    def table(self) -> Table:
        """Rows and columns, whatever the length of a line."""
        return self.rows, self.cols, self.shape[: len(self.rows) + len(self.cols)], self.unit

    def with_lengths(self, lengths: Sequence[int]) -> "Grid":
        """The same table of lines that are those of several tensors, side by side."""
        return replace(self, shape=(*self.table[2], sum(lengths)), several=tuple(lengths))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Entries of a line, tensor by tensor."""
        return self.several or (self.length,)

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return prod(self.shape[: len(self.rows)])

    @property
    def n_cols(self) -> int:
        """Columns of the table."""
        return prod(self.shape[len(self.rows) : len(self.rows) + len(self.cols)])

    @property
    def length(self) -> int:
        """Entries of a line."""
        return prod(self.shape[len(self.rows) + len(self.cols) :])

    @property
    def n_lines(self) -> int:
        """Lines of the table."""
        return self.n_rows * self.n_cols

    def words(self, axes: Mapping[str, Words], whole: int) -> tuple[Words, Words]:
        """The words of every row and column, from those of the units of every axis.

        Args:
            axes: axis -> words, of shape (..., units). A bit that is set in the words of all the
                units that an entry belongs to is set in the word of the entry.
            whole: the word of what is never cut.
        """
        leading = next(iter(axes.values())).shape[:-1]
        one = np.full((*leading, 1), whole, dtype=np.uint64)
        n_rows = len(self.rows)
        rows = _crossed(self.rows, self.shape[:n_rows], axes, one)
        cols = _crossed(self.cols, self.shape[n_rows:], axes, one)
        if self.unit is not None:
            axis, number = self.unit
            rows = rows & axes[axis][..., number, None]
        return rows, cols


def _crossed(
    dims: Sequence[Dim], sizes: Sequence[int], axes: Mapping[str, Words], one: Words
) -> Words:
    """The words of the places of several dims, row-major."""
    each = [
        _of_dim(size if dim is None else dim, axes, one)
        for dim, size in zip(dims, sizes, strict=False)
    ]
    return reduce(_product, each, one)


def _of_dim(term: Dim, axes: Mapping[str, Words], one: Words) -> Words:
    if isinstance(term, str):
        return axes[term]
    if isinstance(term, Prod):
        return reduce(_product, [_of_dim(t, axes, one) for t in term.factors])
    if isinstance(term, Cat):
        return np.concatenate([_of_dim(t, axes, one) for t in term.parts], axis=-1)
    assert term is not None
    return np.repeat(one, term, axis=-1)


def _product(outer: Words, inner: Words) -> Words:
    both = outer[..., :, None] & inner[..., None, :]
    return both.reshape(*both.shape[:-2], -1)
