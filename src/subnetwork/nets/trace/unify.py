"""Splitting, slicing and identifying terms: what an operation says about the dims it touches."""

from collections.abc import Sequence
from math import prod

from subnetwork.nets.trace.terms import (
    ONE,
    Atom,
    Cat,
    Dims,
    Prod,
    Term,
    atoms,
    freeze,
    fresh,
    resolved,
    size,
)

STACK = "the position in a stack"
MISALIGNED = "viewed across the structure"


def unify(a: Term, b: Term) -> None:
    """The two dims hold the same units. Freezes both where their structures cannot be matched."""
    a, b = resolved(a), resolved(b)
    if a is b or size(a) == size(b) == 1:
        return
    assert size(a) == size(b), f"{size(a)} units cannot be {size(b)} units"
    if isinstance(a, Atom):
        _bind(a, b)
    elif isinstance(b, Atom):
        _bind(b, a)
    elif isinstance(a, Prod) and isinstance(b, Prod):
        _unify_products(a, b)
    elif isinstance(a, Cat) and isinstance(b, Cat):
        _unify_sums(a, b)
    elif isinstance(a, Cat):
        _unify_stack(a, b)
    else:
        assert isinstance(b, Cat)
        _unify_stack(b, a)


def split(term: Term, count: int) -> tuple[Term, Term]:
    """A dim of count * m entries as (outer of count, inner of m)."""
    term = resolved(term)
    n = size(term)
    if count == n:
        return term, ONE
    if count == 1:
        return ONE, term
    if n % count:
        return _misaligned(term, count, n // count)
    if isinstance(term, Atom):
        return _split_atom(term, count)
    if isinstance(term, Prod):
        return _split_product(term, count)
    return _split_stack(term, count)


def part(term: Term, start: int, end: int) -> Term:
    """The slice [start, end) of a dim."""
    term = resolved(term)
    n = size(term)
    if (start, end) == (0, n):
        return term
    if isinstance(term, Atom):
        return _part_of_atom(term, start, end)
    if isinstance(term, Cat):
        return _part_of_sum(term, start, end)
    first, *rest = term.factors
    inner = n // size(first)
    if start % inner == 0 and end % inner == 0:
        return resolved(Prod((part(first, start // inner, end // inner), *rest)))
    freeze(term, "sliced across the structure")
    return Atom(end - start, "sliced across the structure")


def regrouped(dims: Sequence[Term], shape: Sequence[int]) -> Dims:
    """The dims of a view: the same entries, row-major, under another shape."""
    if prod(shape) == 0:
        return fresh(shape, "an empty view")
    left: Term = Prod(tuple(dims))
    grouped: Dims = []
    for n in shape:
        if size(left) % n:
            freeze(Prod(tuple(dims)), MISALIGNED)
            return fresh(shape, MISALIGNED)
        outer, left = split(left, n)
        grouped.append(outer)
    return grouped


def broadcast(inputs: Sequence[Dims], shape: Sequence[int]) -> Dims:
    """The dims of an entry-by-entry operation: aligned from the right, ones stretched."""
    out: list[Term | None] = [None] * len(shape)
    for dims in inputs:
        offset = len(shape) - len(dims)
        for d, term in enumerate(dims):
            if size(term) == 1:
                continue
            known = out[d + offset]
            if known is None:
                out[d + offset] = term
            else:
                unify(known, term)
    return [
        ONE if n == 1 else Atom(n) if term is None else term
        for n, term in zip(shape, out, strict=True)
    ]


def _bind(atom: Atom, term: Term) -> None:
    if any(other is atom for other in atoms(term)):
        freeze(term, "made up of itself")
        return
    if atom.frozen:
        freeze(term, atom.frozen)
    for other in atoms(term):
        other.flags |= atom.flags
        other.roles |= atom.roles
    atom.bound = term


def _unify_products(a: Prod, b: Prod) -> None:
    first, other = size(a.factors[0]), size(b.factors[0])
    if first < other:
        a, b, first, other = b, a, other, first
    if first % other:
        _freeze_both(a, b)
        return
    outer, inner = split(a.factors[0], other)
    unify(outer, b.factors[0])
    unify(Prod((inner, *a.factors[1:])), Prod(b.factors[1:]))


def _unify_sums(a: Cat, b: Cat) -> None:
    n, first = size(a), min(size(a.parts[0]), size(b.parts[0]))
    unify(part(a, 0, first), part(b, 0, first))
    unify(part(a, first, n), part(b, first, n))


def _unify_stack(a: Cat, b: Term) -> None:
    """A concatenation that is elsewhere a product: parts alike, and which part is not a unit."""
    if len({size(p) for p in a.parts}) > 1:
        _freeze_both(a, b)
        return
    outer, inner = split(b, len(a.parts))
    freeze(outer, STACK)
    for p in a.parts:
        unify(p, inner)


def _freeze_both(a: Term, b: Term) -> None:
    for term in (a, b):
        freeze(term, "two structures that do not match")


def _split_atom(atom: Atom, count: int) -> tuple[Term, Term]:
    outer, inner = (
        Atom(n, atom.frozen, set(atom.flags), set(atom.roles)) for n in (count, atom.size // count)
    )
    atom.bound = Prod((outer, inner))
    return outer, inner


def _split_product(term: Prod, count: int) -> tuple[Term, Term]:
    left: list[Term] = []
    right, taken = list(term.factors), 1
    while right and count % (taken * size(right[0])) == 0:
        taken *= size(right[0])
        left.append(right.pop(0))
    if taken == count:
        return resolved(Prod(tuple(left))), resolved(Prod(tuple(right)))
    rest = count // taken
    if right and size(right[0]) % rest == 0:
        outer, inner = split(right[0], rest)
        return resolved(Prod((*left, outer))), resolved(Prod((inner, *right[1:])))
    return _misaligned(term, count, size(term) // count)


def _split_stack(term: Cat, count: int) -> tuple[Term, Term]:
    """A view of (q, k, v) as (3, width): the parts become one axis, which part becomes another."""
    n_parts = len(term.parts)
    if len({size(p) for p in term.parts}) > 1 or count % n_parts:
        return _misaligned(term, count, size(term) // count)
    for p in term.parts[1:]:
        unify(term.parts[0], p)
    outer, inner = split(term.parts[0], count // n_parts)
    return resolved(Prod((Atom(n_parts, STACK), outer))), inner


def _misaligned(term: Term, count: int, rest: int) -> tuple[Term, Term]:
    freeze(term, MISALIGNED)
    return Atom(count, MISALIGNED), Atom(max(rest, 1), MISALIGNED)


def _part_of_atom(atom: Atom, start: int, end: int) -> Term:
    if atom.frozen:
        return Atom(end - start, atom.frozen)
    pieces = [
        Atom(n, None, set(atom.flags), set(atom.roles))
        for n in (start, end - start, atom.size - end)
    ]
    atom.bound = Cat(tuple(piece for piece in pieces if piece.size))
    return pieces[1]


def _part_of_sum(term: Cat, start: int, end: int) -> Term:
    kept: list[Term] = []
    offset = 0
    for piece in term.parts:
        n = size(piece)
        begin, stop = max(start, offset), min(end, offset + n)
        if begin < stop:
            kept.append(part(piece, begin - offset, stop - offset))
        offset += n
    return resolved(Cat(tuple(kept)))
