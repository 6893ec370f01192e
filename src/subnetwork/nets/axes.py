"""The named axes of a traced model, which of them are cut, and the layout that follows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from subnetwork.nets import terms
from subnetwork.nets.layout import Layout
from subnetwork.nets.trace.norms import SUMMED
from subnetwork.nets.trace.terms import Atom, Cat, Dims, Prod, Term, atoms, resolved, size
from subnetwork.nets.trace.tracer import Traced

INNER = "inside the units of another axis"
NOT_NAMED = "not named in width"


@dataclass(frozen=True)
class Axis:
    """Units that are kept or dropped together, wherever they occur."""

    name: str
    size: int
    flags: tuple[str, ...]  # why a network with fewer of them is not f(C x); empty: exact
    inner: bool  # lies within the units of another axis: the width of a head
    places: tuple[str, ...]  # "mlp.fc1.weight[0]", ...

    def __str__(self) -> str:
        """``blocks.0.attn.heads(12)``."""
        return f"{self.name}({self.size})"

    @property
    def why_whole(self) -> str | None:
        """Why it is not cut unless asked for; None where it is cut by default."""
        if self.flags:
            return ", ".join(self.flags)
        return INNER if self.inner else None


@dataclass(frozen=True)
class Found:
    """All axes of a model and every dim in terms of them."""

    axes: tuple[Axis, ...]
    layout: Layout  # cut along all of them
    fixed: Mapping[str, tuple[str, ...]]  # reason -> dims that stay whole for it
    unknown: tuple[str, ...]
    note: str | None


def found(traced: Traced) -> Found:
    """Name the axes that a trace has found."""
    places = _places(traced.params)
    inner = {a for dims in traced.params.values() for term in dims for a in _inner(term)}
    names: dict[Atom, str] = {}
    for atom, where in places.items():
        names[atom] = _unique(_name(atom, where, atom in inner), set(names.values()))
    axes = tuple(
        Axis(
            names[atom],
            atom.size,
            tuple(sorted(atom.flags - {SUMMED})),
            atom in inner,
            tuple(f"{p.param}[{p.dim}]" for p in where),
        )
        for atom, where in places.items()
    )
    dims, buffers = (
        {name: tuple(_plain(term, names) for term in dims) for name, dims in tensors.items()}
        for tensors in (traced.params, traced.buffers)
    )
    cut_buffers = {name: dims for name, dims in buffers.items() if any(map(terms.axes_of, dims))}
    layout = Layout({axis.name: axis.size for axis in axes}, dims, cut_buffers)
    fixed = _fixed(traced.params)
    return Found(axes, layout, fixed, tuple(sorted(traced.unknown)), traced.note)


def patterns(given: Iterable[str]) -> tuple[str, ...]:
    """Patterns of names, of which one may be given as it is."""
    return (given,) if isinstance(given, str) else tuple(given)


def chosen(
    axes: Sequence[Axis], width: Sequence[str] | None, inexact: bool
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Which axes stay whole, with the reason, and which are cut.

    Args:
        axes: all that were found.
        width: name patterns; None takes every exact, outermost axis.
        inexact: whether flagged axes may be cut.

    Raises:
        ValueError: where a pattern names no axis, or only flagged ones without `inexact`.
    """
    whole = {a.name: why for a in axes if (why := _why_whole(a, width, inexact)) is not None}
    for pattern in width or ():
        named = [a for a in axes if fnmatch(a.name, pattern)]
        if not named:
            raise ValueError(
                f"No axis of the model is called {pattern!r}. Its axes are: "
                f"{', '.join(a.name for a in axes) or 'none'}."
            )
        if all(a.name in whole for a in named):
            raise ValueError(
                f"width={pattern!r} names {named[0]}, which is {', '.join(named[0].flags)}: a "
                "network with fewer of its units is not the model at masked parameters. "
                "Pass inexact=True to cut it all the same."
            )
    return whole, tuple(a.name for a in axes if a.name not in whole)


def restricted(layout: Layout, names: Sequence[str]) -> Layout:
    """The layout cut along some of its axes only."""
    sizes = {axis: n for axis, n in layout.sizes.items() if axis in names}

    def kept(dim: terms.Dim) -> terms.Dim:
        return None if dim is None else terms.simplified(_whole(dim, sizes, layout.sizes))

    dims, buffers = (
        {name: tuple(map(kept, dims)) for name, dims in tensors.items()}
        for tensors in (layout.dims, layout.buffers)
    )
    return Layout(sizes, dims, {n: dims for n, dims in buffers.items() if any(dims)})


