"""The store of a sweep: one record a unit of work, named by its hash, and the states beside it.

A unit is (problem, method, block of seeds); rounds are no part of its name. HASH.jsonl holds a row
a mark, HASH-K.npz the states after its K rounds, from which more rounds continue. Both are put in
place by one move each, the states first, so that an interrupted sweep leaves whole units only.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subnetwork.files import UNREADABLE
from subnetwork.record import Record, Row, read, writing
from subnetwork.theory.methods import Cost

OF_FILES = (None, errno.EINVAL)  # of errors that a damaged archive raises: a place before its start


def unit_name(config: Mapping[str, Any]) -> str:
    """The name of a unit: 16 hexadecimal digits that depend on its config alone, in any order.

    >>> unit_name({"a": 1, "b": [2]}) == unit_name({"b": [2], "a": 1})
    True
    """
    text = json.dumps(config, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stored(store: Path, config: Mapping[str, Any]) -> Record | None:
    """The whole record of a unit, or None where there is none."""
    path = store / f"{unit_name(config)}.jsonl"
    if not path.is_file():
        return None
    record = read(path)
    return record if record.end == "done" else None


def rounds_of(record: Record | None) -> int:
    """How many rounds a record holds; -1 without a record."""
    return -1 if record is None else int(record.header["config"]["rounds"])


def keep(
    store: Path,
    config: Mapping[str, Any],
    rows: Sequence[Row],
    states: Mapping[str, np.ndarray[Any, Any]],
    n_rounds: int,
) -> None:
    """Put a unit in place of what was there: its states, then its record."""
    name = unit_name(config)
    arrays = store / f"{name}-{n_rounds}.npz"
    beside = store / f".{name}.{os.getpid()}"
    try:
        with beside.open("wb") as file:
            np.savez(file, **dict(states))  # type: ignore[arg-type]  # a name is no flag
        beside.replace(arrays)
        whole = {**config, "rounds": n_rounds}
        with writing(beside, kind="unit", name=name, config=whole) as add:
            for row in rows:
                add(row)
        beside.replace(store / f"{name}.jsonl")
    finally:
        beside.unlink(missing_ok=True)
    for old in store.glob(f"{name}-*.npz"):
        if old != arrays:
            old.unlink()


def states_of(
    store: Path,
    record: Record,
    n_seeds: int,
    like: Any,  # noqa: ANN401 - a method's state
) -> list[tuple[Any, Cost]] | None:
    """State and cost of each seed after the rounds of a record; None where their file is gone.

    Raises:
        ValueError: the file is damaged, or not of states as `like`.
    """
    path = store / f"{record.name}-{rounds_of(record)}.npz"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        return [_unpacked(str(place), arrays, like) for place in range(n_seeds)]
    except (*UNREADABLE, LookupError, TypeError) as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in OF_FILES:
            raise  # of this machine, not of the file
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}). Delete it: the unit is then "
            "computed again."
        ) from None


def packed(prefix: str, state: object, spent: Cost) -> dict[str, np.ndarray[Any, Any]]:
    """A state and its cost as arrays whose names begin with `prefix`."""
    parts = {"": state}
    if is_dataclass(state):
        parts = {f.name: getattr(state, f.name) for f in fields(state)}
    cost = np.array([spent.down, spent.up, spent.work], dtype=np.int64)
    arrays = {f"{prefix}.{name}": np.asarray(part) for name, part in parts.items()}
    return {**arrays, f"{prefix}.spent": cost}


def _unpacked(
    prefix: str,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    like: Any,  # noqa: ANN401 - a method's state
) -> tuple[Any, Cost]:
    """The state and cost that `packed` made arrays of; `like` is a state of the same method."""
    spent = Cost(*(int(value) for value in arrays[f"{prefix}.spent"]))
    if not is_dataclass(like) or isinstance(like, type):
        return arrays[f"{prefix}."], spent
    parts = {f.name: arrays[f"{prefix}.{f.name}"] for f in fields(like)}
    whole = {f.name for f in fields(like) if isinstance(getattr(like, f.name), int)}
    return type(like)(**{k: int(v) if k in whole else v for k, v in parts.items()}), spent
