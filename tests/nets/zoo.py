"""Small models of every kind that has to be cut: name -> (model, example batch)."""

import torch
from zoo_graphs import GCN, SAGE, EdgeGCN, SparseGCN, neighbours
from zoo_odd import Alibi, Branching, PlainTensor, Tied
from zoo_pictures import (
    Dense,
    LeNet,
    ResNet,
    Shuffle,
    Transposed,
    group_norm,
    mlp,
    mobilenet,
    pre_activation,
    resnext,
    vgg,
)
from zoo_sequences import LSTM, Bags, Encoder, Llama, Mixer, MultiHead, NanoGPT, SwiGLU, ViT


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
    "bags": lambda: (Bags(), (tokens(2, 6), x(2, 6))),
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
