"""What the lab's commands were asked for, found: experiments, problems, records, sweeps."""

import multiprocessing
import signal
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from subnetwork.experiments.evidence import Evidence, write
from subnetwork.experiments.registry import EXPERIMENTS, experiment_named, run_named
from subnetwork.experiments.sweep import Unit, read_sweep, run_sweep
from subnetwork.record import Record, read
from subnetwork.theory.data import LIBSVM
from subnetwork.theory.declared import DECLARED, Declared
from subnetwork.theory.method_table import METHODS
from subnetwork.theory.minima import GapOfMinima
from subnetwork.theory.prior_work import BoundedGradient, CompressedIterates, NonConvexSGD
from subnetwork.theory.problems import OTHER_PROBLEMS, PROBLEMS, problem_named
from subnetwork.theory.special_cases import gradient_descent, heterogeneous, homogeneous, perm1
from subnetwork.theory.theorem_a import TheoremA
from subnetwork.theory.theorems import Neighbourhood, StationaryPoints

FLAGS = {"rounds": "n_rounds", "seeds": "n_seeds", "threads": "n_threads"}


def chosen(experiment: str, said: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The experiment's name and options: its defaults, under its file's, under what was said.

    Raises:
        ValueError: no such experiment or file, or a file without an experiment.
    """
    from_file: dict[str, Any] = {}
    name = experiment
    if experiment.endswith(".toml"):
        name, from_file = _from_file(Path(experiment))
    defaults = experiment_named(name).defaults or {}
    return name, {**defaults, **from_file, **said}


def found_by(name: str, options: Mapping[str, Any]) -> Evidence:
    """Run an experiment; a problem is named, and remembered by its name in the record."""
    experiment = experiment_named(name)
    given = dict(options)
    takes = experiment.options
    problem, workers = given.pop("problem", None), given.pop("workers", None)
    if workers is not None and "n_workers" in takes:
        given["n_workers"] = workers
    elif workers is not None and problem is None:
        raise ValueError(f"The experiment {name} has its own workers. Name a --problem as well.")
    if problem is None:
        return run_named(name, given)
    if "problem" not in takes:
        raise ValueError(
            f"The experiment {name} makes its own problem. Leave --problem out; it takes: "
            f"{', '.join(takes)}."
        )
    table = dict(problem) if isinstance(problem, dict) else {"name": problem}
    more = {key: value for key, value in table.items() if key != "name"}
    build = problem_named(str(table.get("name")))
    made = build(**more) if workers is None else build(n_workers=workers, **more)
    found = run_named(name, {"problem": made, **given})
    return replace(found, config={**found.config, "problem": problem})


def record_of(experiment: str, said: Mapping[str, Any]) -> Record:
    """The record of an experiment: of that file, or of a run of that name now."""
    if experiment.endswith(".jsonl"):
        path = Path(experiment)
        if not path.is_file():
            raise ValueError(f"there is no record {path}. `subnetwork lab run` writes records.")
        return read(path)
    name, options = chosen(experiment, said)
    found = found_by(name, options)
    with tempfile.TemporaryDirectory() as folder:
        return read(write(Path(folder), found))


def catalogue() -> dict[str, dict[str, str]]:
    """Names and what they are, in a line each."""
    problems = {**PROBLEMS, **OTHER_PROBLEMS}
    return {
        "experiments": {name: experiment.line for name, experiment in EXPERIMENTS.items()},
        "problems": {name: _first_line(name, build) for name, build in problems.items()},
        "sketches": {name: _of_sketch(row) for name, row in DECLARED.items()},
        "theorems": {name: _first_line(name, theorem) for name, theorem in THEOREMS.items()},
        "methods": {name: _first_line(name, build) for name, build in METHODS.items()},
    }


THEOREMS: Mapping[str, Any] = {
    "(18)-(19)": Neighbourhood,
    "(22)-(24)": StationaryPoints,
    "(25)-(26)": gradient_descent,
    "(27)-(28)": perm1,
    "(29)-(31)": homogeneous,
    "(32)-(34)": heterogeneous,
    "(20)": CompressedIterates,
    "(7), (21)": BoundedGradient,
    "non-convex SGD": NonConvexSGD,
    "A": TheoremA,
    "gap of minima": GapOfMinima,
}


def _of_sketch(row: Declared) -> str:
    """The formula of a declared sketch and what it promises."""
    promises = [word for word, kept in (("E C_i = I", row.unbiased),) if kept]
    promises += ["mean_i C_i = I"] if row.reconstructs else []
    return f"{row.formula}; {' and '.join(promises)}" if promises else row.formula


def swept(file: Path, workers: int, out: Path, say: Callable[[str], None]) -> tuple[int, int]:
    """Run a sweep on processes; how many units there are, and rounds of a seed were computed."""
    if workers < 1:
        raise ValueError(f"workers={workers} compute nothing. Use --workers 1 or more.")
    sweep = read_sweep(file)

    def executor() -> Executor:
        context = multiprocessing.get_context("spawn")  # a fork may hang where threads run
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts)

    def show(unit: Unit, computed: int) -> None:
        last = unit.first + unit.count - 1
        say(f"{unit.method['name']}, seeds {unit.first} to {last}: {computed} rounds of a seed")

    try:
        computed = run_sweep(sweep, out, executor, show=show)
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        line = f"interrupted; {out} holds whole units, run again to go on"
        raise KeyboardInterrupt(line) from None
    return len(list(sweep.units())), computed


def _leave_interrupts() -> None:
    """The parent is interrupted and ends its children: they do not print tracebacks themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _from_file(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"cannot read an experiment from {path}: {reason}. It holds lines like "
            'experiment = "bias_removal" and rounds = 300.'
        ) from None
    if "experiment" not in content:
        raise ValueError(
            f'{path} names no experiment. Add a line such as experiment = "bias_removal".'
        )
    name = str(content.pop("experiment"))
    return name, {FLAGS.get(key, key): value for key, value in content.items()}


def _first_line(name: str, build: Any) -> str:  # noqa: ANN401 - a function, or one with arguments
    if hasattr(build, "args"):
        kind = "Logistic regression" if name.startswith("logistic:") else "Least squares"
        rows = "; its rows are kept, for large d" if name.startswith("rows:") else ""
        table = name.rsplit(":", maxsplit=1)[-1]
        file = " (a file of SUBNETWORK_DATA)" if table in LIBSVM else ""
        return f"{kind} on {table}{rows}{file}."
    return str((build.__doc__ or "").splitlines()[0])
