"""`subnetwork demo`: both halves on real input, from one command to a page."""

from pathlib import Path

from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import staged
from subnetwork.cli.live import showing
from subnetwork.cli.outcomes import print_outcomes
from subnetwork.cli.train import WORKERS
from subnetwork.methods import Training
from subnetwork.nursery import FIRST_STEP, nursery


def demo(
    *, out: Path = Path("runs/demo"), seed: int = 0, workers: int = 4, rounds: int = 30
) -> int:
    """Train IST, Local SGD, DiLoCo and synchronous SGD on digits and run two theorems.

    Writes the records, the IST model and one self-contained page, OUT/report.html. The exit status
    is 1 if a claim did not hold.

    Parameters
    ----------
    out:
        The run's folder. An earlier run in it is replaced when this one is complete.
    seed:
        The one seed of everything.
    workers:
        Worker processes; one set serves all methods.
    rounds:
        Rounds of ten local steps; every method takes the same number of steps.
    """
    base = Training(seed=seed, workers=workers, rounds=rounds)
    console = Output()
    say(console, f"{workers} worker processes train on digits; the lab runs after")
    with nursery(WORKERS, FIRST_STEP) as births, staged(out) as folder:
        from subnetwork import report
        from subnetwork.experiments import demo as experiment

        outcomes = experiment.run(
            folder, base, births, show=lambda name: showing(console, name, base.total_steps)
        )
        report.write(folder, called=out)
    print_outcomes(console, outcomes)
    say(console, f"wrote {out}/report.html, the records and the model")
    return 0 if all(outcome.stands for outcome in outcomes) else 1
