"""Operations that look at all units at once: normalisation, softmax, reductions, pooling."""

from collections.abc import Sequence

from torch import Tensor

from subnetwork.nets.trace.entries import pointwise
from subnetwork.nets.trace.rule import Call, rule
from subnetwork.nets.trace.terms import ONE, Dims, flag, freeze, fresh, role, size
from subnetwork.nets.trace.unify import split, unify

NORMALISED = "normalised over"
SUMMED = "summed over"


@rule(
    "native_batch_norm", "batch_norm", "cudnn_batch_norm", "miopen_batch_norm",
    "_native_batch_norm_legit", "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update",
    "_batch_norm_with_update_functional", "_batch_norm_impl_index", "instance_norm",
)  # fmt: skip
def batch_norm(call: Call) -> Sequence[Dims]:
    """Every channel by itself: parameters and statistics are per channel."""
    x = call.of("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(tensor := call.arguments.get(name), Tensor):
            unify(call.dims(tensor)[0], x[1])
    channels = (size(x[1]),)
    return [x, *([x[1]] if shape == channels else fresh(shape) for shape in call.shapes[1:])]


@rule("native_layer_norm", "layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> Sequence[Dims]:
    """Mean and variance over the last dims."""
    x = call.of("input")
    last = x[-len(call.arguments["normalized_shape"]) :]
    for name in ("weight", "bias"):
        if isinstance(tensor := call.arguments.get(name), Tensor):
            for a, b in zip(call.dims(tensor), last, strict=True):
                unify(a, b)
    for term in last:
        flag(term, NORMALISED)
    return [x, *(fresh(shape) for shape in call.shapes[1:])]


@rule("native_group_norm", "group_norm")
def group_norm(call: Call) -> Sequence[Dims]:
    """Groups of channels, each by itself."""
    x = call.of("input")
    group, inner = split(x[1], call.arguments.get("group") or call.arguments["num_groups"])
    role(group, "groups")
    flag(inner, NORMALISED)
    for name in ("weight", "bias"):
        if isinstance(tensor := call.arguments.get(name), Tensor):
            unify(call.dims(tensor)[0], x[1])
    return [x, *(fresh(shape) for shape in call.shapes[1:])]


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def softmax(call: Call) -> Sequence[Dims]:
    """Every entry depends on all along the dim."""
    x = call.of("self")
    flag(x[call.number("dim", len(x))], "softmax over")
    return [x]


@rule(
    "sum", "mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "aminmax", "max", "min",
    "prod", "logsumexp", "all", "any", "argmax", "argmin", "norm", "linalg_vector_norm", "median",
    "count_nonzero", "nansum",
)  # fmt: skip
def reduction(call: Call) -> Sequence[Dims]:
    """Dims that disappear, or become one. The maximum of two tensors is entry by entry."""
    if "other" in call.arguments:
        return pointwise(call)
    x = call.of("self")
    over = call.arguments.get("dim")
    over = [over] if isinstance(over, int) else over or range(len(x))
    gone = {d % len(x) for d in over} if x else set()
    why = SUMMED if call.name == "sum" else f"{call.name.removeprefix('linalg_')} over"
    for d in gone:
        flag(x[d], why)
    left = [term for d, term in enumerate(x) if d not in gone]
    kept = [ONE if d in gone else term for d, term in enumerate(x)]
    return [left if len(shape) == len(left) else kept for shape in call.shapes]


_POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool", "adaptive_max_pool",
          "upsample_nearest", "_upsample_nearest_exact", "mkldnn_max_pool")  # fmt: skip


@rule(
    *(f"{kind}{d}d" for kind in _POOLS for d in (1, 2, 3)),
    *(f"max_pool{d}d_with_indices" for d in (1, 2, 3)),
    "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
)  # fmt: skip
def pooling(call: Call) -> Sequence[Dims]:
    """Batch and channels stay, the picture changes."""
    x = call.of("self", "input")
    picture = int(next(c for c in call.name if c.isdigit()))
    for term in x[-picture:]:
        freeze(term, "the picture")
    return [[*x[:-picture], *fresh(s[-picture:], "the picture")] for s in call.shapes]


RULES = (batch_norm, layer_norm, group_norm, softmax, reduction, pooling)
