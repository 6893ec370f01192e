"""Models of pictures and rows: convolutions, normalisation, blocks, concatenation."""

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
