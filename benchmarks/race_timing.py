"""The rounds of `race.py` over one link: timed, played again, and foretold by the cost model."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from net import Link
from race_field import IST, run_all
from race_parts import Parts, Run, fastest, parts, rounds, sleeps
from race_run import NETWORKS

from subnetwork import decompose
from subnetwork.deals import Lazy, Perm
from subnetwork.methods.rows import task
from subnetwork.nets import SGD, AdamW
from subnetwork.nets.architecture import runnable
from subnetwork.nets.data.batches import Feed
from subnetwork.nets.optimizers import Optimizer
from subnetwork.nets.plan import Plan
from subnetwork.runtime.calibration import STILL, calibrate, loopback
from subnetwork.runtime.costs import Network, Pace, Round, Setting, Sizes, predict
from subnetwork.runtime.measured import cores
from subnetwork.runtime.sizing import sizes

PREDICTED = {
    "ist": "IST, coordinator",
    "ist_direct": "IST, direct",
    "local_sgd": "Local SGD",
    "diloco": "DiLoCo",
    "ddp": "DDP",
}
"""The cost model's name of a method."""
Spec = Mapping[str, Any]
Predictions = tuple[Mapping[str, Round], Mapping[str, Round]]
"""By the cores of this machine, and with a core for each worker."""
DDP = "ddp"  # begins the names of methods that communicate in their steps


@dataclass(frozen=True)
class Timed:
    """All that was written down over one link; everything else is worked out from it.

    Rows are timed in passes, every other one the other way round, and what a step takes is measured
    before, between and after. Then, where workers share cores, rows whose workers do not
    communicate in their steps are played again, asleep in place of computing.
    """

    link: str
    rate: float | None  # bits per second
    delay: float
    network: str
    workers: int
    rows: Mapping[str, Spec]
    ddp_steps: int  # DDP is slow, and timed over fewer
    passes: list[Mapping[str, Run]] = field(default_factory=list)
    replays: list[Mapping[str, Run]] = field(default_factory=list)
    calibrations: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def specs(self) -> dict[str, Spec]:
        """The rows as they are timed."""
        found = {name: {**row, "n_workers": self.workers} for name, row in self.rows.items()}
        return {
            name: {**spec, "n_steps": self.ddp_steps} if spec["method"].startswith(DDP) else spec
            for name, spec in found.items()
        }


def time_rounds(timed: Timed, passes: int, n_rounds: int, keep: Path | None = None) -> None:
    """Time so many passes of so many rounds; with `keep`, a line of JSON for each thing measured.

    Args:
        timed: gets what is measured.
        passes: over all rows.
        n_rounds: of a row in a pass, beside a first one that warms it up.
        keep: the file, which is added to.
    """

    def told(what: str, words: Any) -> None:  # noqa: ANN401
        if what != "race":
            getattr(timed, what).append(words)
        if keep is not None:
            with keep.open("a") as file:
                file.write(json.dumps({what: words}) + "\n")

    head = ("link", "rate", "delay", "network", "workers", "rows", "ddp_steps")
    told("race", {name: getattr(timed, name) for name in head})
    link, specs = Link(timed.rate, timed.delay), timed.specs

    def run(these: Mapping[str, Spec]) -> dict[str, Run]:
        ran = [{**spec, "n_rounds": 1 + n_rounds} for spec in these.values()]
        return dict(zip(these, warmed(timed.workers, link, ran), strict=True))

    told("calibrations", calibrated(timed))
    for number in range(passes):
        order = -1 if number % 2 else 1
        told("passes", run(dict(list(specs.items())[::order])))
        told("calibrations", calibrated(timed))
    if not link.rate or timed.workers <= cores():
        return
    able = {name: spec for name, spec in specs.items() if not spec["method"].startswith(DDP)}
    best = {name: fastest([of[name] for of in timed.passes]) for name in able}
    asleep = {name: {**spec, "asleep": sleeps(best[name])} for name, spec in able.items()}
    for _ in range(passes):
        told("replays", run(asleep))


