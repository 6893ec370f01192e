"""`subnetwork lab`: theorems beside measurements, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import staged
from subnetwork.cli.outcomes import print_outcomes
from subnetwork.experiments.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured of a theorem, and on what."""

    problem: str = "breast_cancer"
    """Quadratics: breast_cancer, gaussian or trig."""
    workers: int | None = None
    """Workers n; the problem's own number if it is left out."""
    rounds: int = 1000
    """The largest horizon K."""
    seeds: int = 400
    """Runs to average over."""
    seed: int = 0
    """The seed of these runs' seeds."""
    step_size: float | None = None
    """Step size gamma; the largest that the theorem allows if it is left out."""
    threads: int = 1
    """Threads that share the seeds; they change no number."""

    def __post_init__(self) -> None:
        for name in ("rounds", "seeds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is a whole number from 1 on, not {getattr(self, name)}.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is a whole number from 0 to 2**64 - 1, not {self.seed}.")


def run(
    experiment: str = "neighbourhood",
    *,
    measurement: Annotated[Measurement | None, Parameter(name="*")] = None,
    out: Path = Path("runs/lab"),
) -> int:
    """Run one theorem's experiment: measured, exact and proven, on one problem.

    Writes the record and a page. The exit status is 1 if a claim did not hold.

    Parameters
    ----------
    experiment:
        interpolation (eqs. 22-24, Perm, b = 0) or neighbourhood (eqs. 18-19, preconditioned).
    measurement:
        What is measured.
    out:
        The run's folder. An earlier run in it is replaced when this one is complete.
    """
    from subnetwork import report
    from subnetwork.experiments import evidence, interpolation, neighbourhood
    from subnetwork.experiments.outcome import write_claims
    from subnetwork.theory.problems import problem_named

    experiments = {"interpolation": interpolation.run, "neighbourhood": neighbourhood.run}
    if experiment not in experiments:
        known = ", ".join(experiments)
        raise ValueError(f"There is no experiment {experiment!r}. Known are: {known}.")
    m = measurement or Measurement()
    build = problem_named(m.problem)
    problem = build() if m.workers is None else build(n_workers=m.workers)
    with staged(out) as folder:
        found = experiments[experiment](
            problem,
            n_rounds=m.rounds,
            n_seeds=m.seeds,
            seed=m.seed,
            step_size=m.step_size,
            n_threads=m.threads,
        )
        evidence.write(folder, replace(found, config={**found.config, "problem": m.problem}))
        write_claims(folder, found.outcomes, seed=m.seed)
        report.write(folder, called=out)
    console = Output()
    print_outcomes(console, found.outcomes)
    say(console, f"wrote {out}/{found.name}.jsonl and {out}/report.html")
    return _status(found.outcomes)


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
