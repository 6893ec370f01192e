"""Operations that only move entries: views, transposes, concatenation, slices."""

from collections.abc import Sequence

from subnetwork.nets.trace.rule import Call, rule
from subnetwork.nets.trace.terms import ONE, Atom, Cat, Dims, Prod, freeze, fresh, resolved, size
from subnetwork.nets.trace.unify import STACK, broadcast, part, regrouped


@rule(
    "view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten", "squeeze",
    "unsqueeze", "view_as", "reshape_as",
)  # fmt: skip
def view(call: Call) -> Sequence[Dims]:
    """The same entries under another shape."""
    return [regrouped(call.of("self", "input"), call.shape)]


@rule("t", "numpy_T", "mT", "adjoint")
def transposed(call: Call) -> Sequence[Dims]:
    """The last two dims change places."""
    dims = call.of("self")
    return [dims[:-2] + dims[-2:][::-1]]


@rule("transpose", "swapaxes")
def swapped(call: Call) -> Sequence[Dims]:
    """Two dims change places."""
    dims = call.of("self")
    a, b = call.number("dim0", len(dims)), call.number("dim1", len(dims))
    dims[a], dims[b] = dims[b], dims[a]
    return [dims]


@rule("permute")
def permuted(call: Call) -> Sequence[Dims]:
    """Dims in another order."""
    dims = call.of("self")
    return [[dims[d % len(dims)] for d in call.arguments["dims"]]]


@rule("expand", "expand_as", "broadcast_to")
def expanded(call: Call) -> Sequence[Dims]:
    """A dim of size 1 is stretched to units that are still anyone's."""
    return [broadcast([call.of("self")], call.shape)]


@rule("repeat")
def repeated(call: Call) -> Sequence[Dims]:
    """Whole copies, one after the other."""
    times, dims = call.arguments["repeats"], call.of("self")
    dims = [ONE] * (len(times) - len(dims)) + dims
    return [
        [
            resolved(Cat((term,) * n)) if size(term) > 1 else (ONE if n == 1 else Atom(n))
            for term, n in zip(dims, times, strict=True)
        ]
    ]


@rule("repeat_interleave")
def repeated_inside(call: Call) -> Sequence[Dims]:
    """Every unit several times in a row: grouped queries."""
    dims, times = call.of("self"), call.arguments.get("repeats")
    if not isinstance(times, int) or call.arguments.get("dim") is None:
        raise NotImplementedError("with a tensor of repeats")
    d = call.number("dim", len(dims))
    dims[d] = resolved(Prod((dims[d], Atom(times, "copies of one unit"))))
    return [dims]


@rule("cat", "concat")
def concatenated(call: Call) -> Sequence[Dims]:
    """One tensor after the other along one dim; the other dims are the same units."""
    tensors = [t for t in call.arguments["tensors"] if t.numel() or t.dim() > 1]
    d = call.number("dim", len(call.shape))
    inputs = [list(call.dims(t)) for t in tensors]
    others = [[*dims[:d], ONE, *dims[d + 1 :]] for dims in inputs]
    dims = broadcast(others, [1 if i == d else n for i, n in enumerate(call.shape)])
    dims[d] = resolved(Cat(tuple(terms[d] for terms in inputs)))
    return [dims]


@rule("stack")
def stacked(call: Call) -> Sequence[Dims]:
    """A new dim of positions, which are not units."""
    d = call.number("dim", len(call.shape))
    inputs = [list(call.dims(t)) for t in call.arguments["tensors"]]
    dims = broadcast(inputs, call.shape[:d] + call.shape[d + 1 :])
    return [[*dims[:d], *fresh((call.shape[d],), STACK), *dims[d:]]]


@rule("slice", "narrow")
def sliced(call: Call) -> Sequence[Dims]:
    """A stretch of one dim."""
    dims = call.of("self")
    d = call.number("dim", len(dims))
    n, start = size(dims[d]), call.arguments["start"] or 0
    start = min(max(start + n, 0) if start < 0 else start, n)
    if call.arguments.get("step", 1) != 1:
        freeze(dims[d], "sliced with a step")
        dims[d] = Atom(call.shape[d], "sliced with a step")
    else:
        dims[d] = part(dims[d], start, start + call.shape[d])
    return [dims]


@rule(
    "split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes"
)
def pieces(call: Call) -> Sequence[Dims]:
    """Stretches of one dim that follow each other."""
    dims = call.of("self")
    d = call.number("dim", len(dims))
    found, start = [], 0
    for shape in call.shapes:
        end = start + shape[d]
        found.append([*dims[:d], part(dims[d], start, end), *dims[d + 1 :]])
        start = end
    return found


@rule("select", "unbind")
def picked(call: Call) -> Sequence[Dims]:
    """Single positions of one dim, which is therefore whole."""
    dims = call.of("self")
    d = call.number("dim", len(dims))
    freeze(dims[d], "indexed by position")
    return [dims[:d] + dims[d + 1 :]] * len(call.shapes)


@rule(
    "constant_pad_nd", "pad",
    *(f"{kind}_pad{d}d" for kind in ("reflection", "replication") for d in (1, 2, 3)),
)  # fmt: skip
def padded(call: Call) -> Sequence[Dims]:
    """Dims that grow hold more than their units."""
    dims = call.of("self")
    for d, n in enumerate(call.shape):
        if size(dims[d]) != n:
            freeze(dims[d], "padded")
            dims[d] = Atom(n, "padded")
    return [dims]


RULES = (
    view, transposed, swapped, permuted, expanded, repeated, repeated_inside, concatenated,
    stacked, sliced, pieces, picked, padded,
)  # fmt: skip