def kept(path: Path) -> list[Timed]:
    """What was written to a file, link by link.

    Raises:
        ValueError: it is no such file.
    """
    found: list[Timed] = []
    try:
        for line in path.read_text().splitlines():
            ((what, words),) = json.loads(line).items()
            if what == "race":
                found.append(Timed(**words))
            else:
                getattr(found[-1], what).append(words)
    except (OSError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is not what --keep writes: {error}.") from None
    return found


def warmed(n_workers: int, link: Link, specs: Sequence[Spec]) -> Sequence[Run]:
    """As `run_all`, of processes that have been through each kind of row before, for a step.

    Else what a process does once would be taken for the first row's: modules and first memory.
    """
    first: dict[Any, Spec] = {}
    for spec in specs:
        kind = (spec["method"], spec.get("wire"), spec.get("outer"))
        n_rounds = 1 if spec["method"].startswith(DDP) else 2  # a hand-over is in the second one
        first.setdefault(kind, {**spec, "n_steps": 1, "n_rounds": n_rounds, "asleep": ()})
    return run_all(n_workers, link, [*first.values(), *specs])[len(first) :]


def measured(timed: Timed) -> dict[str, Parts]:
    """A round of each row: the fastest pass, since all that a machine does besides only adds time.

    What rounds of all passes took in the middle is beside it.
    """
    found = {}
    for name, spec in timed.specs.items():
        runs = [of[name] for of in timed.passes]
        again = [of[name] for of in timed.replays if name in of]
        scale = timed.rows[name]["n_steps"] / spec["n_steps"]
        walls = [workers[0]["wall"] for run in runs for workers in rounds(run)]
        of = parts(
            fastest(runs),
            spec,
            asleep=fastest(again) if again else None,
            limited=timed.rate is not None,
            usual=median(walls),
        )
        as_they_are = ("limited", "alone", "slept")
        scaled = {k: v if k in as_they_are else v * scale for k, v in asdict(of).items()}
        found[name] = Parts(**scaled)
    return found


@lru_cache(maxsize=1)
def planned(network: str, n_workers: int) -> tuple[Plan, Feed]:
    """The cut of what is trained, with one of its batches as the example; and all of them."""
    training = replace(NETWORKS[network], workers=n_workers)
    t = task(training)
    model = runnable(t.architecture, t.start())
    inputs, _ = t.batches.batch(0, 0)
    return decompose(model, inputs, width=training.axes or None), t.batches


def has_moments(timed: Timed, row: Spec) -> bool:
    """Whether a row's local optimizer is Adam, and its state stays."""
    return NETWORKS[timed.network].optimizer == "adamw" and row.get("state") != "reset"


def handled(row: Spec) -> str | None:
    """What tells a row's hand-over from that of IST as it is measured with steps; None: nothing."""
    period, wire, outer = row.get("period", 1), row.get("wire", "float32"), row.get("outer", False)
    if row["method"] not in IST or (period, wire, outer) == (1, "float32", False):
        return None
    return f"period {period}, {wire}{', outer' * outer}"


def calibrated(timed: Timed) -> dict[str, Any]:
    """Paces by kind of row, and the network.

    Steps are measured once for all deals and wires, which differ in their hand-over alone.
    """
    (plan, feed), n = planned(timed.network, timed.workers), timed.workers
    paces: dict[str, Pace] = {}

    def measure(kind: str, optimizer: Optimizer, budget: float, **given: Any) -> None:  # noqa: ANN401
        if kind not in paces:
            beside = {"beside": n - 1, "batches": feed}
            paces[kind] = calibrate(plan, n, budget=budget, optimizer=optimizer, **beside, **given)

    for row in timed.rows.values():
        adam = has_moments(timed, row)
        optimizer = AdamW(STILL) if adam else SGD(STILL)
        measure(f"{adam}", optimizer, 4)
        if (kind := handled(row)) is not None:
            period, wire = row.get("period", 1), row.get("wire", "float32")
            deal = Perm(n) if period == 1 else Lazy(n, period)
            outer = row.get("outer", False)
            measure(f"{adam}, {kind}", optimizer, 1, deal=deal, wire=wire, outer=outer)
    wires = Network(timed.rate, timed.delay) if timed.rate else loopback()
    return {"paces": {k: asdict(pace) for k, pace in paces.items()}, "network": asdict(wires)}


def foretold(timed: Timed) -> Predictions:
    """The cost model's rounds, by the calibration in which local work took the least.

    By that one alone: ratios of rows would not be those of one machine otherwise.
    """
    plan, _ = planned(timed.network, timed.workers)
    of = {adam: sizes(plan, timed.workers, moments=2 * adam) for adam in (False, True)}
    every = [_foretold(timed, calibration, of) for calibration in timed.calibrations]
    return min(every, key=lambda both: sum(math.log(of.compute) for of in both[0].values()))


def _foretold(
    timed: Timed, calibration: Mapping[str, Any], of: Mapping[bool, Sizes]
) -> Predictions:
    paces = {kind: Pace(**pace) for kind, pace in calibration["paces"].items()}
    wires = Network(**calibration["network"])
    here, alone = {}, {}
    for name, row in timed.rows.items():
        if row["method"] not in PREDICTED:
            continue
        adam, kind = has_moments(timed, row), handled(row)
        pace = paces[f"{adam}"]
        if kind is not None:
            own = paces[f"{adam}, {kind}"]
            pace = replace(pace, direct=own.direct, messages=own.messages, handling=own.handling)
        period, wire = row.get("period", 1), row.get("wire", "float32")
        for into, shared in ((here, cores()), (alone, None)):
            setting = Setting(
                timed.workers, row["n_steps"], wire, period, shared, outer=row.get("outer", False)
            )
            costs = predict(of[adam], pace, wires, setting)
            into[name] = costs[PREDICTED[row["method"]]]
    return here, alone
