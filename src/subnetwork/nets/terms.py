"""How the entries of one dim are made up of units, as plain data that can be written by hand.

A term is the name of an axis, a whole number of entries that stay together, a product (row-major,
as `view` splits a dim) or a concatenation. The output dim of a fused query-key-value projection of
4 heads of 6 is ``Cat((Prod(("heads", 6)),) * 3)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prod:
    """Index = outer index * size of the inner factors + inner index."""

    factors: tuple["Term", ...]


@dataclass(frozen=True)
class Cat:
    """One part after the other."""

    parts: tuple["Term", ...]


Term: TypeAlias = str | int | Prod | Cat
Dim: TypeAlias = Term | None
"""The term of a dim; None is a dim that is never cut, whatever its size."""


def extent(term: Term, sizes: Mapping[str, int]) -> int:
    """Entries along a dim when each axis has `sizes[axis]` units.

    >>> extent(Cat((Prod(("heads", 6)),) * 3), {"heads": 2})
    36
    """
    if isinstance(term, str):
        return sizes[term]
    if isinstance(term, int):
        return term
    if isinstance(term, Prod):
        return prod(extent(factor, sizes) for factor in term.factors)
    return sum(extent(part, sizes) for part in term.parts)


def places(term: Term, units: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """The indices along a dim that belong to the given units, in the order of the term.

    Args:
        term: how the dim is made up.
        units: axis -> the units that are kept.
        sizes: axis -> all its units.

    >>> places(Prod(("heads", 3)), {"heads": torch.tensor([0, 2])}, {"heads": 4}).tolist()
    [0, 1, 2, 6, 7, 8]
    """
    if isinstance(term, str):
        return units[term]
    if isinstance(term, int):
        return torch.arange(term)
    if isinstance(term, Prod):
        index = torch.zeros(1, dtype=torch.int64)
        for factor in term.factors:
            inner = places(factor, units, sizes)
            index = (index[:, None] * extent(factor, sizes) + inner).reshape(-1)
        return index
    pieces, offset = [], 0
    for part in term.parts:
        pieces.append(places(part, units, sizes) + offset)
        offset += extent(part, sizes)
    return torch.cat(pieces)


def outermost(term: Term, count: int, sizes: Mapping[str, int]) -> Term | None:
    """The factors that make up the outer `count` of a dim; None where they do not come apart.

    >>> outermost(Prod(("groups", 6)), 4, {"groups": 4})
    'groups'
    """
    factors = term.factors if isinstance(term, Prod) else (term,)
    taken: list[Term] = []
    left = count
    for factor in factors:
        n = extent(factor, sizes)
        if left == 1:
            break
        if left % n and not (isinstance(factor, int) and factor % left == 0):
            return None
        taken.append(factor if left % n == 0 else left)
        left = left // n if left % n == 0 else 1
    if left > 1:
        return None
    return taken[0] if len(taken) == 1 else Prod(tuple(taken))


def axes_of(term: Dim) -> frozenset[str]:
    """The axes that a dim is cut along."""
    if isinstance(term, str):
        return frozenset({term})
    if isinstance(term, Prod | Cat):
        below = term.factors if isinstance(term, Prod) else term.parts
        return frozenset().union(*(axes_of(t) for t in below))
    return frozenset()


def apart(term: Dim, disjoint: frozenset[str]) -> bool:
    """Whether workers whose units of these axes are disjoint hold disjoint entries of the dim.

    >>> apart(Prod(("heads", 6)), frozenset({"heads"})), apart(Cat(("h", 4)), frozenset({"h"}))
    (True, False)
    """
    if isinstance(term, Prod):
        return any(apart(factor, disjoint) for factor in term.factors)
    if isinstance(term, Cat):
        return all(apart(part, disjoint) for part in term.parts)
    return term in disjoint


def simplified(term: Term) -> Dim:
    """The shortest way to write a term; None where no axis is left in it.

    >>> simplified(Prod((Prod(("heads", 2)), 3))), simplified(Cat((4, 4)))
    (Prod(factors=('heads', 6)), None)
    """
    if not axes_of(term):
        return None
    return _shortened(term)


def _shortened(term: Term) -> Term:
    if isinstance(term, Prod):
        factors = _flat(term.factors, Prod)
        return factors[0] if len(factors) == 1 else Prod(factors)
    if isinstance(term, Cat):
        parts = _flat(term.parts, Cat)
        return parts[0] if len(parts) == 1 else Cat(parts)
    return term


def _flat(terms: tuple[Term, ...], kind: type[Prod] | type[Cat]) -> tuple[Term, ...]:
    """Nested terms of one kind as one, neighbouring numbers as one number, units left out."""
    flat: list[Term] = []
    neutral = 1 if kind is Prod else 0
    for term in map(_shortened, terms):
        below = _below(term) if isinstance(term, kind) else (term,)
        for t in below:
            last = flat[-1] if flat else None
            if isinstance(t, int) and isinstance(last, int):
                flat[-1] = last * t if kind is Prod else last + t
            else:
                flat.append(t)
    kept = tuple(t for t in flat if t != neutral)
    return kept or (neutral,)


def _below(term: Prod | Cat) -> tuple[Term, ...]:
    return term.factors if isinstance(term, Prod) else term.parts


def to_data(dim: Dim) -> object:
    """A dim as JSON data: null, a name, a number, {"prod": [...]} or {"cat": [...]}."""
    if isinstance(dim, Prod):
        return {"prod": [to_data(t) for t in dim.factors]}
    if isinstance(dim, Cat):
        return {"cat": [to_data(t) for t in dim.parts]}
    return dim


def from_data(data: object) -> Dim:
    """The dim that `to_data` wrote; raises ValueError for anything else."""
    if data is None or (isinstance(data, str | int) and not isinstance(data, bool)):
        return data
    if isinstance(data, dict) and len(data) == 1 and isinstance(next(iter(data.values())), list):
        ((kind, below),) = data.items()
        terms = tuple(_term(from_data(t)) for t in below)
        if kind == "prod":
            return Prod(terms)
        if kind == "cat":
            return Cat(terms)
    raise ValueError(
        f"A dim of a layout cannot be read from {data!r}: it is none of the five kinds. "
        'Write null, "axis", a number, {"prod": [...]} or {"cat": [...]}.'
    )


def _term(dim: Dim) -> Term:
    if dim is None:
        raise ValueError(
            "A product or concatenation in a layout holds null, which has no size. "
            "Write the number of entries instead."
        )
    return dim


def written(dim: Dim) -> str:
    """A dim in one short expression, for reports.

    >>> written(Cat((Prod(("h", 6)), 4)))
    'h*6 + 4'
    """
    if isinstance(dim, Prod):
        return "*".join(
            f"({written(t)})" if isinstance(t, Cat) else written(t) for t in dim.factors
        )
    if isinstance(dim, Cat):
        return " + ".join(written(t) for t in dim.parts)
    return "whole" if dim is None else str(dim)
