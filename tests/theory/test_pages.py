"""The pages 'add a sketch', 'a theorem', 'a problem', 'a deal', followed literally, in order."""

import re
from pathlib import Path

import numpy as np
import pytest

import subnetwork

DOCS = Path(subnetwork.__file__).parents[2] / "docs"


def followed(page, monkeypatch):
    monkeypatch.setattr("subnetwork.theory.study.LISTED", 100)
    names = {"__name__": page}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not installed")
def test_add_a_sketch(monkeypatch, capsys):
    names = followed("add-a-sketch.md", monkeypatch)
    assert "Moments from 100 draws" in capsys.readouterr().out
    last = names["gaps"][-1, 0]
    assert names["floor"] > 0
    assert abs(last / names["floor"] - 1) < 0.5
    assert np.isfinite(names["closed"].G).all()


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not installed")
def test_add_a_theorem(monkeypatch):
    names = followed("add-a-theorem.md", monkeypatch)
    assert 0 < names["theorem"].rate(0.1) < 1


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not installed")
def test_add_a_problem(monkeypatch, capsys):
    names = followed("add-a-problem.md", monkeypatch)
    assert "(22)-(24)" in capsys.readouterr().out
    assert names["rows"].dim == names["margin"].dim == 6
    assert names["reached"] < 1e-2 < np.linalg.norm(names["quartic"].gradient(np.zeros(6)))


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not installed")
def test_add_a_deal(monkeypatch):
    names = followed("add-a-deal.md", monkeypatch)
    for k in range(20):
        hands = names["Windows"](3).hands(9, seed=1, k=k)
        assert sorted(np.concatenate(hands).tolist()) == list(range(9))
        assert all(set(np.diff(hand)) <= {1, 7, 8} for hand in hands)  # neighbours on a circle
    assert names["gaps"]["Windows"] == pytest.approx(names["floor"], rel=0.1)
    assert names["losses"][-1] < 0.6 * names["losses"][0]
