"""The lab's experiments by name. A new one is a file with `run`, and a row here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from subnetwork.experiments import (
    bias_against_q,
    bias_removal,
    equal_bits,
    gdci_threshold,
    interpolation,
    logistic,
    logistic_on_data,
    neighbourhood,
    not_psd,
    shapes_of_the_paper,
)
from subnetwork.experiments.evidence import Evidence


@dataclass(frozen=True)
class Experiment:
    """An experiment, and what the command line says and assumes of it.

    Attributes:
        run: keyword arguments -> what was found. `problem`, where it takes one, comes first.
        line: what it shows, in a line.
        figure: how `subnetwork.figures` draws its record: "theorem" or "curves".
        defaults: arguments that the command line gives unless told otherwise.
    """

    run: Callable[..., Evidence]
    line: str
    figure: str = "curves"
    defaults: Mapping[str, Any] | None = None

    @property
    def options(self) -> list[str]:
        """The names of the arguments that `run` takes."""
        return list(signature(self.run).parameters)


_LONG = {"n_rounds": 1000, "problem": "breast_cancer"}

EXPERIMENTS: Mapping[str, Experiment] = {
    "interpolation": Experiment(
        interpolation.run, "Theorem (22)-(24): Perm-q where b = 0", "theorem", _LONG
    ),
    "neighbourhood": Experiment(
        neighbourhood.run, "Theorem (18)-(19): preconditioned Perm-1, any b", "theorem", _LONG
    ),
    "homogeneous": Experiment(
        shapes_of_the_paper.homogeneous, "d = n = 50: a neighbourhood that no step size removes"
    ),
    "heterogeneous": Experiment(
        shapes_of_the_paper.heterogeneous, "d = 1000, n = 10: larger steps are faster, end higher"
    ),
    "bias_against_q": Experiment(bias_against_q.run, "The exact bias against the share q = d/n"),
    "bias_removal": Experiment(
        bias_removal.run, "Which modifications remove the bias on quadratics, and which do not"
    ),
    "logistic": Experiment(logistic.run, "The same on logistic regression, made-up data"),
    "logistic_on_data": Experiment(
        logistic_on_data.run, "IST and its modifications on a9a, w8a, .. (SUBNETWORK_DATA)"
    ),
    "gdci_threshold": Experiment(
        gdci_threshold.run, "Compressed iterates: omega that (20) asks for and omega that works"
    ),
    "equal_bits": Experiment(equal_bits.run, "Perm-q against Rand-q and GD at equal bits, b = 0"),
    "not_psd": Experiment(
        not_psd.run, "W-bar not psd: the theorem is silent, the method converges"
    ),
}


def experiment_named(name: str) -> Experiment:
    """The experiment of that name; raises ValueError with the known names for any other name."""
    if name not in EXPERIMENTS:
        raise ValueError(f"There is no experiment {name!r}. Known are: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]


def run_named(name: str, options: Mapping[str, Any]) -> Evidence:
    """Run an experiment; raises ValueError for an option that it does not take."""
    experiment = experiment_named(name)
    for option in options:
        if option not in experiment.options:
            raise ValueError(
                f"The experiment {name} takes no {option!r}. It takes: "
                f"{', '.join(experiment.options)}."
            )
    return experiment.run(**options)
