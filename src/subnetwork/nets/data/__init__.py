"""Data sets by name, their readers, and every worker's batches."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from subnetwork.nets.data.batches import Batches, Feed, Inputs, batches_of
from subnetwork.nets.data.graphs import GRAPHS, GraphBatches, GraphSet
from subnetwork.nets.data.pictures import PICTURES
from subnetwork.nets.data.sets import DataSet
from subnetwork.nets.data.tables import TABLES
from subnetwork.nets.data.texts import TEXTS, text_set

__all__ = [
    "DATA",
    "Batches",
    "DataSet",
    "Feed",
    "GraphBatches",
    "GraphSet",
    "Inputs",
    "batches_of",
    "graph",
    "load",
    "text_set",
]

Load: TypeAlias = Callable[[int], DataSet]
DATA: Mapping[str, Load] = {**PICTURES, **TABLES, **TEXTS}
"""Sets of rows by name; the integer is the seed of a split that the set does not have itself."""


def load(name: str, seed: int = 0) -> DataSet:
    """The set of rows of that name; raises ValueError with the known names for another one."""
    if name in GRAPHS:
        raise ValueError(
            f"{name} is a graph, not a set of rows: use graph({name!r}), or one of "
            f"{', '.join(DATA)}."
        )
    if name not in DATA:
        raise ValueError(
            f"There is no data set {name!r}. Known are: {', '.join((*DATA, *GRAPHS))}; on data of "
            "your own a model trains by `join` (docs/join.md)."
        )
    return DATA[name](seed)


def graph(name: str, seed: int = 0) -> GraphSet:
    """The graph of that name; raises ValueError with the known names for another one."""
    if name not in GRAPHS:
        raise ValueError(f"There is no graph {name!r}. Known are: {', '.join(GRAPHS)}.")
    return GRAPHS[name](seed)
