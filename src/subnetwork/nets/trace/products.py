"""Operations that multiply and add along a dim: matrix products, convolutions, attention."""

from collections.abc import Sequence

from torch import Tensor

from subnetwork.nets.trace.rule import Call, rule
from subnetwork.nets.trace.terms import (
    ONE,
    Atom,
    Dims,
    Prod,
    Term,
    flag,
    freeze,
    fresh,
    role,
    size,
)
from subnetwork.nets.trace.unify import broadcast, split, unify

CONTRACTED = "contracted between activations"
_LEFT = ("mat1", "batch1", "mat", "sparse", "self", "input")
_RIGHT = ("mat2", "batch2", "vec", "dense", "tensor", "other")
_ADDED = ("addmm", "baddbmm", "addmv", "_sparse_addmm")


@rule(
    "mm", "bmm", "addmm", "baddbmm", "mv", "dot", "addmv", "matmul", "_sparse_mm", "_sparse_addmm"
)
def product(call: Call) -> Sequence[Dims]:
    """Rows by columns: the dims between them are the same units, batch dims too."""
    a, b = call.of(*_LEFT), call.of(*_RIGHT)
    left_vector, right_vector = len(a) == 1, len(b) == 1
    a, b = [ONE] * left_vector + a, b + [ONE] * right_vector
    unify(a[-1], b[-2])
    if not any(call.is_weight(call.tensor(*names)) for names in (_LEFT, _RIGHT)):
        flag(a[-1], CONTRACTED)
        for term in a[:-2]:
            role(term, "heads")
    batch = call.shape[: len(call.shape) - (not left_vector) - (not right_vector)]
    dims = broadcast([a[:-2], b[:-2]], batch)
    dims += [a[-2]] * (not left_vector) + [b[-1]] * (not right_vector)
    return [broadcast([dims, call.of("self")], call.shape) if call.name in _ADDED else dims]


@rule("linear")
def linear(call: Call) -> Sequence[Dims]:
    """Columns of the weight are the inputs' last dim, rows the outputs'."""
    x, weight = call.of("input"), call.of("weight")
    unify(x[-1], weight[-1])
    dims = x[:-1] + weight[:-1]
    if isinstance(bias := call.arguments.get("bias"), Tensor):
        dims = broadcast([dims, call.dims(bias)], call.shape)
    return [dims]


@rule("convolution", "_convolution", "convolution_overrideable", "conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Sequence[Dims]:
    """Channels in and out are units, kernel and picture are not; groups are units of their own."""
    x, weight = call.of("input"), call.of("weight")
    groups, transposed = call.arguments["groups"], call.arguments.get("transposed", False)
    x = [ONE] * (len(weight) - len(x)) + x
    if groups > 1:
        channels = _grouped_channels(x[1], weight, groups, transposed)
    else:
        inputs, channels = weight[:2] if transposed else weight[1::-1]
        unify(x[1], inputs)
    if isinstance(bias := call.arguments.get("bias"), Tensor):
        unify(call.dims(bias)[0], channels)
    for term in weight[2:]:
        freeze(term, "the kernel")
    dims = [x[0], channels, *fresh(call.shape[2 - len(weight) :], "the picture")]
    return [dims[-len(call.shape) :]]


def _grouped_channels(channels: Term, weight: Dims, groups: int, transposed: bool) -> Term:
    """Both sides are (group, channel of the group); what comes out."""
    group, inner = split(channels, groups)
    outer, rows = split(weight[0], groups)
    unify(group, outer)
    role(group, "groups")
    if transposed:
        unify(inner, rows)
        return Prod((group, weight[1]))
    unify(inner, weight[1])
    return weight[0]


@rule(
    "scaled_dot_product_attention",
    *(
        f"_scaled_dot_product_{kind}"
        for kind in (
            "flash_attention_for_cpu", "flash_attention", "efficient_attention",
            "cudnn_attention", "fused_attention_overrideable",
        )
    ),
)  # fmt: skip
def attention(call: Call) -> Sequence[Dims]:
    """Softmax of query by key, by value. The width of a head sets the scale."""
    query, key, value = call.of("query"), call.of("key"), call.of("value")
    for q, k, v in zip(query[:-2], key[:-2], value[:-2], strict=True):
        unify(k, v)
        copies = size(q) // size(k)
        unify(q, k if copies == 1 else Prod((k, Atom(copies, "queries that share a key"))))
        role(k, "heads")
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    flag(query[-1], "sets the scale of attention")
    return [query[:-1] + value[-1:], *(fresh(s) for s in call.shapes[1:])]


@rule("_grouped_mm", "grouped_mm_fallback")
def experts(call: Call) -> Sequence[Dims]:
    """Every row by the matrix of its expert."""
    x, weight = call.of("self", "input"), call.of("mat2", "weight")
    if len(weight) != len(x) + 1:
        raise NotImplementedError("between stacks of equal rank")
    freeze(weight[0], "experts are picked by position")
    unify(x[-1], weight[-2])
    return [[*x[:-1], weight[-1]]]


RULES = (product, linear, convolution, attention, experts)
