"""`subnetwork plan`: what of a model can be cut, and whether that pays on a network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import Parameter

from subnetwork.cli.console import Output, say
from subnetwork.cli.models import model_named
from subnetwork.cli.quantities import bits_per_second, duration, n_bytes, rate, seconds

if TYPE_CHECKING:
    from subnetwork.nets.plan import Plan
    from subnetwork.runtime.costs import Network, Pace, Round, Setting, Sizes
    from subnetwork.runtime.direct import Wire


@dataclass(frozen=True, kw_only=True)
class Link:
    """The network, and how it is used. Nothing is predicted without a bandwidth."""

    bandwidth: str | None = None
    """Of every worker's link, up and down, such as 100mbit; or loopback, which is measured."""
    latency: str | None = None
    """From any worker to any other, such as 20ms."""
    steps: int = 20
    """Local steps of a round, tau."""
    wire: str = "float32"
    """Entries on the wire: float32, bfloat16 or int8. DDP always sends float32."""
    period: int = 1
    """A unit is dealt anew once in so many rounds (the deal Lazy)."""
    replicas: int = 0
    """Of every rank's part in direct hand-over: 1 survives a death, 0 does not."""
    outer: bool = False
    """IST's merge steps with momentum (train --outer nesterov), which travels with a part."""
    cores: float | None = None
    """Cores that all workers share; by default each worker has one of its own."""
    moments: int = 0
    """Moments of the local optimizer, which travel with a part: 0 for SGD, 1 with momentum, 2 for
    Adam."""
    calibration: float = 5.0
    """Seconds to measure steps for."""


def plan(
    model: str,
    /,
    *,
    workers: int = 4,
    link: Annotated[Link | None, Parameter(name="*")] = None,
    given: Annotated[tuple[str, ...], Parameter(show=False)] = (),
) -> int:
    """Say what of MODEL is cut for n workers; with --bandwidth, predict what a round costs.

    Parameters
    ----------
    model:
        A built-in name (mlp, relu, resnet, gpt, gcn, sage, gat), or file.py:build of your own,
        which returns (model, example_batch).
    workers:
        Workers n.
    link:
        The network.
    given:
        The flags that were said, filled in by the command line.
    """
    link = link or Link()
    if workers < 2:
        raise ValueError(f"A model is cut for two workers or more, not --workers {workers}.")
    network = _network(link, given)  # refused before anything takes time
    from subnetwork import decompose
    from subnetwork.runtime.costs import Setting, predict
    from subnetwork.runtime.sizing import sizes

    setting = Setting(
        *(workers, link.steps, link.wire, link.period, link.cores),
        replicas=link.replicas,
        outer=link.outer,
    )
    cut = decompose(*model_named(model))
    console = Output()
    say(console, f"{cut}\n\n{cut.table(workers)}")
    if network is None:
        return 0
    entries = sizes(cut, workers, moments=link.moments)
    pace = _measured(cut, entries, setting, link, console)
    costs = predict(entries, pace, network, setting)
    rows, verdict = _rows(costs), _verdict(costs, _narrow(cut.layout.sizes, workers))
    for line in ("", _heading(setting, network, pace), *rows, "", *verdict):
        say(console, line)
    return 0


def _measured(
    cut: "Plan", entries: "Sizes", setting: "Setting", link: Link, console: Output
) -> "Pace":
    """What steps and hand-over take here; says beside how many others, and what could not be."""
    from subnetwork.deals import Lazy, Perm
    from subnetwork.nets import SGD, Adam
    from subnetwork.runtime.calibration import STILL, calibrate
    from subnetwork.runtime.costs import FLOAT
    from subnetwork.runtime.memory import keep_memory

    keep_memory()  # as those do who train through a coordinator
    others = _others(setting)
    carried = FLOAT * entries.whole * (1 + link.moments + link.outer)
    beside, needed = _that_fit(others, TIMES * carried + entries.activations_whole)
    if beside < others:
        say(console, f"\nmeasured beside {beside}, not {others}: {needed}")
    elif setting.cores is not None and not beside:
        say(console, "\nmeasured alone: nobody can be played beside it here")
    among = f" beside {beside} other{'s' * (beside > 1)}" if beside else ""
    say(console, f"\nmeasuring steps for {link.calibration:g} s{among}")
    n = setting.n_workers
    pace = calibrate(
        cut,
        n,
        budget=link.calibration,
        deal=Perm(n) if link.period == 1 else Lazy(n, link.period),
        wire=cast("Wire", setting.wire),  # Setting knows no other
        optimizer=(SGD(STILL), SGD(STILL, momentum=0.9), Adam(STILL))[link.moments],
        outer=link.outer,
        beside=beside,
    )
    if not pace.reducing:
        say(console, "no two processes meet here: what messages cost a processor is left out")
    if not pace.ddp:
        say(console, "DDP was not run: its steps are taken to be those of one worker, and copying")
    return pace


def _others(setting: "Setting") -> int:
    """How many workers one is measured beside: as many a core as where they will train."""
    from subnetwork.nursery import FORKS
    from subnetwork.runtime.measured import cores

    if setting.cores is None or not FORKS:
        return 0
    here = cores() * setting.crowding
    return round(min(here, setting.n_workers, MOST_HERE)) - 1


