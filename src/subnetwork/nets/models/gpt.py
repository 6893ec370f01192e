"""A character-level GPT: pre-normalised blocks, learnt positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Projection(nn.Linear):
    """A linear layer that starts at N(0, std), as GPT-2's do."""

    def __init__(self, inputs: int, outputs: int, std: float = 0.02) -> None:
        self.std = std
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        """Draw the weight; the bias is zero."""
        nn.init.normal_(self.weight, std=self.std)
        nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """An embedding that starts at N(0, 0.02)."""

    def reset_parameters(self) -> None:
        """Draw the vectors."""
        nn.init.normal_(self.weight, std=0.02)


class Attention(nn.Module):
    """Causal attention of any number of heads of one width: it reads the number off its tensors."""

    def __init__(self, width: int, heads: int, std: float) -> None:
        super().__init__()
        self.head_width = width // heads
        self.qkv, self.out = Projection(width, 3 * width), Projection(width, width, std)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, -1, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a feed-forward layer, each normalised before and added to the stream."""

    def __init__(self, width: int, heads: int, std: float, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, std)
        self.norm2 = nn.LayerNorm(width)
        self.up, self.down = Projection(width, 4 * width), Projection(4 * width, width, std)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        x = x + self.drop(self.attn(self.norm1(x)))
        fed: Tensor = self.drop(self.down(F.gelu(self.up(self.norm2(x)))))
        return x + fed


class GPT(nn.Module):
    """Logits of the next character at every place of a text.

    Heads and feed-forward width are cut, blocks can be left out; the stream, the embeddings and
    the head stay whole.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, heads: int, blocks: int, dropout: float
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"width={width} does not come apart into heads={heads}. Use a width that is a "
                f"multiple of {heads}, such as {heads * max(1, round(width / heads))}."
            )
        std = 0.02 / (2 * blocks) ** 0.5  # GPT-2's, for what adds to the stream
        self.token, self.place = Embedding(vocabulary, width), Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, std, dropout) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), Projection(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, vocabulary) of tokens (B, T)."""
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits
