"""Updates that are huge, but finite: shortened to a multiple of what has been usual."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from statistics import median, median_low

import torch
from torch import Tensor

from subnetwork.nets import ABSENT, NetPartition, Submodel
from subnetwork.nets.counters import COUNTER
from subnetwork.nets.state import Tensors
from subnetwork.runtime.faults import CLIPPED, Fault, NetWork, Report, ignore

REMEMBERED = 21  # rounds whose norms make the bound


def clipping(
    work: NetWork,
    factor: float,
    *,
    usual: deque[float] | None = None,
    gradients: bool = False,
    report: Report = ignore,
) -> NetWork:
    """The same work, of which no worker's update is longer than `factor` running medians.

    The norm of an update is that of z_i^+ - w_i over all parameters of the worker's part. A longer
    one is shortened to the bound, its moments' changes by the same factor, and reported. The bound
    of a round is `factor` times the median over the last 21 rounds of the workers' median norm; in
    the first round it is that round's own lower median.

    Args:
        work: lines 4-8.
        factor: 10 leaves room for what honest workers do; it has to be above 1.
        usual: the median norms of the rounds so far, from which a run goes on; it grows.
        gradients: what comes back is a gradient, which is the update itself.
        report: is told of every update that was shortened (`clipped`).

    Raises:
        ValueError: a factor that is not above 1.
    """
    if not factor > 1:
        raise ValueError(
            f"Updates are clipped at a multiple above 1 of what is usual, not {factor}. Try 10."
        )
    norms = deque[float](maxlen=REMEMBERED) if usual is None else usual

    def clipped(
        k: int, partition: NetPartition, submodels: Sequence[Submodel], /
    ) -> list[Submodel]:
        started = time.monotonic()
        trained = list(work(k, partition, submodels))
        found = {
            i: norm(w, z, gradients=gradients)
            for i, (w, z) in enumerate(zip(submodels, trained, strict=True))
            if z is not ABSENT
        }
        bound = factor * (median(norms) if norms else median_low(found.values() or [0.0]))
        for i in [i for i, length in found.items() if bound and length > bound]:
            trained[i] = _shortened(submodels[i], trained[i], bound / found[i], gradients=gradients)
            reason = f"an update of norm {found[i]:.3g}, {factor:g} times the usual is {bound:.3g}"
            report(Fault(k, i, CLIPPED, time.monotonic() - started, reason))
        usual_now = median_low(found.values()) if found else 0.0
        if 0 < usual_now < float("inf"):
            norms.append(min(usual_now, bound))
        return trained

    return clipped


def norm(w: Submodel, z: Submodel, *, gradients: bool = False) -> float:
    """The Euclidean norm of an update, over all parameters."""
    of_each = [
        torch.linalg.vector_norm(p if gradients else p - w.params[name], dtype=torch.float64)
        for name, p in z.params.items()
    ]
    return float(torch.linalg.vector_norm(torch.stack(of_each)))


def _shortened(w: Submodel, z: Submodel, share: float, *, gradients: bool) -> Submodel:
    """Go `share` of the way from w to z; the difference may be too large for its dtype."""

    def between(old: Tensors, new: Tensors) -> dict[str, Tensor]:
        return {name: p * share + old[name] * (1 - share) for name, p in new.items()}

    params = {name: p * share for name, p in z.params.items()}
    if not gradients:
        params = between(w.params, z.params)
    moments = {m: t if m == COUNTER else between(w.moments[m], t) for m, t in z.moments.items()}
    return replace(z, params=params, moments=moments)
