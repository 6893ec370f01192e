"""The examples of the pages on cutting run as they stand, and are as short as the pages say."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("cut-your-own-model", "exactness", "add-a-layer-rule")
EXAMPLES = {
    f"{page}-{number}": example
    for page in PAGES
    for number, example in enumerate(
        re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), flags=re.DOTALL)
    )
}
OWN = [name for name in EXAMPLES if name.startswith("cut-your-own-model")]
OTHERS = ("transformers", "torch_geometric")


def run(name):
    example = EXAMPLES[name]
    missing = [p for p in OTHERS if f"from {p}" in example and find_spec(p) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    torch.manual_seed(0)
    names = {"__name__": "example"}
    exec(compile(example, name, "exec"), names)
    return names


def marked(name):
    """Warnings of other packages are theirs."""
    foreign = any(f"from {package}" in EXAMPLES[name] for package in OTHERS)
    return pytest.param(name, marks=[pytest.mark.filterwarnings("ignore")] * foreign)


@pytest.mark.parametrize("name", [marked(name) for name in EXAMPLES])
def test_an_example_runs(name, capsys):
    names = run(name)
    assert "plan" not in names or names["plan"].exact or "inexact=True" in EXAMPLES[name]
    said = capsys.readouterr().out
    if "print(plan)" in EXAMPLES[name] and "table" in EXAMPLES[name]:
        assert "1.conv1" in said or "1.channels(16)" in said
    if "table" in EXAMPLES[name]:
        assert re.search(r"parameters +\d", said)
    if "refusal" in EXAMPLES[name]:
        assert "op renorm is not understood" in said


def test_depth_of_the_page_is_what_it_says():
    (name,) = [n for n in OWN if "WarmUp" in EXAMPLES[n]]
    names = run(name)
    held = [len(part.held_units["blocks"]) for part in names["parts"]]
    assert held == [2] * 4
    assert len(names["plan"].blocks) == 5


def test_users_write_less_than_25_lines():
    for number, name in enumerate(OWN):
        steps = EXAMPLES[name]
        if number == 0:  # the network is the user's own
            steps = steps.split("images, labels", 1)[1]
        assert len([line for line in steps.splitlines() if line.strip()]) < 25


def test_the_tests_that_a_page_names_are_there():
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "exactness.md").read_text()))
    assert len(named) > 12
    files = (DOCS.parent / "tests").rglob("test_*.py")
    there = {name for f in files for name in re.findall(r"^def (test_\w+)", f.read_text(), re.M)}
    assert named <= there
