"""The pre-activation ResNet for small pictures, of any width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class PreActBlock(nn.Module):
    """Norm, ReLU, convolution, twice, beside a shortcut (He et al. 2016b)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = F.relu(self.norm1(x))
        kept: Tensor = x if self.shortcut is None else self.shortcut(y)
        change: Tensor = self.conv2(F.relu(self.norm2(self.conv1(y))))
        return kept + change


class ResNet(nn.Module):
    """Three stages of `width`, twice and four times as many channels; ResNet-18's have 64.

    The channels inside a block can be cut (blocks.[0-9].channels), and with them or without those
    of the stream between blocks, to which all blocks of a stage add. Blocks without a shortcut
    convolution can be left out (depth).
    """

    def __init__(self, channels: int, width: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        stages = [(width * 2**i, 1 if i == 0 else 2) for i in range(3)]
        below = width
        self.blocks = nn.ModuleList()
        for above, stride in stages:
            for b in range(blocks):
                self.blocks.append(PreActBlock(below, above, stride if b == 0 else 1))
                below = above
        self.norm = nn.BatchNorm2d(below)
        self.head = nn.Linear(below, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of pictures (B, channels, H, W)."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last))  # a third faster on a CPU
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(F.relu(self.norm(x)).mean((2, 3)))
        return logits
