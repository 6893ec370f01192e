"""Sweeps: every method of a file on a problem, over any executor, computing nothing twice."""

import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from subnetwork.experiments.evidence import run_seeds
from subnetwork.experiments.runs import marks
from subnetwork.experiments.store import (
    keep,
    packed,
    rounds_of,
    states_of,
    stored,
)
from subnetwork.record import Row
from subnetwork.theory.method_table import method_named
from subnetwork.theory.methods import Cost, Method, course
from subnetwork.theory.problem import SolvedProblem
from subnetwork.theory.problems import any_problem_named

EXAMPLE = 'problem = {name = "trig"} and [[method]] tables with a name and a step_size'


@dataclass(frozen=True)
class Unit:
    """What one worker does at a time: a method on a problem, for a block of seeds."""

    problem: Mapping[str, Any]  # name and options
    method: Mapping[str, Any]  # name and options
    seed: int
    first: int  # of the block's seeds
    count: int
    rounds: int

    @property
    def config(self) -> dict[str, Any]:
        """Everything that its numbers depend on, but for the rounds."""
        block = [self.first, self.count]
        return {
            "problem": dict(self.problem),
            "method": dict(self.method),
            "seed": self.seed,
            "block": block,
        }


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file says it: a grid of methods on one problem."""

    problem: Mapping[str, Any]
    methods: tuple[Mapping[str, Any], ...]
    rounds: int
    seeds: int
    block: int
    seed: int

    def units(self) -> Iterator[Unit]:
        """All units; more seeds add some, more rounds change none of their names."""
        for method in self.methods:
            for first in range(0, self.seeds, self.block):
                yield Unit(self.problem, method, self.seed, first, self.block, self.rounds)


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's TOML file; a list among a method's options is a grid.

    Raises:
        ValueError: no such file, not TOML, a key that is missing or unknown, or seeds that are no
            whole number of blocks.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"cannot read a sweep from {path}: {reason}. It holds {EXAMPLE}."
        ) from None
    unknown = set(content) - {"problem", "method", "rounds", "seeds", "block", "seed"}
    if unknown or not {"problem", "method"} <= set(content):
        raise ValueError(
            f"{path} is no sweep: {_keys(unknown, content)}. A sweep holds {EXAMPLE}, and may "
            "hold rounds, seeds, block (seeds a unit) and seed."
        )
    block, seeds = int(content.get("block", 1)), int(content.get("seeds", 4))
    if block < 1 or seeds < 1 or seeds % block:
        raise ValueError(
            f"seeds={seeds} is no whole number of blocks of block={block} seeds. Use "
            f"seeds={max(1, -(-seeds // max(block, 1))) * max(block, 1)}."
        )
    problem = content["problem"]
    return Sweep(
        {"name": problem} if isinstance(problem, str) else problem,
        tuple(itertools.chain.from_iterable(map(_grid, content["method"]))),
        int(content.get("rounds", 200)),
        seeds,
        block,
        int(content.get("seed", 0)),
    )


def _keys(unknown: set[str], content: Mapping[str, Any]) -> str:
    if unknown:
        return f"it has the unknown key {min(unknown)!r}"
    return f"it has no {'problem' if 'problem' not in content else 'method'}"


def _grid(method: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The method once for every combination of the options that are lists."""
    lists = {key: value if isinstance(value, list) else [value] for key, value in method.items()}
    for values in itertools.product(*lists.values()):
        yield dict(zip(lists, values, strict=True))


def run_sweep(
    sweep: Sweep,
    store: Path,
    executor: Callable[[], Executor],
    *,
    show: Callable[[Unit, int], None] = lambda unit, computed: None,  # noqa: ARG005 - by name
) -> int:
    """Compute what the store lacks, and return how many rounds of a seed that were.

    Args:
        sweep: what is wanted.
        store: the folder of units; made where it does not exist.
        executor: makes one, of any library; called only where something is to be computed.
        show: called with every unit that was computed, and how many rounds of a seed that took.

    Raises:
        ValueError: a problem or a method is refused; nothing has been computed then.
    """
    for method in sweep.methods:
        _method(_problem(sweep.problem), method)  # refuses now what would fail later
    store.mkdir(parents=True, exist_ok=True)
    lacking = [u for u in sweep.units() if rounds_of(stored(store, u.config)) < u.rounds]
    if not lacking:
        return 0
    total = 0
    with executor() as workers:
        jobs = {workers.submit(run_unit, unit, store): unit for unit in lacking}
        try:
            for job in as_completed(jobs):
                total += job.result()
                show(jobs[job], job.result())
        except BaseException:  # Ctrl-C too; it goes on up
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return total


def run_unit(unit: Unit, store: Path) -> int:
    """Compute a unit, or go on from where it stands; returns how many rounds of a seed it took."""
    problem = _problem(unit.problem)
    method = _method(problem, unit.method)
    record = stored(store, unit.config)
    if record is not None and rounds_of(record) >= unit.rounds:
        return 0
    states = None if record is None else states_of(store, record, unit.count, method.state)
    start = rounds_of(record) if states is not None else 0
    old: list[Row] = []
    if record is not None and states is not None:
        old = [row for row in record.rows if row["k"] in set(marks(unit.rounds))]
    at = set(marks(unit.rounds)) - {row["k"] for row in old}
    columns: list[list[tuple[int, float, Cost]]] = []
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    seeds = run_seeds(unit.seed, unit.first + unit.count)[unit.first :]
    for place, seed in enumerate(seeds):
        begun, spent = method, Cost()
        if states is not None:
            state, spent = states[place]
            begun = replace(method, state=state)
        column: list[tuple[int, float, Cost]] = []
        with np.errstate(over="ignore", invalid="ignore"):  # a run may diverge: its gaps are null
            for point in course(begun, seed=seed, n_rounds=unit.rounds, start=start, spent=spent):
                if point.k in at:
                    gap = problem.gap(method.model(point.state))
                    column.append((point.k, gap, point.spent))
        arrays |= packed(str(place), point.state, point.spent)
        columns.append(column)
    new = [_row(cells) for cells in zip(*columns, strict=True)]
    keep(store, unit.config, [*old, *new], arrays, unit.rounds)
    return len(seeds) * (unit.rounds - start)


def _row(cells: Sequence[tuple[int, float, Cost]]) -> Row:
    """One row a mark: the gap of every seed, and what the first one has spent."""
    k, _, cost = cells[0]
    return {
        "k": k,
        "gap": [gap for _, gap, _ in cells],
        "bits_down": cost.bits_down,
        "bits_up": cost.bits_up,
        "work": cost.work,
    }


def _problem(config: Mapping[str, Any]) -> SolvedProblem:
    options = {key: value for key, value in config.items() if key != "name"}
    if "name" not in config:
        raise ValueError(f"The problem {dict(config)} has no name. A sweep holds {EXAMPLE}.")
    try:
        problem = any_problem_named(config["name"])(**options)
    except TypeError as reason:
        raise ValueError(f"The problem {config['name']} refuses an option: {reason}.") from None
    if not hasattr(type(problem), "gap"):  # isinstance would read its properties, and so solve it
        raise ValueError(
            f"The problem {config['name']} has no known minimiser to measure f - f* from. Use trig."
        )
    return cast(SolvedProblem, problem)


def _method(problem: SolvedProblem, config: Mapping[str, Any]) -> Method[Any]:
    options = {key: value for key, value in config.items() if key != "name"}
    return method_named(str(config.get("name")), problem, np.ones(problem.dim), **options)
