"""Operations that pick entries by number: what is picked along stays whole."""

from collections.abc import Sequence

import torch
from torch import Tensor

from subnetwork.nets.trace.rule import Call, rule
from subnetwork.nets.trace.terms import Atom, Dims, Term, freeze, fresh, size
from subnetwork.nets.trace.unify import part, unify


@rule("embedding")
def embedding(call: Call) -> Sequence[Dims]:
    """Rows are looked up; what a row holds are units."""
    weight = call.of("weight")
    freeze(weight[0], "looked up by index")
    return [[*call.of("indices"), weight[1]]]


@rule("_embedding_bag", "_embedding_bag_forward_only")
def bags(call: Call) -> Sequence[Dims]:
    """Rows are looked up and put together bag by bag, every unit of a row for itself."""
    rows, width = call.of("weight")
    weights = call.arguments.get("per_sample_weights")
    others = [call.of("indices"), call.of("offsets")]
    others += [call.dims(weights)] if isinstance(weights, Tensor) else []
    for term in [rows, *(term for dims in others for term in dims)]:
        freeze(term, "looked up by index")
    first, *rest = (fresh(shape, "bag by bag") for shape in call.shapes)
    return [[first[0], width], *rest]


@rule(
    "index_select", "cumsum", "cumprod", "flip", "roll", "sort", "topk", "index_fill",
    "segment_reduce", "logcumsumexp",
)  # fmt: skip
def along(call: Call) -> Sequence[Dims]:
    """One dim, or several, whose order matters."""
    dims, why = call.of("self", "data"), f"{call.name} along it"
    given = call.arguments.get("dim", call.arguments.get("dims", call.arguments.get("axis", -1)))
    for d in [given] if isinstance(given, int) else given or range(len(dims)):
        freeze(dims[d], why)
    return [_resized(dims, shape, why) for shape in call.shapes]


@rule(
    "gather", "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_reduce"
)
def scattered(call: Call) -> Sequence[Dims]:
    """Entries move along one dim to places that an index tensor names."""
    dims, why = call.of("self"), f"{call.name} along it"
    d = call.number("dim", len(dims))
    others = [call.arguments.get(name) for name in ("index", "src", "source")]
    for other in (x for x in others if isinstance(x, Tensor)):
        terms = call.dims(other)
        if len(terms) != len(dims):
            freeze(terms[0], why)
            continue
        for i, term in enumerate(terms):
            _meet(dims[i], term, why if i == d else None)
    freeze(dims[d], why)
    return [_resized(dims, shape, why) for shape in call.shapes]


def _meet(a: Term, b: Term, why: str | None) -> None:
    if why is None and size(a) == size(b):
        unify(a, b)
    else:
        freeze(a, why or "only a part of it is addressed")
        freeze(b, why or "only a part of it is addressed")


def _resized(dims: Dims, shape: tuple[int, ...], why: str) -> Dims:
    return [t if size(t) == n else Atom(n, why) for t, n in zip(dims, shape, strict=True)]


@rule("index", "_unsafe_index")
def indexed(call: Call) -> Sequence[Dims]:
    """Advanced indexing: dims that are indexed stay whole, the others are kept."""
    dims, indices = call.of("self"), call.arguments["indices"]
    if any(index is not None and index.dtype == torch.bool for index in indices):
        raise NotImplementedError("by a mask")
    places = [d for d, index in enumerate(indices) if index is not None]
    for d in places:
        freeze(dims[d], "indexed by position")
    rest = [term for d, term in enumerate(dims) if d not in places]
    adjacent = places[-1] - places[0] + 1 == len(places)
    lead = places[0] if adjacent else 0
    n_new = len(call.shape) - len(rest)
    new = fresh(call.shape[lead : lead + n_new], "indexed by position")
    return [rest[:lead] + new + rest[lead:]]


@rule("index_put", "_unsafe_index_put", "_index_put_impl", "masked_scatter")
def put(call: Call) -> Sequence[Dims]:
    """Entries are written where indices say."""
    dims = call.of("self")
    for term in [*dims, *call.of("values", "source")]:
        freeze(term, "written to by position")
    return [dims]


@rule("glu")
def gated(call: Call) -> Sequence[Dims]:
    """The second half of a dim gates the first."""
    dims = call.of("self")
    d = call.number("dim", len(dims))
    half = call.shape[d]
    first, second = part(dims[d], 0, half), part(dims[d], half, 2 * half)
    unify(first, second)
    dims[d] = first
    return [dims]


@rule(
    "nonzero", "unique", "_unique2", "unique_dim", "bincount", "histc", "searchsorted",
    "bucketize", "nll_loss_forward", "nll_loss2d_forward", "nll_loss", "indices", "values",
)  # fmt: skip
def counted(call: Call) -> Sequence[Dims]:
    """What comes out depends on the values and on where they stand."""
    for x in call.arguments.values():
        if isinstance(x, Tensor):
            for term in call.dims(x):
                freeze(term, f"{call.name} looks at positions")
    return [fresh(shape, f"comes out of {call.name}") for shape in call.shapes]


RULES = (embedding, bags, along, scattered, indexed, put, gated, counted)
