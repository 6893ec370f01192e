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
    saw_tooth,
    shapes_of_the_paper,
    studied,
    traffic,
)
from subnetwork.experiments.equations import (
    dealt_diagonals,
    definitions,
    floors,
    gradient_bound,
    growing_n,
    heterogeneity,
    inner_outer,
    linear_form,
    local_steps,
    mean_gradient,
    minima,
    participation,
    perm_sketch,
    preconditioning,
    rates,
    special_cases,
    two_merges,
    units,
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
    "saw_tooth": Experiment(
        saw_tooth.run, "Masked ReLU neurons: train, merge, resample; the loss jumps (needs torch)"
    ),
    "study": Experiment(
        studied.run, "All theorems and the exact curve of a --sketch on a --problem"
    ),
    "traffic": Experiment(
        traffic.run, "Numbers sent in total: exact modifications against gradient descent"
    ),
    "eq_1_3": Experiment(definitions.run, "(1)-(3): the sketched gradient is a gradient"),
    "eq_4": Experiment(two_merges.run, "(2), (4): one method with the sketch (5), two with (12)"),
    "eq_5": Experiment(perm_sketch.run, "(5): Perm-q where n does not divide d"),
    "eq_6": Experiment(inner_outer.run, "(6): an equality for quadratics; the outer C is biased"),
    "eq_7_8": Experiment(gradient_bound.run, "(7)-(8), (21): no quadratic has bounded gradients"),
    "eq_9_11": Experiment(linear_form.run, "(9)-(11): g = B x - u in every round"),
    "eq_12_13": Experiment(preconditioning.run, "(12)-(13): which scale makes E B = I"),
    "eq_14_17": Experiment(mean_gradient.run, "(14)-(17): E x^k ends |h| away from x*"),
    "eq_18": Experiment(heterogeneity.run, "(18): sigma^2 is one number with (12), not with (5)"),
    "eq_19": Experiment(floors.run, "(19): the floor as printed, tightened and exact"),
    "eq_22_24": Experiment(rates.run, "(22)-(24): theta, and the first version's linear rate"),
    "eq_25_26": Experiment(
        special_cases.gradient_descent, "(25)-(26): gradient descent", "theorem"
    ),
    "eq_27": Experiment(dealt_diagonals.mean_B_27, "(27): E B of Perm-1, over all permutations"),
    "eq_28": Experiment(dealt_diagonals.steps_28, "(28): its step size lets E|x|^2 grow"),
    "eq_29_31": Experiment(
        special_cases.homogeneous, "(29)-(31): homogeneous preconditioning", "theorem"
    ),
    "eq_32_34": Experiment(
        special_cases.heterogeneous, "(32)-(34): heterogeneous preconditioning", "theorem"
    ),
    "growing_n": Experiment(growing_n.run, "The bias of (12) does not diminish as n = d grows"),
    "units": Experiment(units.run, "The limit of (12) depends on the units of f"),
    "gap_of_minima": Experiment(minima.run, "argmin F and argmin f, quadratic or not: the bound"),
    "local_steps": Experiment(local_steps.run, "Several local steps: the floor grows with tau"),
    "participation": Experiment(
        participation.run, "Workers that stay away: blocks kept, or 0 as (4) says"
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
