"""A network tested while its parameters pass by is the network: all numbers to the bit."""

import threading
import weakref

import pytest
import torch
from torch import nn
from zoo import ZOO, zoo

from subnetwork.nets.calibrate import recalibrate
from subnetwork.nets.copying import copied
from subnetwork.nets.evaluate import scores
from subnetwork.nets.hollow import hollowed
from subnetwork.nets.models.gpt import GPT
from subnetwork.nets.passing import passing_scores
from subnetwork.nets.widest import side_by_side

FAST = ("multi_head", "encoder")
"""torch's own attention takes another way where nobody looks: the same up to rounding."""


class Passing:
    """Gives a model's values by name, notes which, and which are still there at the next call."""

    def __init__(self, model):
        self.values = {name: p.detach() for name, p in model.named_parameters()}
        self.names, self.given, self.most = [], [], 0

    def __call__(self, names):
        self.most = max(self.most, sum(ref() is not None for ref in self.given))
        self.names += names
        found = {name: self.values[name].clone() for name in names}
        self.given = [weakref.ref(value) for value in found.values()]
        return found


def mean_square(outputs, targets):
    return outputs.square().mean() + targets.sum()


def shifted(batch, by):
    """Another batch of the same kind."""
    if isinstance(batch, tuple):
        return tuple(shifted(each, by) for each in batch)
    return batch.roll(by, 0) if not batch.is_floating_point() else batch + by / 4


def compare(model, batch, n_seen=3, *, rounded=False):
    """Both ways, in two test batches; returns what passed."""
    seen = [shifted(batch, by) for by in range(n_seen)]
    tested = [shifted(batch, by) for by in (5, 6)]
    with torch.no_grad():
        like = model.eval()(*batch if isinstance(batch, tuple) else (batch,))
    pairs = [(each, torch.zeros(like.shape[:-1], dtype=torch.long)) for each in tested]
    hollow, passing, n_threads = hollowed(model), Passing(model), threading.active_count()
    found = passing_scores(hollow, passing, seen, pairs, mean_square)
    assert threading.active_count() == n_threads
    assert all(p.is_meta for p in hollow.parameters())
    whole = recalibrate(copied(model), lambda: seen)
    like = scores(whole, pairs, mean_square)
    assert found.accuracy == like.accuracy
    assert found.loss == (pytest.approx(like.loss, rel=1e-6) if rounded else like.loss)
    for (name, one), (same, other) in zip(
        whole.named_buffers(), hollow.named_buffers(), strict=True
    ):
        assert name == same
        assert torch.equal(one.to_dense(), other.to_dense()), name
    return passing


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_network_is_tested_to_the_bit(name):
    compare(*zoo(name), rounded=name in FAST)


def test_one_batch_is_calibrated_as_one():
    compare(*zoo("resnet"), n_seen=1)


@pytest.mark.parametrize("make", [lambda: zoo("mlp"), lambda: (gpt(), torch.arange(24).view(3, 8))])
def test_every_parameter_passes_once_and_is_gone_when_the_next_one_comes(make):
    torch.manual_seed(0)
    model, batch = make()
    passing = compare(model, batch)
    assert sorted(passing.names) == sorted(dict(model.named_parameters()))
    assert passing.most == 0


def gpt():
    return GPT(vocabulary=24, length=8, width=8, heads=2, blocks=2, dropout=0.5)


def test_tied_parameters_go_by_their_first_name():
    model, batch = zoo("tied")
    assert set(compare(model, batch).names) <= set(dict(model.named_parameters()))


def test_what_batches_take_side_by_side_is_told_from_shapes():
    """Beside the largest of them, the widest tensor of the others: 64 numbers a row here."""
    model = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 7)).to("meta")
    rows = [torch.zeros(10, 5), torch.zeros(4, 5), torch.zeros(10, 5)]
    assert side_by_side(model, rows) == 14 * 64 * 4
    assert side_by_side(model, iter(rows[:1])) == 0
    assert side_by_side(gpt().to("meta"), [torch.arange(24).view(3, 8)] * 3) >= 2 * 24 * 32 * 4


def test_statistics_of_no_batch_are_refused():
    with pytest.raises(ValueError, match="without a batch"):
        passing_scores(hollowed(Twice()), Passing(Twice()), [], [], mean_square)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.norm(self.norm(x)))


class Unlike(Twice):
    """Normalises batches of more than four rows alone."""

    def forward(self, x):
        return self.head(self.norm(x) if len(x) > 4 else x)


class Failing(Twice):
    def forward(self, x):
        raise RuntimeError(f"fails at {len(self.norm(x))} rows")


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (Twice, ValueError, "run twice"),
        (Unlike, ValueError, "by test batches"),
        (Failing, RuntimeError, "fails at"),
    ],
)
def test_what_cannot_be_tested_so_is_said_and_no_thread_stays(kind, error, words):
    model, n_threads = kind(), threading.active_count()
    pairs = [(torch.randn(6, 4), torch.zeros(6, dtype=torch.long))]
    seen = [torch.randn(4, 4), torch.randn(4, 4)]
    with pytest.raises(error, match=words):
        passing_scores(hollowed(model), Passing(model), seen, pairs, mean_square)
    assert threading.active_count() == n_threads


def test_a_fetch_that_fails_ends_all_batches():
    def lost(names):
        raise ConnectionError(names)

    model, batch = zoo("mlp")
    n_threads = threading.active_count()
    with pytest.raises(ConnectionError):
        passing_scores(hollowed(model), lost, [batch], [(batch, torch.zeros(7))], mean_square)
    assert threading.active_count() == n_threads
