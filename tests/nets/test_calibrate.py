"""Batch statistics of the merged model."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from subnetwork.nets import MLP, accuracy, initial_state, recalibrate
from subnetwork.nets.architecture import runnable
from subnetwork.nets.calibrate import CHANNELS


def model_and_rows():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(101, 6, generator=generator) * 3 + 1
    architecture = MLP(6, (8, 5), 3)
    return runnable(architecture, initial_state(architecture, seed=1)), rows


def test_statistics_are_those_of_one_batch_of_all_rows_whatever_the_stream():
    """In one batch holding every row, train mode and the recalibrated model normalise alike."""
    for size in (101, 32, 7, 1):
        model, rows = model_and_rows()
        recalibrate(model, lambda rows=rows, size=size: rows.split(size))
        norm = model[1]
        inputs = model[0](rows)
        torch.testing.assert_close(norm.running_mean, inputs.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norm.running_var, inputs.var(0), rtol=1e-5, atol=1e-5)
        second = model[:3](rows)
        torch.testing.assert_close(
            model[4].running_mean, model[3](second).mean(0), rtol=1e-5, atol=1e-5
        )


def test_the_merged_model_predicts_the_same_at_any_test_batch_size():
    """The released IST has no inference model: its accuracy depends on the test batch."""
    model, rows = model_and_rows()
    recalibrate(model, lambda: rows.split(16))
    assert not any(m._forward_pre_hooks for m in model.modules())
    whole = model(rows)
    for size in (1, 2, 50):
        torch.testing.assert_close(torch.cat([model(part) for part in rows.split(size)]), whole)


def test_convolutional_normalisation_pools_over_positions():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    pictures = torch.randn(20, 2, 6, 6)
    recalibrate(model, lambda: pictures.split(6))
    expected = model[0](pictures).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, expected.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, expected.var(1), rtol=1e-5, atol=1e-5)


class Counting(nn.Module):
    """Counts its calls; a module that is called twice normalises twice by the same statistics."""

    def __init__(self, times: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.BatchNorm1d(6) for _ in range(3))
        self.order = [0, 1, 2] * times
        self.passes, self.calls = 0, 0

    def forward(self, x):
        self.passes += 1
        for i in self.order:
            self.calls += 1
            x = self.norms[i](x).relu() + x
        return x


def test_one_batch_is_read_once_and_several_as_far_as_the_layer_that_is_set():
    """And once more, to see the order of the layers; with the same statistics."""
    rows = torch.randn(40, 6)
    whole, parts = Counting(1), Counting(1)
    recalibrate(whole, lambda: [rows])
    recalibrate(parts, lambda: rows.split(20))
    assert (whole.passes, whole.calls) == (2, 6)
    assert (parts.passes, parts.calls) == (1 + 3 * 2, 3 + 2 * (1 + 2 + 3))
    for one, other in zip(whole.norms, parts.norms, strict=True):
        torch.testing.assert_close(one.running_mean, other.running_mean)
        torch.testing.assert_close(one.running_var, other.running_var)


def test_instance_normalisation_gathers_means_over_instances():
    """What torch itself gathers of one batch with momentum 1."""
    torch.manual_seed(0)
    pictures = torch.randn(7, 3, 5, 5) * 2 + 1
    norm = {"affine": True, "track_running_stats": True}
    for first, rows in (
        (nn.Conv2d(3, 4, 3), pictures),
        (nn.Flatten(2), pictures),
        (nn.Identity(), pictures.flatten(2)[0]),  # one instance, without a batch
    ):
        kind = nn.InstanceNorm2d if isinstance(first, nn.Conv2d) else nn.InstanceNorm1d
        norms = [kind(4 if kind is nn.InstanceNorm2d else 3, momentum=1, **norm) for _ in range(2)]
        ours, theirs = (nn.Sequential(first, one) for one in norms)
        theirs.train()(rows)
        for size in (7, 3):  # channels of the single instance stay together
            recalibrate(ours, lambda rows=rows, size=size: rows.split(size))
            torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean)
            torch.testing.assert_close(norms[0].running_var, norms[1].running_var)


def test_a_normalisation_that_is_called_twice_pools_over_both_calls():
    rows = torch.randn(40, 6)
    whole, parts = Counting(2), Counting(2)
    recalibrate(whole, lambda: [rows])
    recalibrate(parts, lambda: rows.split(8))
    for one, other in zip(whole.norms, parts.norms, strict=True):
        torch.testing.assert_close(one.running_mean, other.running_mean)
    assert not torch.allclose(whole.norms[0].running_mean, rows.mean(0))  # the second call counts


def test_more_channels_than_are_pooled_at_a_time():
    model, rows = nn.Sequential(nn.BatchNorm1d(CHANNELS + 3)), torch.randn(9, CHANNELS + 3)
    recalibrate(model, lambda: rows.split(4))
    torch.testing.assert_close(model[0].running_mean, rows.mean(0))
    torch.testing.assert_close(model[0].running_var, rows.var(0))


@dataclass
class Rows:
    """Stands for a graph object: one argument that is no tensor."""

    x: torch.Tensor
    y: torch.Tensor


class Takes(nn.Module):
    """Takes its rows in one way, and normalises by keyword."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b, self.way = (
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 3),
            way,
        )

    def forward(self, *args, **kwargs):
        x = {"tuple": lambda a, b: a * b, "dict": lambda x, times: x * times,
             "object": lambda g: g.x * g.y}[self.way](*args, **kwargs)  # fmt: skip
        return self.b(self.norm(input=self.a(x)))