def _whole(term: terms.Term, kept: Mapping[str, int], sizes: Mapping[str, int]) -> terms.Term:
    if isinstance(term, str):
        return term if term in kept else sizes[term]
    if isinstance(term, terms.Prod):
        return terms.Prod(tuple(_whole(t, kept, sizes) for t in term.factors))
    if isinstance(term, terms.Cat):
        return terms.Cat(tuple(_whole(t, kept, sizes) for t in term.parts))
    return term


def _why_whole(axis: Axis, width: Sequence[str] | None, inexact: bool) -> str | None:
    if axis.flags and not inexact:
        return axis.why_whole
    if width is None:
        return INNER if axis.inner else None
    return None if any(fnmatch(axis.name, pattern) for pattern in width) else NOT_NAMED


@dataclass(frozen=True)
class _Place:
    param: str
    dim: int
    rank: int
    alone: bool  # the dim is this axis and nothing else

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.param.split(".")[:-1])


def _places(params: Mapping[str, Dims]) -> dict[Atom, list[_Place]]:
    places: dict[Atom, list[_Place]] = {}
    for name, dims in params.items():
        for d, term in enumerate(dims):
            held = atoms(term)
            for atom in dict.fromkeys(held):
                if atom.frozen is None:
                    alone = len(held) == 1
                    places.setdefault(atom, []).append(_Place(name, d, len(dims), alone))
    return places


def _inner(term: Term) -> Iterator[Atom]:
    """Free atoms of a product below its outermost free factor."""
    term = resolved(term)
    if isinstance(term, Cat):
        for part in term.parts:
            yield from _inner(part)
    if isinstance(term, Prod):
        free = [f for f in term.factors if any(a.frozen is None for a in atoms(f))]
        for factor in free[1:]:
            yield from (a for a in atoms(factor) if a.frozen is None)


def _plain(term: Term, names: Mapping[Atom, str]) -> terms.Dim:
    return terms.simplified(plain(term, names))


def plain(term: Term, names: Mapping[Atom, str]) -> terms.Term:
    """The term as data: named atoms by their names, all others by their sizes."""
    term = resolved(term)
    if isinstance(term, Atom):
        return names.get(term, term.size)
    if isinstance(term, Prod):
        return terms.Prod(tuple(plain(t, names) for t in term.factors))
    return terms.Cat(tuple(plain(t, names) for t in term.parts))


def _name(atom: Atom, where: Sequence[_Place], inner: bool) -> str:
    kind = _kind(atom, where, inner)
    shared = _shared_path([p.path for p in where])
    if not shared and len({p.path for p in where}) > 3 and kind == "hidden":
        return "stream"
    first = next((p for p in where if p.rank > 1 and p.dim == 0), where[0])  # what makes them
    path = shared or first.path or (first.param,)
    return ".".join((*path, kind))


def _kind(atom: Atom, where: Sequence[_Place], inner: bool) -> str:
    if inner:
        return "width"
    if "heads" in atom.roles:
        return "heads"
    if "groups" in atom.roles and not any(p.alone for p in where):
        return "groups"
    kernels = [p.rank > 2 and p.dim < 2 for p in where if p.rank > 1]
    return "channels" if 2 * sum(kernels) > len(kernels) else "hidden"


def _shared_path(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shared = paths[0]
    for path in paths[1:]:
        same = [a == b for a, b in zip(shared, path, strict=False)]
        shared = shared[: same.index(False) if False in same else len(same)]
    return shared


def _unique(name: str, taken: set[str]) -> str:
    numbered, n = name, 1
    while numbered in taken:
        n += 1
        numbered = f"{name}.{n}"
    return numbered


def _fixed(params: Mapping[str, Dims]) -> dict[str, tuple[str, ...]]:
    fixed: dict[str, list[str]] = {}
    for name, dims in params.items():
        for d, term in enumerate(dims):
            held = atoms(term)
            if size(term) > 1 and all(a.frozen for a in held):
                fixed.setdefault(held[0].frozen or "", []).append(f"{name}[{d}]")
    return {why: tuple(where) for why, where in fixed.items()}
