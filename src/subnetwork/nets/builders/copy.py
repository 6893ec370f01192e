"""Copy and patch: the user's own module with smaller tensors, and layers that know their sizes.

What comes out is of the user's class, with its train and eval modes, hooks and control flow. It
runs wherever `forward` takes its sizes from tensors; one that reads them from attributes of its
own is what `subnetwork.nets.builders.export` is for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from subnetwork.nets.builders.attention import forward_of_some_heads
from subnetwork.nets.builders.block import Block
from subnetwork.nets.builders.blocks import blocks
from subnetwork.nets.copying import copied
from subnetwork.nets.layout import Layout
from subnetwork.nets.terms import Dim, extent, outermost
from subnetwork.nets.trace.tracer import Inputs


@dataclass(frozen=True)
class Copy:
    """Builds by copying the model with its tensors replaced by blocks."""

    layout: Layout
    skips: Mapping[str, Block] = field(default_factory=dict)  # the blocks of the layout, by path
    kind: str = "copy"

    def build(self, model: nn.Module, units: Mapping[str, Tensor], /) -> nn.Module:
        """The module that holds these units, of the model's own class."""
        small = copied(model, blocks(model, self.layout, units))
        sizes = {axis: len(kept) for axis, kept in units.items()}
        gone = self.layout.left_out(units)
        for path in gone:
            small.get_submodule(path).forward = _Passing(self.skips[path])
        for path, module in small.named_modules():
            if f"{path}.".startswith(tuple(f"{g}." for g in gone)):
                continue
            dims = self.layout.dims.get(f"{path}.weight".lstrip("."), ())
            groups = _Groups(self.layout, sizes, dims[0] if dims else None)
            for kind, patch in _PATCHES:
                if isinstance(module, kind):
                    patch(module, groups)
        return small

    def at(self, model: nn.Module, inputs: Inputs, /) -> "Copy":
        """Itself: a copy has the dtype of what is copied."""
        del model, inputs
        return self


@dataclass(frozen=True)
class _Passing:
    """The forward of a block that is left out: its module stays, as a shell without tensors."""

    block: Block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return self.block.passed(args, kwargs)


@dataclass(frozen=True)
class _Groups:
    """The first dim of a layer's weight, for layers that split it into groups."""

    layout: Layout
    sizes: Mapping[str, int]
    dim: Dim

    def left(self, count: int) -> int:
        """How many of `count` groups the kept units make up."""
        if self.dim is None:
            return count
        outer = outermost(self.dim, count, self.layout.sizes)
        return count if outer is None else extent(outer, self.sizes)


def _linear(module: nn.Linear, groups: _Groups) -> None:
    del groups
    module.out_features, module.in_features = module.weight.shape


def _convolution(module: _ConvNd, groups: _Groups) -> None:
    if module.groups > 1:
        module.groups = groups.left(module.groups)
    rows, columns = module.weight.shape[:2]
    inputs, outputs = (rows, columns) if module.transposed else (columns, rows)
    module.in_channels = inputs if module.transposed else inputs * module.groups
    module.out_channels = outputs * module.groups if module.transposed else outputs


def _norm(module: _NormBase, groups: _Groups) -> None:
    del groups
    if module.affine:
        module.num_features = module.weight.shape[0]


def _layer_norm(module: nn.LayerNorm | nn.RMSNorm, groups: _Groups) -> None:
    del groups
    if module.elementwise_affine:
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: nn.GroupNorm, groups: _Groups) -> None:
    if module.affine:
        module.num_groups = groups.left(module.num_groups)
        module.num_channels = module.weight.shape[0]


def _embedding(module: nn.Embedding, groups: _Groups) -> None:
    del groups
    module.embedding_dim = module.weight.shape[1]


def _recurrent(module: nn.RNNBase, groups: _Groups) -> None:
    del groups
    inputs, hidden = module.weight_ih_l0, module.weight_hh_l0
    assert isinstance(inputs, Tensor)
    assert isinstance(hidden, Tensor)
    module.input_size, module.hidden_size = inputs.shape[1], hidden.shape[1]
    if module.proj_size:
        projection = module.weight_hr_l0
        assert isinstance(projection, Tensor)
        module.proj_size, module.hidden_size = projection.shape


def _attention(module: nn.MultiheadAttention, groups: _Groups) -> None:
    """Fewer heads of the same width: torch's own forward wants them to fill the stream."""
    del groups
    rows = 0 if module.in_proj_weight is None else module.in_proj_weight.shape[0]
    if rows and rows != 3 * module.num_heads * module.head_dim:
        module.num_heads = rows // (3 * module.head_dim)
        module._qkv_same_embed_dim = False  # keeps torch.nn.TransformerEncoder off its fast path
        module.forward = partial(forward_of_some_heads, module)  # type: ignore[method-assign]


def _encoder(module: nn.TransformerEncoder, groups: _Groups) -> None:
    """Nested tensors are for the fast path, which takes all heads."""
    del groups
    for inside in module.modules():
        if isinstance(inside, nn.MultiheadAttention) and inside.in_proj_weight is not None:
            all_heads = inside.in_proj_weight.shape[0] == 3 * inside.embed_dim
            module.use_nested_tensor = module.use_nested_tensor and all_heads


_PATCHES: tuple[tuple[type[nn.Module], Callable[..., None]], ...] = (
    (nn.Linear, _linear),
    (_ConvNd, _convolution),
    (_NormBase, _norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.RNNBase, _recurrent),
    (nn.MultiheadAttention, _attention),
    (nn.TransformerEncoder, _encoder),
)