@pytest.mark.parametrize("way", ["tuple", "dict", "object"])
def test_batches_are_whatever_the_model_takes(way):
    """Tuples, dicts and objects give what the same rows give as one tensor."""
    rows, times = torch.randn(30, 6), torch.rand(30, 1) + 1
    made = {"tuple": lambda a, b: (a, b), "dict": lambda a, b: {"x": a, "times": b}, "object": Rows}

    def stream():
        return map(made[way], rows.split(7), times.split(7))

    model, plain = Takes(way), Takes("tuple")
    recalibrate(model, stream)
    recalibrate(plain, lambda: [(rows, times)])
    torch.testing.assert_close(model.norm.running_mean, plain.norm.running_mean)
    torch.testing.assert_close(model.norm.running_var, plain.norm.running_var)
    targets = plain(rows, times).argmax(1)
    targets[:10] = (targets[:10] + 1) % 3
    before = model.norm.running_mean.clone()
    found = accuracy(model.train(), made[way](rows, times), targets)
    assert found == pytest.approx(20 / 30)
    assert torch.equal(model.norm.running_mean, before)  # it tests, and gathers no statistics
    targets[:10] = -100  # count nowhere
    assert accuracy(model, made[way](rows, times), targets) == 1


def test_scores_may_come_as_the_logits_of_an_output():
    """As transformers' models return them."""

    class Wrapped(nn.Module):
        def forward(self, x):
            return SimpleNamespace(logits=x)

    assert accuracy(Wrapped(), torch.eye(4), torch.tensor([0, 1, 2, 2])) == 0.75


def test_streams_that_cannot_be_read_are_refused_and_leave_no_hook():
    model, rows = model_and_rows()
    loader = [(rows[:50], torch.zeros(50)), (rows[50:], torch.zeros(51))]
    with pytest.raises(ValueError, match=r"function that begins anew, not a list\. Pass lambda"):
        recalibrate(model, loader)
    with pytest.raises(ValueError, match=r"A tuple of 2 is all its arguments; leave targets out"):
        recalibrate(model, lambda: loader)
    with pytest.raises(ValueError, match="stream without a batch"):
        recalibrate(model, list)
    with pytest.raises(ValueError, match="does not take the batches"):
        recalibrate(model, lambda: [rows, loader[0]])  # the second one
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match=r"for targets \(4,\), but the model returned \(101, 3\)"):
        accuracy(model, rows, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="returned tuple. Wrap it"):
        accuracy(nn.LSTM(6, 3), rows, torch.zeros(101, dtype=torch.int64))