def _that_fit(others: int, each: int) -> tuple[int, str]:
    """How many of the others have memory here, where each needs so many bytes; why not all."""
    from subnetwork.runtime.measured import free_memory

    free = free_memory()
    fit = max(0, min(others, math.floor(min(free / max(1, each), MOST_HERE)) - 1))
    return fit, f"each needs about {n_bytes(each)} of memory, and {n_bytes(free)} are free"


def _network(link: Link, given: tuple[str, ...]) -> "Network | None":
    if link.bandwidth is None:
        idle = [field.name for field in fields(Link) if field.name in given]
        if idle:
            raise ValueError(
                f"--{idle[0]} without --bandwidth predicts nothing. Add one: --bandwidth 100mbit."
            )
        return None
    if not 0 < link.calibration < math.inf:
        raise ValueError(f"--calibration is a positive number of seconds, not {link.calibration}.")
    if link.moments not in (0, 1, 2):
        raise ValueError(
            f"--moments is 0 (SGD), 1 (with momentum) or 2 (Adam), not {link.moments}."
        )
    latency = seconds(link.latency) if link.latency else 0.0
    if link.bandwidth == "loopback":
        if link.latency:
            raise ValueError(
                "--latency does nothing beside --bandwidth loopback, whose latency is measured. "
                "Leave it out."
            )
        from subnetwork.runtime.calibration import loopback

        return loopback()
    bandwidth = bits_per_second(link.bandwidth)
    from subnetwork.runtime.costs import Network

    return Network(bandwidth, latency)


def _heading(setting: "Setting", network: "Network", pace: "Pace") -> str:
    cores = "a core each" if setting.cores is None else f"{setting.cores:g} cores for all"
    return (
        f"a round of {setting.n_steps} local steps, {setting.n_workers} workers, {cores}, "
        f"{rate(network.bandwidth)}, {duration(network.latency)}; measured here on one core: a "
        f"step of the whole model {duration(pace.step_whole)}, of a part {duration(pace.step_part)}"
    )


def _rows(costs: "dict[str, Round]") -> list[str]:
    """A line a method, with the times of IST over direct hand-over below the others' own."""
    fastest = costs["IST, direct"].seconds
    head = ("", "round", "compute", "exchange", "sent", "received", "memory", "IST, direct")
    rows = [head] + [
        (
            name,
            duration(cost.seconds),
            duration(cost.compute),
            duration(cost.exchange + cost.handling),
            n_bytes(cost.bytes_up),
            n_bytes(cost.bytes_down),
            n_bytes(cost.memory),
            f"{cost.seconds / fastest:.2g}x faster"
            if cost.seconds > fastest
            else f"{fastest / cost.seconds:.2g}x slower"
            if cost.seconds < fastest
            else "",
        )
        for name, cost in costs.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return [
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{row[i]:>{widths[i]}}" for i in range(1, len(head)))
        for row in rows
    ]


def _narrow(sizes: Mapping[str, int], n_workers: int) -> list[str]:
    """A line where an axis leaves a worker one unit: rounds are quick then, and many."""
    thin = [axis for axis, size in sizes.items() if size < 2 * n_workers]
    if not thin:
        return []
    first = f"{thin[0]} ({sizes[thin[0]]} units)"
    more = f" and {len(thin) - 1} more" if len(thin) > 1 else ""
    return [
        f"A worker has a single unit, or none, of {first}{more}. Parts so narrow can take several "
        "times the steps (a char-GPT with one head a worker did, and lost: benchmarks/README.md)"
        ": expect that, or use fewer workers."
    ]


def _verdict(costs: "dict[str, Round]", narrow: Sequence[str] = ()) -> list[str]:
    """Whether IST pays, in a sentence, and what that does not say."""
    from subnetwork.runtime.costs import break_even

    best, times = break_even(costs)
    ist, other = costs["IST, direct"], costs[best]
    if times <= 1:
        line = (
            f"IST does not pay here: a round takes {duration(ist.seconds)} and one of {best} "
            f"{duration(other.seconds)}. {_why_not(ist, other)}"
        )
    else:
        line = (
            f"IST pays while it needs fewer than {times:.2g} times the steps of {best} for the "
            "same accuracy."
        )
        if times < MARGIN:
            line = line.removesuffix(".") + ", which is little: expect it not to pay."
        line += _through_the_coordinator(break_even(costs, "IST, coordinator")[1], times)
    return [line, *narrow, NOTE]


def _through_the_coordinator(times: float, directly: float) -> str:
    """What the verdict, which is of direct hand-over, says of the exchange that is the default."""
    if times >= directly:
        return ""
    fewer = "it does not pay" if times <= 1 else f"fewer than {times:.2g} times"
    return (
        " That is by direct hand-over (train --exchange direct); through the coordinator, the "
        f"default, {fewer}."
    )


def _why_not(ist: "Round", other: "Round") -> str:
    if ist.handling > max(ist.compute, ist.exchange):
        return "Cutting and merging take most of it: use more local steps."
    if ist.compute > 0.5 * other.compute:
        return "A part takes about as long to train as the whole model: it is small, or kept whole."
    return "The link is fast and the model small: there is little to save."


MARGIN = 1.5
TIMES = 10  # the bytes of the model and its moments, that a process needs to measure it
MOST_HERE = 8  # workers that are played on this machine, each with all that training takes
NOTE = (
    "Rounds are compared at equal local steps; how many each method needs, training shows. "
    "docs/cost-model.md has every term."
)
