"""Text as rows of characters, each with the next character as its target."""

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from subnetwork import files
from subnetwork.nets.data.sets import DataSet

LENGTH = 64  # characters in a row
SIZES = {"tinyshakespeare": 1_115_394}


@lru_cache(maxsize=2)
def tiny_shakespeare(length: int = LENGTH) -> DataSet:
    """1.1 million characters of Shakespeare; the last tenth is the test set."""
    without = "digits, which comes with scikit-learn"
    path = files.found("tinyshakespeare", ["tinyshakespeare.txt"], ["text"], "the text", without)
    characters = files.text(path)
    if len(characters) != SIZES["tinyshakespeare"]:
        raise ValueError(
            f"{path} has {len(characters)} characters, but {SIZES['tinyshakespeare']} were "
            "expected: it is cut off, or another version. Fetch the file again."
        )
    return text_set("tinyshakespeare", characters, length)


def text_set(name: str, characters: str, length: int = LENGTH) -> DataSet:
    """Any text: rows of `length` characters in their order, the last tenth of them the test set.

    The target at each place is the next character; n_classes is the number of different ones.

    >>> rows = text_set("abc", "abcabcabcabc" * 4, length=4)
    >>> rows.train_inputs[0].tolist(), rows.train_targets[0].tolist()
    ([0, 1, 2, 0], [1, 2, 0, 1])

    Raises:
        ValueError: fewer than ten rows.
    """
    alphabet = {c: i for i, c in enumerate(sorted(set(characters)))}
    tokens = torch.tensor([alphabet[c] for c in characters])
    n_rows = (len(tokens) - 1) // length
    if n_rows < 10:
        raise ValueError(
            f"{name} has {len(tokens)} characters, which make {n_rows} rows of {length}. Use a "
            f"text of {10 * length + 1} characters or more, or shorter rows."
        )
    inputs, targets = (_rows(tokens[shift:], n_rows, length) for shift in (0, 1))
    split = n_rows - n_rows // 10
    return DataSet(
        name, inputs[:split], targets[:split], inputs[split:], targets[split:], len(alphabet)
    )


def _rows(tokens: Tensor, n_rows: int, length: int) -> Tensor:
    return tokens[: n_rows * length].reshape(n_rows, length)


TEXTS: Mapping[str, Callable[[int], DataSet]] = {"tinyshakespeare": lambda _: tiny_shakespeare()}
