"""`subnetwork lab`: experiments beside theorems, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import staged
from subnetwork.cli.outcomes import print_outcomes
from subnetwork.experiments.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured, and on what; what is left out is the experiment's own choice."""

    problem: str | None = None
    """Quadratics, such as breast_cancer, gaussian or trig; see `lab list`."""
    workers: int | None = None
    """Workers n; the problem's own number if it is left out."""
    rounds: int | None = None
    """Rounds K, or the largest horizon."""
    seeds: int | None = None
    """Runs to average over."""
    seed: int | None = None
    """The seed of these runs' seeds."""
    sketch: str | None = None
    """The sketch of the experiment study; see `lab list`."""
    step_size: float | None = None
    """Step size gamma; the largest that the theorem allows if it is left out."""
    data: str | None = None
    """A table such as a9a, in the folder that SUBNETWORK_DATA names."""
    threads: int | None = None
    """Threads that share the seeds; they change no number."""

    def __post_init__(self) -> None:
        for name in ("rounds", "seeds", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is a whole number from 1 on, not {value}.")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is a whole number from 0 to 2**64 - 1, not {self.seed}.")

    def options(self) -> dict[str, Any]:
        """What was said, by the names that experiments use."""
        said = {
            "problem": self.problem,
            "workers": self.workers,
            "n_rounds": self.rounds,
            "n_seeds": self.seeds,
            "seed": self.seed,
            "sketch": self.sketch,
            "step_size": self.step_size,
            "data": self.data,
            "n_threads": self.threads,
        }
        return {key: value for key, value in said.items() if value is not None}


def run(
    experiment: str = "neighbourhood",
    *,
    measurement: Annotated[Measurement | None, Parameter(name="*")] = None,
    out: Path = Path("runs/lab"),
) -> int:
    """Run one experiment: measured, exact and proven.

    Writes the record and a page. The exit status is 1 if a claim did not hold.

    Parameters
    ----------
    experiment:
        A name that `lab list` shows, or a TOML file with experiment = "..." and its options.
    measurement:
        What is measured; flags win over the file.
    out:
        The run's folder. An earlier run in it is replaced when this one is complete.
    """
    from subnetwork import report
    from subnetwork.cli.choices import chosen, found_by
    from subnetwork.experiments import evidence
    from subnetwork.experiments.outcome import write_claims

    name, options = chosen(experiment, (measurement or Measurement()).options())
    with staged(out) as folder:
        found = found_by(name, options)
        evidence.write(folder, found)
        write_claims(folder, found.outcomes, seed=int(options.get("seed", 0)))
        report.write(folder, called=out)
    console = Output()
    print_outcomes(console, found.outcomes)
    say(console, f"wrote {out}/{found.name}.jsonl and {out}/report.html")
    return _status(found.outcomes)


def listing() -> int:
    """Print the experiments, problems, sketches, methods and theorems, one line each."""
    from subnetwork.cli.choices import catalogue

    console = Output()
    for kind, lines in catalogue().items():
        console.print(kind, style="bold", highlight=False)
        for name, line in lines.items():
            say(console, f"  {name:<22} {line}")
    return 0


def figure(
    experiment: str,
    *,
    measurement: Annotated[Measurement | None, Parameter(name="*")] = None,
    axis: str | None = None,
    out: Path | None = None,
) -> int:
    """Write the figure of an experiment, run now or read from its record.

    Parameters
    ----------
    experiment:
        A name that `lab list` shows, or the file of a record that `lab run` wrote (.jsonl).
    measurement:
        What is measured; says nothing to a record.
    axis:
        rounds, bits, bits_down, bits_up or work; the experiment's own if it is left out.
    out:
        The file, .svg or .png; NAME.svg if it is left out.
    """
    from subnetwork.cli.choices import record_of
    from subnetwork.cli.drawing import check_file, write_figure

    said = (measurement or Measurement()).options()
    path = out or Path(f"{Path(experiment).stem}.svg")
    check_file(path)
    write_figure(record_of(experiment, said), path, axis)
    say(Output(), f"wrote {path}")
    return 0


def sweep(file: Path, *, workers: int = 1, out: Path = Path("runs/sweep")) -> int:
    """Run a grid of methods over seeds; what OUT holds already is not computed again.

    More seeds add units of work, more rounds continue the units that are there. An interrupted
    sweep leaves whole units only: run it again.

    Parameters
    ----------
    file:
        TOML: problem, [[method]] tables whose lists are grids, rounds, seeds, block, seed.
    workers:
        Processes.
    out:
        The store: a record and an .npz a unit.
    """
    from subnetwork.cli.choices import swept

    console = Output()
    units, computed = swept(file, workers, out, lambda line: say(console, line))
    say(console, f"{units} units in {out}; computed {computed} rounds of a seed")
    return 0


def verify(*, seed: int = 0) -> int:
    """Check the paper's equations against enumeration: printed, corrected, measured, verdict.

    The exit status is 1 if a statement does not hold, corrected where it had to be.

    Parameters
    ----------
    seed:
        Draws the point at which identities are checked.
    """
    from subnetwork.experiments.verify import verify as check

    outcomes = check(seed)
    console = Output()
    print_outcomes(console, outcomes)
    standing = sum(outcome.stands for outcome in outcomes)
    say(console, f"{standing} of {len(outcomes)} statements hold, corrected where said")
    return _status(outcomes)


def _status(outcomes: Sequence[Outcome]) -> int:
    """1 if a statement that speaks does not hold; a silent one is no failure."""
    return int(any(outcome.verdict != "silent" and not outcome.stands for outcome in outcomes))
