"""Operations entry by entry, and tensors made from nothing."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils._pytree import tree_leaves

from subnetwork.nets.trace.rule import Call, rule
from subnetwork.nets.trace.terms import Dims, flag, freeze, fresh
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
    "lift", "dropout", "native_dropout", "feature_dropout", "alpha_dropout", "copy", "type_as",
    "_to_dense", "zeros_like", "ones_like", "empty_like", "full_like", "masked_fill", "fill",
    "zero", "_prelu_kernel", "celu", "floor_divide", "isnan", "pow", "where",
)(pointwise)  # fmt: skip


@rule(
    "rand", "randn", "rand_like", "randn_like", "normal", "uniform", "exponential", "bernoulli",
    "rrelu_with_noise",
)  # fmt: skip
def noise(call: Call) -> Sequence[Dims]:
    """Drawn entry by entry: a part draws other numbers for its units than the whole does."""
    found = pointwise(call)
    if call.name == "bernoulli" and isinstance(call.arguments.get("p"), float):
        return found  # dropout, which the proof turns off
    for term in (term for dims in found for term in dims):
        flag(term, f"given noise of its own by {call.name}, which a part draws anew")
    return found


@rule("_is_all_true", "_is_any_true")
def checked(call: Call) -> Sequence[Dims]:
    """What torch asks of all entries at once, to raise where they are no parameters of a law."""
    return [[] for _ in call.shapes]


@rule("tril", "triu")
def triangle(call: Call) -> Sequence[Dims]:
    """Which entries are kept depends on where they stand."""
    dims = call.of("self")
    for term in dims[-2:]:
        freeze(term, "masked by position")
    return [dims]


@rule(
    "zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_full", "new_empty",
    "scalar_tensor", "new_empty_strided", "empty_strided", "empty_permuted",
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


RULES = (same, noise, checked, triangle, made, numbered)
