"""A plain training script, and the ten lines that let every process train a part of the model.

    torchrun --nproc-per-node 2 examples/join_torchrun.py

Lines that were added end in `# +`.
"""

import os

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from subnetwork import Perm, decompose, join  # +

ROUNDS, STEPS = 20, 10
WORLD, RANK = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))  # +

torch.set_num_threads(1)
torch.manual_seed(0)
pixels, labels = load_digits(return_X_y=True)
inputs, targets = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
model = nn.Sequential(
    nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
)
rows = TensorDataset(inputs[:1500][RANK::WORLD], targets[:1500][RANK::WORLD])  # own rows
loader = DataLoader(rows, batch_size=32, shuffle=True, drop_last=True)


def batches():
    """Epoch after epoch."""
    while True:
        yield from loader


def accuracy(network):
    """On the rows that nobody trains on."""
    with torch.no_grad():
        return (network(inputs[1500:]).argmax(1) == targets[1500:]).double().mean().item()


stream = batches()
plan = decompose(model, inputs[:4])  # +
with join(plan, deal=Perm(WORLD), seed=0) as session:  # +
    if RANK == 0:
        print(f"round 0: loss {cross_entropy(model(inputs[:1500]), targets[:1500]):.4f}")
    for sub in session.rounds(ROUNDS):  # +
        step_size = 0.1 * (1 - session.k / ROUNDS)
        optimizer = torch.optim.SGD(sub.parameters(), lr=step_size, momentum=0.9)
        session.carry(optimizer)  # +
        for _ in range(STEPS):
            batch, truth = next(stream)
            with torch.autocast("cpu", torch.bfloat16, enabled=False):
                loss = cross_entropy(sub(batch), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model = session.model()  # +
    if model is not None:  # +
        torch.save(model.state_dict(), "model.pt")
        print(f"accuracy {accuracy(model):.1%}, {session.bytes_sent} bytes sent by rank 0")
