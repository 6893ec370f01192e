"""Models of sequences: attention in several layouts, mixers, recurrent layers, torch's own."""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """The layout of timm: reshape to (batch, tokens, 3, heads, width)."""

    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(d), Attention(d, heads)
        self.norm2, self.gamma = nn.LayerNorm(d), nn.Parameter(torch.full((d,), 0.5))
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x):
        x = x + self.gamma * self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, d=24, heads=4, n_blocks=2, n_classes=10):
        super().__init__()
        self.patch = nn.Conv2d(3, d, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, d)), nn.Parameter(torch.randn(1, 17, d))
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(n_blocks))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, n_classes)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class GPTBlock(nn.Module):
    """nanoGPT's block: heads and width are attributes that forward reads."""

    def __init__(self, d, heads):
        super().__init__()
        self.n_head, self.n_embd = heads, d
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.c_attn, self.c_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc, self.fp = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.c_attn(self.ln1(x)).split(self.n_embd, dim=2)
        q, k, v = (y.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))
        return x + self.fp(F.gelu(self.fc(self.ln2(x))))


class NanoGPT(nn.Module):
    def __init__(self, vocabulary=50, length=16, d=24, heads=4, n_blocks=2):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, d), nn.Embedding(length, d)
        self.blocks = nn.ModuleList(GPTBlock(d, heads) for _ in range(n_blocks))
        self.ln, self.head = nn.LayerNorm(d), nn.Linear(d, vocabulary, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, i):
        x = self.wte(i) + self.wpe(torch.arange(i.size(1), device=i.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x))


class SwiGLU(nn.Module):
    def __init__(self, d=12, h=20, c=5):
        super().__init__()
        self.i, self.up = nn.Linear(d, 16), nn.Linear(16, 2 * h)
        self.down, self.o = nn.Linear(h, 16), nn.Linear(16, c)

    def forward(self, x):
        a, b = self.up(F.relu(self.i(x))).chunk(2, -1)
        return self.o(F.relu(self.down(F.silu(a) * b)))


class LlamaBlock(nn.Module):
    """Grouped queries, rotary positions, RMS norm and a gated MLP."""

    def __init__(self, d, heads, kv_heads, h):
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, d // heads
        self.norm1, self.norm2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.q, self.o = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.k, self.v = (nn.Linear(d, d * kv_heads // heads, bias=False) for _ in range(2))
        self.gate, self.up = nn.Linear(d, h, bias=False), nn.Linear(d, h, bias=False)
        self.down = nn.Linear(h, d, bias=False)

    def rotated(self, x):
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[-2])[:, None] / 10 ** (torch.arange(half) / half)
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def forward(self, x):
        y, (b, t) = self.norm1(x), x.shape[:2]
        q = self.rotated(self.q(y).view(b, t, -1, self.width).transpose(1, 2))
        k = self.rotated(self.k(y).view(b, t, -1, self.width).transpose(1, 2))
        v = self.v(y).view(b, t, -1, self.width).transpose(1, 2)
        k, v = (z.repeat_interleave(self.heads // self.kv_heads, 1) for z in (k, v))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(z.transpose(1, 2).reshape(b, t, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, d=32, heads=8, kv_heads=4, h=40, n_blocks=3):
        super().__init__()
        self.emb, self.head = nn.Embedding(30, d), nn.Linear(d, 30, bias=False)
        self.layers = nn.ModuleList(LlamaBlock(d, heads, kv_heads, h) for _ in range(n_blocks))

    def forward(self, i):
        x = self.emb(i)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Mixer(nn.Module):
    def __init__(self, n=9, d=16):
        super().__init__()
        self.i, self.t1, self.t2 = nn.Linear(6, d), nn.Linear(n, 14), nn.Linear(14, n)
        self.c1, self.c2, self.o = nn.Linear(d, 20), nn.Linear(20, d), nn.Linear(d, 3)

    def forward(self, x):
        x = self.i(x)
        x = x + self.t2(F.gelu(self.t1(x.transpose(1, 2)))).transpose(1, 2)
        return self.o((x + self.c2(F.gelu(self.c1(x)))).mean(1))


class LSTM(nn.Module):
    def __init__(self, n_layers=2):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(30, 10), nn.LSTM(10, 16, n_layers, batch_first=True)
        self.o = nn.Linear(16, 5)

    def forward(self, x):
        return self.o(self.rnn(self.emb(x))[0][:, -1])


class Bags(nn.Module):
    """Bags of words, once by their mean and once by weights of their own."""

    def __init__(self):
        super().__init__()
        self.mean, self.sum = nn.EmbeddingBag(30, 10), nn.EmbeddingBag(30, 10, mode="sum")
        self.o = nn.Linear(10, 5)

    def forward(self, words, weights):
        return self.o(F.relu(self.mean(words) + self.sum(words, per_sample_weights=weights)))


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.i, self.o = nn.Linear(10, 24), nn.Linear(24, 5)
        self.a = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, x):
        x = self.i(x)
        return self.o((x + self.a(x, x, x, need_weights=False)[0]).mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.i, self.o = nn.Linear(10, 24), nn.Linear(24, 5)
        layer = nn.TransformerEncoderLayer(24, 4, 32, 0.1, batch_first=True)
        self.e = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.o(self.e(self.i(x)).mean(1))
