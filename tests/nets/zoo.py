"""Small models of every kind that has to be cut: name -> (model, example batch)."""

import torch
import torch.nn.functional as F
from torch import nn


class LeNet(nn.Module):
    """The view's size is written into forward, as in the tutorial."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 30), nn.Linear(30, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 5 * 5)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def mlp():
    return nn.Sequential(
        nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 5),
    )  # fmt: skip


def vgg():
    def layer(i, o):
        return [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *layer(3, 8), *layer(8, 12), nn.MaxPool2d(2), *layer(12, 16), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(32, 10),
    )  # fmt: skip


class Basic(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.down = None
        if stride != 1 or i != o:
            self.down = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    def __init__(self, width=8, n_classes=10):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer1 = nn.Sequential(Basic(width, width), Basic(width, width))
        self.layer2 = nn.Sequential(Basic(width, 2 * width, 2), Basic(2 * width, 2 * width))
        self.layer3 = nn.Sequential(Basic(2 * width, 4 * width, 2), Basic(4 * width, 4 * width))
        self.layer4 = nn.Sequential(Basic(4 * width, 8 * width, 2), Basic(8 * width, 8 * width))
        self.fc = nn.Linear(8 * width, n_classes)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class PreActivation(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(i), nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(o), nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.down = nn.Conv2d(i, o, 1, stride, bias=False) if stride != 1 or i != o else None

    def forward(self, x):
        h = F.relu(self.bn1(x))
        skip = x if self.down is None else self.down(h)
        return skip + self.conv2(F.relu(self.bn2(self.conv1(h))))


def pre_activation(n_blocks=3):
    """ResIST's network: the blocks after the first of a stage can be left out."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.Sequential(*(PreActivation(8, 8) for _ in range(n_blocks))),
        nn.Sequential(PreActivation(8, 16, 2), *(PreActivation(16, 16) for _ in range(n_blocks))),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


class Inverted(nn.Module):
    """MobileNetV2's block with squeeze and excitation: depthwise convolution, gating."""

    def __init__(self, i, o, times, stride):
        super().__init__()
        h = i * times
        self.residual = stride == 1 and i == o
        self.up, self.n1 = nn.Conv2d(i, h, 1, bias=False), nn.BatchNorm2d(h)
        self.depth = nn.Conv2d(h, h, 3, stride, 1, groups=h, bias=False)
        self.n2 = nn.BatchNorm2d(h)
        self.squeeze, self.excite = nn.Conv2d(h, 4, 1), nn.Conv2d(4, h, 1)
        self.down, self.n3 = nn.Conv2d(h, o, 1, bias=False), nn.BatchNorm2d(o)

    def forward(self, x):
        y = F.relu6(self.n2(self.depth(F.relu6(self.n1(self.up(x))))))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = self.n3(self.down(y))
        return x + y if self.residual else y


