"""Operations entry by entry, and tensors made from nothing."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils._pytree import tree_leaves

from subnetwork.nets.trace.rule import Call, rule
from subnetwork.nets.trace.terms import Dims, freeze, fresh
from subnetwork.nets.trace.unify import broadcast


def pointwise(call: Call) -> Sequence[Dims]:
    """Entry by entry: all inputs are broadcast against each other.

    Also the reading of every operation that torch itself tags as pointwise.
    """
    inputs = [
        list(call.dims(x)) for x in tree_leaves(dict(call.arguments)) if isinstance(x, Tensor)
    ]
    return [broadcast(inputs, shape) for shape in call.shapes]


same = rule(
    "clone", "detach", "alias", "_to_copy", "to", "contiguous", "lift_fresh", "lift_fresh_copy",
    "lift", "dropout", "native_dropout", "feature_dropout", "alpha_dropout", "bernoulli", "copy",
    "type_as", "_to_dense", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like",
    "randn_like", "masked_fill", "fill", "zero", "_prelu_kernel", "rrelu_with_noise", "celu",
    "floor_divide", "isnan", "pow", "where", "normal", "uniform", "exponential",
)(pointwise)  # fmt: skip


@rule("tril", "triu")
def triangle(call: Call) -> Sequence[Dims]:
    """Which entries are kept depends on where they stand."""
    dims = call.of("self")
    for term in dims[-2:]:
        freeze(term, "masked by position")
    return [dims]


@rule(
    "zeros", "ones", "empty", "full", "rand", "randn", "new_zeros", "new_ones", "new_full",
    "new_empty", "scalar_tensor", "new_empty_strided", "empty_strided", "empty_permuted",
)  # fmt: skip
def made(call: Call) -> Sequence[Dims]:
    """Units that are still anyone's."""
    return [fresh(shape) for shape in call.shapes]


@rule(
    "arange", "linspace", "logspace", "eye", "randperm", "randint", "tril_indices", "triu_indices"
)
def numbered(call: Call) -> Sequence[Dims]:
    """The content depends on the position."""
    return [fresh(shape, f"numbered by {call.name}") for shape in call.shapes]


RULES = (same, triangle, made, numbered)
