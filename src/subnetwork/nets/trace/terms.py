"""Terms with holes: what is known so far about the dims of the tensors of one forward pass.

The same algebra as `subnetwork.nets.terms`, over atoms that are split and identified while the
pass runs. An atom is the one thing here that changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias


@dataclass(eq=False)
class Atom:
    """Units that nothing has split so far. Two atoms are equal only when they are the same one."""

    size: int
    frozen: str | None = None  # why it stays whole
    flags: set[str] = field(default_factory=set)  # why cutting it would not be exact
    roles: set[str] = field(default_factory=set)  # what it is used as: heads, groups
    bound: "Term | None" = None  # what it turned out to be


@dataclass(frozen=True, eq=False)
class Prod:
    """Row-major product, from views."""

    factors: "tuple[Term, ...]"


@dataclass(frozen=True, eq=False)
class Cat:
    """Concatenation, from cat, split and slices."""

    parts: "tuple[Term, ...]"


Term: TypeAlias = Atom | Prod | Cat
Dims: TypeAlias = list[Term]  # one term a dim of a tensor

ONE = Prod(())  # the term of a dim of size 1


def size(term: Term) -> int:
    """Entries along a dim."""
    if isinstance(term, Atom):
        return term.size
    if isinstance(term, Prod):
        return prod(size(factor) for factor in term.factors)
    return sum(size(part) for part in term.parts)


def resolved(term: Term) -> Term:
    """The term with all that is known put in: bindings followed, nesting and units removed."""
    while isinstance(term, Atom) and term.bound is not None:
        term = term.bound
    if isinstance(term, Atom):
        return ONE if term.size == 1 else term
    if isinstance(term, Prod):
        factors = [t for factor in term.factors for t in _below(resolved(factor), Prod)]
        factors = [t for t in factors if size(t) != 1]
        return factors[0] if len(factors) == 1 else Prod(tuple(factors))
    parts = [t for part in term.parts for t in _below(resolved(part), Cat)]
    parts = [t for t in parts if size(t) != 0]
    return parts[0] if len(parts) == 1 else Cat(tuple(parts))


def _below(term: Term, kind: type[Prod] | type[Cat]) -> tuple[Term, ...]:
    if isinstance(term, Prod) and kind is Prod:
        return term.factors
    if isinstance(term, Cat) and kind is Cat:
        return term.parts
    return (term,)


def atoms(term: Term) -> list[Atom]:
    """The atoms of a term, in order, with repetitions."""
    term = resolved(term)
    if isinstance(term, Atom):
        return [term]
    return [a for t in (term.factors if isinstance(term, Prod) else term.parts) for a in atoms(t)]


def freeze(term: Term, why: str) -> None:
    """Keep these units whole for good; the first reason given is the one that is told."""
    for atom in atoms(term):
        atom.frozen = atom.frozen or why


def flag(term: Term, why: str) -> None:
    """Say that a network with fewer of these units is not f(C x)."""
    for atom in atoms(term):
        atom.flags.add(why)


def role(term: Term, name: str) -> None:
    """Remember what the units are used as, for the axis's name."""
    for atom in atoms(term):
        atom.roles.add(name)


def fresh(shape: Sequence[int], why: str | None = None) -> Dims:
    """New units for every dim; frozen from the start where a reason is given."""
    return [ONE if n == 1 else Atom(n, why) for n in shape]
