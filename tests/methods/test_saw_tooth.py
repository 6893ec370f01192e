"""The saw-tooth of masked neurons: its verdicts, its rows, and what it says without torch."""

import sys
from pathlib import Path

import numpy as np
import pytest

from subnetwork.cli import main
from subnetwork.experiments.registry import run_named
from subnetwork.experiments.saw_tooth import Setting, course
from subnetwork.figures.curves import curves
from subnetwork.record import Record

SMALL = {"n_rounds": 6, "n_seeds": 2, "n_workers": 3, "n_steps": 6, "neurons": 128, "n_rows": 12}


def test_the_loss_falls_within_rounds_and_jumps_between_them():
    found = run_named("saw_tooth", SMALL)
    assert {outcome.claim: outcome.verdict for outcome in found.outcomes} == {
        outcome.claim: "holds" for outcome in found.outcomes
    }
    assert len(found.outcomes) == 6
    for name in ("keep 0.5", "keep 0.8", "no masks"):
        rows = [row for row in found.rows if row["curve"] == name]
        assert [row["step"] for row in rows] == [6 * k + t for k in range(6) for t in range(7)]
        jumps = [
            b["measured"] - a["measured"] for a, b in zip(rows[6::7], rows[7::7], strict=False)
        ]
        assert (sum(jumps) > 0.1) == (name != "no masks")
    header = {"kind": "lab", "name": found.name, "config": dict(found.config)}
    figure = curves(Record(header, tuple(found.rows), "done", Path()))
    assert figure.axes[0].get_xlabel() == "local steps"


def test_without_masks_it_is_gradient_descent_by_hand():
    import torch

    from subnetwork.nets import decompose, initial_state
    from subnetwork.nets.models import MaskedReLU

    setting = Setting(n_rounds=2, n_workers=2, n_steps=3, neurons=32, n_rows=8, step_size=0.4)
    generator = torch.Generator().manual_seed(5)
    x = torch.nn.functional.normalize(torch.randn(8, 10, generator=generator))
    y = torch.randn(8, 1, generator=generator)
    start = initial_state(decompose(MaskedReLU(10, 32, 1), x, verify=False), seed=5).params
    W, signs = start["up.weight"].clone().requires_grad_(), start["signs"]
    losses = []
    for _ in range(7):
        loss = (torch.relu(x @ W.T) @ signs.T / 32**0.5 - y).square().mean()
        losses.append(loss.item())
        (slope,) = torch.autograd.grad(loss, W)
        W.data -= 0.4 * slope
    np.testing.assert_allclose(course(setting, 1.0, 5)[0], losses[:4], rtol=1e-4)
    np.testing.assert_allclose(course(setting, 1.0, 5)[1], losses[3:], rtol=1e-4)


def test_without_torch_the_lab_says_so_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["lab", "figure", "saw_tooth", "--rounds", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("needs torch, which is not installed: pip install 'subnetwork[train]'")
    assert main(["lab", "list"]) == 0
    assert "saw_tooth" in capsys.readouterr().out


def test_sizes_that_measure_nothing_are_refused():
    with pytest.raises(ValueError, match="n_seeds >= 2"):
        run_named("saw_tooth", {**SMALL, "n_seeds": 1})
