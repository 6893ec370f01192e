"""The lab's methods by name. A new one is a function somewhere and a row here."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any, TypeVar

from subnetwork.shapes import Vector
from subnetwork.theory.compressed import (
    compressed_gd,
    gd,
    gdci,
    ist,
    marina,
    marina_p,
    mast,
    perm,
    rand_q,
)
from subnetwork.theory.methods import Method
from subnetwork.theory.modifications import (
    anchored,
    reweighted,
    stale_plain,
    stale_sag,
    stale_saga,
    two_resolutions,
)
from subnetwork.theory.remedies import (
    averaged,
    block_table,
    full_rounds,
    momentum,
    step_decay,
)
from subnetwork.theory.stochastic import Sampling, StochasticSteps

S = TypeVar("S")

METHODS: Mapping[str, Callable[..., Method[Any]]] = {
    "ist": ist,
    "perm": perm,
    "rand_q": rand_q,
    "gd": gd,
    "compressed_gd": compressed_gd,
    "gdci": gdci,
    "marina": marina,
    "marina_p": marina_p,
    "mast": mast,
    "anchored": anchored,
    "stale": stale_plain,
    "stale_sag": stale_sag,
    "stale_saga": stale_saga,
    "reweighted": reweighted,
    "two_resolutions": two_resolutions,
    "step_decay": step_decay,
    "momentum": momentum,
    "averaged": averaged,
    "block_table": block_table,
    "full_rounds": full_rounds,
}


NOISE = ("sigma", "batch", "noise_seed")
"""Options of every method: see `stochastic`."""


def stochastic(method: Method[S], xi: Sampling) -> Method[S]:
    """The same method with stochastic gradients.

    The noise is keyed by `xi.seed` and not by the seed of the partitions: runs that are averaged
    over it want a seed each.

    Raises:
        ValueError: rows are to be drawn and the problem keeps none.
    """
    work: Any = method.work
    xi.require_rows(work.problem)
    if isinstance(work, StochasticSteps):
        noisy = replace(work, seed=xi.seed, sigma=xi.sigma, batch=xi.batch)
        return replace(method, work=noisy)
    return replace(method, work=replace(work, xi=xi))


def method_named(
    name: str,
    problem: Any,  # noqa: ANN401 - checked by the method
    x0: Vector,
    **options: Any,  # noqa: ANN401 - as well
) -> Method[Any]:
    """The method of that name, with noise where `sigma`, `batch` or `noise_seed` is said.

    Raises:
        ValueError: unknown names and options.
    """
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}. Known methods: {', '.join(METHODS)}.")
    parameters = signature(METHODS[name]).parameters.values()
    known = [*(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY), *NOISE]
    for option in options:
        if option not in known:
            raise ValueError(
                f"The method {name} has no option {option!r}. Its options: {', '.join(known)}."
            )
    if "step_size" not in options:
        raise ValueError(f"The method {name} needs a step_size, such as step_size=0.1.")
    noise = {option: options.pop(option) for option in NOISE if option in options}
    method = METHODS[name](problem, x0, **options)
    if not noise:
        return method
    seed, sigma, batch = (noise.get(o, 0) for o in ("noise_seed", "sigma", "batch"))
    return stochastic(method, Sampling(int(seed), float(sigma), int(batch)))
