"""The rounds of `race.py` over one link: timed, played again, and foretold by the cost model."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from net import Link
from race_field import IST, run_all
from race_parts import Parts, Run, parts, sleeps
from race_run import NETWORKS

from subnetwork import decompose
from subnetwork.deals import Lazy, Perm
from subnetwork.methods.rows import task
from subnetwork.nets import SGD, AdamW
from subnetwork.nets.architecture import runnable
from subnetwork.nets.data.batches import Feed
from subnetwork.nets.plan import Plan
from subnetwork.runtime.calibration import STILL, calibrate, loopback
from subnetwork.runtime.costs import Network, Pace, Round, Setting, predict
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
Offs = tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]]
"""Likewise: of each row, predicted seconds over measured ones, pass by pass."""
DDP = "ddp"  # begins the names of methods that communicate in their steps
CUT_OFF = "race: {path}: what there is of {link} is not whole, and is left out"


@dataclass(frozen=True)
class Timed:
    """All that was written down over one link; everything else is worked out from it.

    Rows are timed in passes, every other one the other way round, and what a step takes is measured
    before, between and after. Over a link with a rate, where workers share cores, rows whose
    workers do not communicate in their steps are then played again, pass by pass, asleep in place
    of computing.
    """

    link: str
    rate: float | None  # bits per second
    delay: float
    network: str
    workers: int
    cores: int  # of the machine
    rows: Mapping[str, Spec]
    ddp_steps: int  # DDP is slow, and timed over fewer
    n_passes: int
    passes: tuple[Mapping[str, Run], ...] = ()
    calibrations: tuple[Mapping[str, Any], ...] = ()
    replays: tuple[Mapping[str, Run], ...] = ()

    @property
    def specs(self) -> dict[str, Spec]:
        """The rows as they are timed."""
        found = {name: {**row, "n_workers": self.workers} for name, row in self.rows.items()}
        return {
            name: {**spec, "n_steps": self.ddp_steps} if _is_ddp(spec) else spec
            for name, spec in found.items()
        }

    @property
    def replayed(self) -> dict[str, Spec]:
        """Those that are played again."""
        if self.rate is None or self.workers <= self.cores:
            return {}
        return {name: spec for name, spec in self.specs.items() if not _is_ddp(spec)}

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        n = self.n_passes
        counts = (len(self.passes), len(self.calibrations), len(self.replays))
        return n > 0 and counts == (n, n + 1, n * bool(self.replayed))

    def with_one(self, what: str, words: Any) -> "Timed":  # noqa: ANN401
        """With one more pass, calibration or replay."""
        if what == "calibration":
            _paces(words)  # it raises where they are none
        of = {"pass": "passes", "calibration": "calibrations", "replay": "replays"}[what]
        return replace(self, **{of: (*getattr(self, of), words)})


def _is_ddp(spec: Spec) -> bool:
    return str(spec["method"]).startswith(DDP)


def time_rounds(begun: Timed, n_rounds: int, keep: Path | None = None) -> Timed:
    """Time so many rounds a pass; with `keep`, a line of JSON for each thing that is measured.

    Args:
        begun: what is to be timed.
        n_rounds: of a row in a pass, beside a first one that warms it up.
        keep: the file, which is added to.

    Returns:
        It, with what was measured.
    """
    link, specs, timed = Link(begun.rate, begun.delay), begun.specs, begun

    def run(these: Mapping[str, Spec]) -> dict[str, Run]:
        ran = [{**spec, "n_rounds": 1 + n_rounds} for spec in these.values()]
        return dict(zip(these, warmed(begun.workers, link, ran), strict=True))

    def steps() -> Iterator[tuple[str, Any]]:
        yield "calibration", calibrated(begun)
        for number in range(begun.n_passes):
            order = -1 if number % 2 else 1
            yield "pass", run(dict(list(specs.items())[::order]))
            yield "calibration", calibrated(begun)
        for of in timed.passes if begun.replayed else ():
            again = begun.replayed.items()
            yield "replay", run({k: {**spec, "asleep": sleeps(of[k])} for k, spec in again})

    _keep(keep, "race", {k: v for k, v in vars(begun).items() if not isinstance(v, tuple)})
    for what, words in steps():
        timed = timed.with_one(what, words)
        _keep(keep, what, words)
    return timed


def _keep(path: Path | None, what: str, words: Any) -> None:  # noqa: ANN401
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps({what: words}) + "\n")


def kept(path: Path) -> list[Timed]:
    """What was written to a file, link by link; of what is not whole a line is printed.

    Raises:
        ValueError: it is no such file, or nothing in it is whole.
    """
    found: list[Timed] = []
    try:
        for what, words in _lines(path):
            if what == "race":
                found.append(Timed(**words))
            else:
                found[-1] = found[-1].with_one(what, words)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"{path} is not what --keep writes: {error}.") from None
    for timed in found:
        if not timed.whole:
            print(CUT_OFF.format(path=path, link=timed.link), file=sys.stderr)
    whole = [timed for timed in found if timed.whole]
    if not whole:
        raise ValueError(f"{path} has no link that was timed to the end.")
    return whole


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Name and words of each line; a last one that was cut off is none."""
    *before, last = path.read_text().split("\n")
    del last  # it is empty, or cut off
    for line in before:
        ((what, words),) = json.loads(line).items()
        yield what, words


def warmed(n_workers: int, link: Link, specs: Sequence[Spec]) -> Sequence[Run]:
    """As `run_all`, of processes that have been through each kind of row before, for a step.

    Else what a process does once would be taken for the first row's: modules and first memory.
    """
    first: dict[Any, Spec] = {}
    for spec in specs:
        kind = tuple(spec.get(of) for of in ("method", "wire", "outer", "period"))
        n_rounds = 1 if _is_ddp(spec) else 2  # a hand-over is in the second one
        first.setdefault(kind, {**spec, "n_steps": 1, "n_rounds": n_rounds, "asleep": ()})
    return run_all(n_workers, link, [*first.values(), *specs])[len(first) :]