def mobilenet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        Inverted(8, 8, 2, 1), Inverted(8, 12, 3, 2), Inverted(12, 12, 3, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip


class ResNeXtBlock(nn.Module):
    def __init__(self, c=16, h=24, groups=4):
        super().__init__()
        self.a, self.n1 = nn.Conv2d(c, h, 1), nn.BatchNorm2d(h)
        self.g, self.n2 = nn.Conv2d(h, h, 3, padding=1, groups=groups), nn.BatchNorm2d(h)
        self.b = nn.Conv2d(h, c, 1)

    def forward(self, x):
        return F.relu(x + self.b(F.relu(self.n2(self.g(F.relu(self.n1(self.a(x))))))))


def resnext():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), ResNeXtBlock(), ResNeXtBlock(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def group_norm():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv2d(16, 24, 3), nn.GroupNorm(8, 24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


class Transposed(nn.Module):
    """A decoder: transposed and grouped transposed convolutions, a skip by concatenation."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 6, 2, 2)
        self.grouped, self.out = nn.ConvTranspose2d(6, 12, 1, groups=3), nn.Conv2d(20, 2, 1)
        self.side = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        y = F.relu(self.grouped(F.relu(self.up(F.relu(self.down(x))))))
        return self.out(torch.cat([y, F.relu(self.side(x))], 1))


class Shuffle(nn.Module):
    """ShuffleNet's unit: chunk, concatenate, shuffle the channels by two views."""

    def __init__(self, c=16):
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3)
        self.c1, self.c2 = nn.Conv2d(c // 2, 12, 1), nn.Conv2d(12, c // 2, 1)
        self.fc = nn.Linear(c, 5)

    def forward(self, x):
        a, b = self.stem(x).chunk(2, 1)
        x = torch.cat([a, self.c2(F.relu(self.c1(b)))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(x.mean((2, 3)))


class Dense(nn.Module):
    def __init__(self, c=8, growth=6, n_layers=3):
        super().__init__()
        widths = [c + i * growth for i in range(n_layers)]
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths)
        self.convs = nn.ModuleList(nn.Conv2d(w, growth, 3, padding=1) for w in widths)
        self.fc = nn.Linear((c + n_layers * growth) * 4, 5)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


def neighbours(n=20):
    generator = torch.Generator().manual_seed(0)
    a = (torch.rand(n, n, generator=generator) < 0.2).float() + torch.eye(n)
    return a / a.sum(1, keepdim=True)


class GCN(nn.Module):
    def __init__(self, a, d=10, h=16, c=4):
        super().__init__()
        self.register_buffer("a", a)
        self.l1, self.l2, self.l3 = nn.Linear(d, h), nn.Linear(h, h), nn.Linear(h, c)

    def forward(self, x):
        return self.a @ self.l3(F.relu(self.a @ self.l2(F.relu(self.a @ self.l1(x)))))


class SparseGCN(GCN):
    def forward(self, x):
        for layer in (self.l1, self.l2):
            x = F.relu(torch.sparse.mm(self.a, layer(x)))
        return torch.sparse.mm(self.a, self.l3(x))


class EdgeGCN(nn.Module):
    """Message passing by an edge list, as graph libraries do it."""

    def __init__(self, d=10, h=16, c=4):
        super().__init__()
        self.l1, self.l2 = nn.Linear(d, h), nn.Linear(h, c)

    def forward(self, x, edges):
        for layer in (self.l1, self.l2):
            y = layer(x)
            index = edges[1][:, None].expand(-1, y.shape[1])
            x = F.relu(torch.zeros_like(y).scatter_add(0, index, y.index_select(0, edges[0])))
        return x


class SAGE(nn.Module):
    """GIST's network: a node beside its neighbours' mean, normalised over the features."""

    def __init__(self, a, d=10, h=16, c=4):
        super().__init__()
        self.register_buffer("a", a)
        self.l1, self.l2, self.l3 = nn.Linear(2 * d, h), nn.Linear(2 * h, h), nn.Linear(2 * h, c)
        self.norm = nn.LayerNorm(h)

    def forward(self, x):
        x = F.relu(self.l1(torch.cat([x, self.a @ x], 1)))
        x = self.norm(F.relu(self.l2(torch.cat([x, self.a @ x], 1))))
        return self.l3(torch.cat([x, self.a @ x], 1))


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


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder transposed, with a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(16, 10) * 0.3), nn.Parameter(torch.zeros(10))
        self.m = nn.Linear(16, 16)

    def forward(self, x):
        h = F.relu(F.linear(x, self.w))
        h = h + F.relu(self.m(h))
        h = h + F.relu(self.m(h))
        return h @ self.w + self.b


class Branching(nn.Module):
    """Control flow on a value: no graph of it can be exported."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        h = torch.sigmoid(self.a(x))
        if x.sum().item() > 1e6:
            h = -h
        return self.b(h)


class PlainTensor(nn.Module):
    """A constant that is an attribute, neither a parameter nor a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3)
        self.slopes = torch.linspace(0.5, 1, 12)

    def forward(self, x):
        return self.c(F.relu(self.b(self.slopes * F.relu(self.a(x)))))


class Alibi(nn.Module):
    """A buffer with one entry a unit: it has to be cut with its neurons."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("slopes", torch.linspace(0.5, 1, 12))

    def forward(self, x):
        return self.b(self.slopes * torch.sigmoid(self.a(x)))


def x(*shape):
    return torch.randn(*shape)


def tokens(*shape):
    return torch.randint(0, 30, shape)


ZOO = {
    "mlp": lambda: (mlp(), x(7, 12)),
    "lenet": lambda: (LeNet(), x(2, 1, 28, 28)),
    "vgg": lambda: (vgg(), x(3, 3, 16, 16)),
    "resnet": lambda: (ResNet(), x(3, 3, 16, 16)),
    "pre_activation": lambda: (pre_activation(), x(3, 3, 8, 8)),
    "mobilenet": lambda: (mobilenet(), x(3, 3, 16, 16)),
    "resnext": lambda: (resnext(), x(2, 3, 9, 9)),
    "group_norm": lambda: (group_norm(), x(2, 3, 9, 9)),
    "transposed": lambda: (Transposed(), x(2, 3, 8, 8)),
    "shuffle": lambda: (Shuffle(), x(2, 3, 9, 9)),
    "densenet": lambda: (Dense(), x(3, 3, 8, 8)),
    "gcn": lambda: (GCN(neighbours()), x(20, 10)),
    "sparse_gcn": lambda: (SparseGCN(neighbours().to_sparse_coo()), x(20, 10)),
    "edge_gcn": lambda: (EdgeGCN(), (x(20, 10), torch.randint(0, 20, (2, 50)))),
    "sage": lambda: (SAGE(neighbours()), x(20, 10)),
    "vit": lambda: (ViT(), x(2, 3, 16, 16)),
    "nanogpt": lambda: (NanoGPT(), tokens(2, 11)),
    "swiglu": lambda: (SwiGLU(), x(7, 12)),
    "llama": lambda: (Llama(), tokens(2, 7)),
    "mixer": lambda: (Mixer(), x(2, 9, 6)),
    "lstm": lambda: (LSTM(), tokens(2, 6)),
    "multi_head": lambda: (MultiHead(), x(2, 6, 10)),
    "encoder": lambda: (Encoder(), x(2, 6, 10)),
    "tied": lambda: (Tied(), x(7, 10)),
    "branching": lambda: (Branching(), x(7, 6)),
    "plain_tensor": lambda: (PlainTensor(), x(7, 6)),
    "alibi": lambda: (Alibi(), x(7, 6)),
}


def zoo(name, seed=0):
    """The model with the seed's parameters, and its batch."""
    torch.manual_seed(seed)
    return ZOO[name]()
