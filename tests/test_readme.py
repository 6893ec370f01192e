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
        (EXAMPLES[1], r"measured (\d+\.\d+) <= bound (\d+\.\d+)\ntightened (\d+\.\d+), floor"),
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
