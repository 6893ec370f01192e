"""Small data sets in the place of those that are read from files."""

import torch

from subnetwork.nets.data import DATA, DataSet, text_set


def given(monkeypatch):
    """cifar10 has 60 pictures, tinyshakespeare a line, until the test ends."""
    pictures, labels = torch.rand(60, 3, 8, 8), torch.arange(60) % 10
    few = DataSet("cifar10", pictures[:40], labels[:40], pictures[40:], labels[40:], 10)
    text = text_set("tinyshakespeare", "to be or not to be, " * 60, length=8)
    for data in (few, text):
        monkeypatch.setitem(DATA, data.name, lambda _, data=data: data)
