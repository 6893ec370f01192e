"""README's examples run, and print what they promise."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(
    ("example", "promise"),
    [
        (EXAMPLES[0], r"9[5-9]\.\d%, 158016 bytes a round"),
        (EXAMPLES[3], r"measured (\d+\.\d+) <= bound (\d+\.\d+)\ntightened (\d+\.\d+), floor"),
    ],
    ids=["engine", "lab"],
)
def test_an_example_does_what_it_says(example, promise, capsys):
    assert len(example.splitlines()) <= 27
    exec(compile(example, str(README), "exec"), {})
    printed = re.search(promise, capsys.readouterr().out)
    assert printed
    values = [float(value) for value in printed.groups()]
    if values:
        measured, bound, tightened = values
        assert measured <= tightened <= bound


def test_the_lines_on_your_own_model_cut_one_and_merge_it(capsys):
    import torch
    from torch import nn

    from subnetwork import Perm, decompose

    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    names = {"decompose": decompose, "Perm": Perm, "model": model}
    before = {name: p.clone() for name, p in model.state_dict().items()}
    exec(EXAMPLES[1], names | {"example_batch": torch.randn(5, 6)})
    assert "12" in capsys.readouterr().out
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
