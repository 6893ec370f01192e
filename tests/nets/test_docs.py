"""The examples of docs/cut-your-own-model.md run, and are as short as it says."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "cut-your-own-model.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["resnet", "rule"])
def test_an_example_of_the_page_runs(example, capsys):
    torch.manual_seed(0)
    names = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)
    assert names["plan"].exact
    if "table" in example:
        said = capsys.readouterr().out
        assert "1.conv1" in said or "1.channels(16)" in said
        assert re.search(r"parameters +\d", said)


def test_the_user_of_a_resnet_writes_less_than_25_lines():
    steps = EXAMPLES[0].split("images, labels", 1)[1]
    assert len([line for line in steps.splitlines() if line.strip()]) < 25