def measured(timed: Timed) -> dict[str, Parts]:
    """A round of each row, in the middle of all passes."""
    return {name: _parts(timed, name, range(timed.n_passes)) for name in timed.rows}


def _parts(timed: Timed, name: str, passes: Sequence[int]) -> Parts:
    """A round of a row by some passes."""
    spec = timed.specs[name]
    scale = timed.rows[name]["n_steps"] / spec["n_steps"]
    again = [timed.replays[p][name] for p in passes] if name in timed.replayed else None
    of = parts(
        [timed.passes[p][name] for p in passes],
        spec,
        asleep=again,
        limited=timed.rate is not None,
        n_cores=timed.cores,
    )
    as_they_are = ("limited", "alone", "slept")
    return Parts(**{k: v if k in as_they_are else v * scale for k, v in asdict(of).items()})


@lru_cache(maxsize=1)
def planned(network: str, n_workers: int) -> tuple[Plan, Feed]:
    """The cut of what is trained, with one of its batches as the example; and all of them."""
    training = replace(NETWORKS[network], workers=n_workers)
    t = task(training)
    model = runnable(t.architecture, t.start())
    inputs, _ = t.batches.batch(0, 0)
    return decompose(model, inputs, width=training.axes or None), t.batches


class Handling(NamedTuple):
    """What a row's merge and hand-over depend on."""

    moments: bool  # those of Adam travel
    period: int | None = 1
    wire: str = "float32"
    outer: bool = False

    @property
    def key(self) -> str:
        """Its name in a calibration."""
        return json.dumps(self)


def handling(timed: Timed, row: Spec) -> Handling:
    """A row's own; of who does not cut, that of plain IST."""
    adam = NETWORKS[timed.network].optimizer == "adamw"
    if row["method"] not in IST:
        return Handling(adam)
    fields = {name: row[name] for name in ("period", "wire", "outer") if name in row}
    return Handling(adam and row.get("state") != "reset", **fields)


def calibrated(timed: Timed) -> dict[str, Any]:
    """Paces by kind of hand-over, and the network.

    Steps are measured once, with the plain one: they are the same for all.
    """
    (plan, feed), n = planned(timed.network, timed.workers), timed.workers
    adam = NETWORKS[timed.network].optimizer == "adamw"
    kinds = {Handling(adam): None, **{handling(timed, row): None for row in timed.rows.values()}}
    paces = {}
    for kind in kinds:
        pace = calibrate(
            plan,
            n,
            budget=4 if kind == Handling(adam) else 1,
            optimizer=AdamW(STILL) if kind.moments else SGD(STILL),
            deal=Perm(n) if kind.period == 1 else Lazy(n, kind.period),
            wire=kind.wire,  # type: ignore[arg-type]
            outer=kind.outer,
            beside=n - 1,
            batches=feed,
        )
        paces[kind.key] = asdict(pace)
    wires = Network(timed.rate, timed.delay) if timed.rate else loopback()
    return {"paces": paces, "network": asdict(wires)}


def foretold(timed: Timed) -> Predictions:
    """The cost model's rounds, in the middle of all calibrations."""
    every = [_foretold(timed, of) for of in timed.calibrations]
    here, alone = (
        {name: _middle([of[i][name] for of in every]) for name in every[0][i]} for i in (0, 1)
    )
    return here, alone


def offs(timed: Timed) -> Offs:
    """How far predictions are from rounds, each pass beside the calibrations around it.

    So a machine that is slowed for minutes is compared with itself.
    """
    every = [_foretold(timed, of) for of in timed.calibrations]
    here: dict[str, list[float]] = {}
    alone: dict[str, list[float]] = {}
    for name in every[0][0]:
        for p in range(timed.n_passes):
            found = _parts(timed, name, [p])
            for i, into, seconds in ((0, here, found.wall), (1, alone, found.replay)):
                told = mean(every[q][i][name].seconds for q in (p, p + 1))
                into.setdefault(name, []).append(told / seconds)
    return here, alone


def _middle(several: Sequence[Round]) -> Round:
    spans = ("compute", "exchange", "handling")
    return replace(several[0], **{s: median(getattr(one, s) for one in several) for s in spans})


def _paces(calibration: Mapping[str, Any]) -> tuple[dict[str, Pace], Network]:
    paces = {kind: Pace(**pace) for kind, pace in calibration["paces"].items()}
    return paces, Network(**calibration["network"])


def _foretold(timed: Timed, calibration: Mapping[str, Any]) -> Predictions:
    plan, _ = planned(timed.network, timed.workers)
    of = {moments: sizes(plan, timed.workers, moments=2 * moments) for moments in (False, True)}
    paces, wires = _paces(calibration)
    steps = paces[Handling(NETWORKS[timed.network].optimizer == "adamw").key]
    here, alone = {}, {}
    for name, row in timed.rows.items():
        if row["method"] not in PREDICTED:
            continue
        kind = handling(timed, row)
        own = paces[kind.key]
        pace = replace(steps, direct=own.direct, messages=own.messages, handling=own.handling)
        wire = row.get("wire", "float32")  # also of those that do not cut
        for into, shared in ((here, timed.cores), (alone, None)):
            setting = Setting(
                *(timed.workers, row["n_steps"], wire, kind.period, shared), outer=kind.outer
            )
            costs = predict(of[kind.moments], pace, wires, setting)
            into[name] = costs[PREDICTED[row["method"]]]
    return here, alone
