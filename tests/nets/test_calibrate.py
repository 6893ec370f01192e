"""Batch statistics of the merged model."""

import torch
from torch import nn

from subnetwork.nets import MLP, initial_state, recalibrate
from subnetwork.nets.architecture import runnable


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
