"""`nn.MultiheadAttention` with some of its heads: the stream is wider than the heads together."""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, scaled_dot_product_attention


def forward_of_some_heads(  # noqa: PLR0913, PLR0917 (torch's own signature)
    self: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What `nn.MultiheadAttention.forward` computes, for any number of heads.

    A boolean mask is True where attention is not allowed, as there. Batched inputs only.
    """
    if self.bias_k is not None or self.add_zero_attn or query.dim() != 3:
        raise ValueError(
            "A part of nn.MultiheadAttention's heads cannot run with add_bias_kv, add_zero_attn or "
            "unbatched inputs: their sizes depend on all heads. Leave its heads whole with width=."
        )
    del is_causal  # a hint only: the mask is given as well
    if not self.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    mask = _mask(self, attn_mask, key_padding_mask, query)
    weights = self.in_proj_weight.chunk(3)
    biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
    q, k, v = (
        linear(x, w, b).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    scores = None
    if need_weights:
        logits = q @ k.transpose(-2, -1) / self.head_dim**0.5
        scores = (logits if mask is None else logits + mask).softmax(-1)
        mixed = dropout(scores, self.dropout, self.training) @ v
        scores = scores.mean(1) if average_attn_weights else scores
    else:
        rate = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(q, k, v, mask, rate)
    out = self.out_proj(mixed.transpose(1, 2).flatten(2))
    return (out if self.batch_first else out.transpose(0, 1)), scores


def _mask(
    self: nn.MultiheadAttention, attn: Tensor | None, padding: Tensor | None, query: Tensor
) -> Tensor | None:
    """Both masks as one, to be added to the scores (batch, heads, targets, sources)."""
    masks: list[Tensor] = []
    if attn is not None:
        masks.append(_added(attn, query) if attn.dim() == 2 else _of_heads(self, attn, query))
    if padding is not None:
        masks.append(_added(padding, query)[:, None, None])
    if len(masks) < 2:
        return masks[0] if masks else None
    return masks[0] + masks[1]


def _of_heads(self: nn.MultiheadAttention, mask: Tensor, query: Tensor) -> Tensor:
    each = _added(mask, query).view(query.shape[0], -1, *mask.shape[1:])
    if each.shape[1] not in (1, self.num_heads):
        raise ValueError(
            f"The attention mask is made for {each.shape[1]} heads, but this part has "
            f"{self.num_heads}. Give a mask of shape (targets, sources)."
        )
    return each


def _added(mask: Tensor, query: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    zeros = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
    return zeros.masked_fill(mask, -torch.inf)
