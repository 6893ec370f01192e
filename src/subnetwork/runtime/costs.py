"""What a round costs: seconds, bytes and memory of IST and of what it is compared with.

Numbers in, numbers out; nothing is measured here. `docs/cost-model.md` states every term with its
assumption. Entries are numbers of a tensor; bytes are payload unless said to be wire bytes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

WIRES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Bytes of one entry on the wire."""
FLOAT = 4  # bytes of an entry in memory
BUCKET = 25 * 2**20
"""Bytes of gradients that DDP reduces at once, torch's default: one bucket cannot overlap."""
TCP_SHARE = 1448 / 1514
"""Payload in an Ethernet frame of 1514 bytes under IPv4 and TCP with timestamps."""
SLOWEST, LONGEST, MOST_STEPS = 1.0, 86_400.0, 10**12  # bits per second; seconds; of a round
BACKWARD_SHARE = 2 / 3  # of the time of a step


@dataclass(frozen=True)
class Sizes:
    """Entries of a model, and of the largest subnetwork of it."""

    whole: int
    part: tuple[int, ...]
    """Entries of one subnetwork that are cut along 0, 1, 2, ... dims; the first are shared."""
    activations_whole: int = 0  # bytes that a forward pass keeps
    activations_part: int = 0
    moments: int = 0  # of the local optimizer, an entry each
    counters: tuple[int, ...] = ()
    """Adam's counts of steps in one subnetwork, by how many dims their parameters are cut along:
    one per unit, or pair of units. They are sent as float32, whatever the wire."""
    largest: int = 0  # entries of the largest parameter of the model
    lines: int = 0
    """Of parameters that are cut along two dims or more: what has a unit of each of these dims."""
    trained: int | None = None  # entries of the model that have gradients; None: all

    @property
    def held(self) -> int:
        """Entries of one subnetwork."""
        return sum(self.part)


@dataclass(frozen=True)
class Pace:
    """Seconds of processor time on one core; what is 0 is left out of the prediction."""

    step_whole: float  # forward, backward and optimizer of the whole model on one batch
    step_part: float  # of a subnetwork
    handling: float = 0.0
    """A coordinator's cutting and merging of all subnetworks of a round, with the merge's step."""
    averaging: float = 0.0  # copying a whole model into a flat buffer
    batch: float = 0.0  # making a batch
    around_whole: float = 0.0  # a round of local work beside its steps: copies, module, optimizer
    around_part: float = 0.0
    direct: float | None = None
    """One worker's share of a direct hand-over; None: the coordinator's handling, divided by n."""
    outer: float = 0.0  # DiLoCo's step over the whole model
    buckets: float = 0.0  # copying the gradients of a step into DDP's buckets, and the means back
    reducing: float = 0.0
    """For a byte that a worker sends, and gets, in an all-reduce: adding and copying."""
    waiting: float = 0.0
    """Seconds of the wall for such a byte where links cost nothing: workers wait for each other."""
    message: float = 0.0  # to another worker and one from it, whatever is in them
    ddp: bool = False  # whether `buckets` were measured by steps of DDP
    messages: float | None = None
    """No seconds: how many a rank sends in a round of direct hand-over, among as many workers, by
    the deal and wire that were measured. None: one to each other in each wait."""


@dataclass(frozen=True)
class Network:
    """The link of every worker, the same up and down."""

    bandwidth: float  # bits per second; infinity for a link that costs nothing
    latency: float = 0.0  # seconds from any worker to any other
    share: float = TCP_SHARE  # of the bandwidth that is payload
    copying: float = 0.0  # processor seconds for a byte that a worker sends and one that it gets

    def __post_init__(self) -> None:
        if not self.bandwidth >= SLOWEST:
            raise ValueError(
                f"bandwidth={self.bandwidth} bits per second is no network. Use {SLOWEST:g} or "
                "more; infinity is a link that costs nothing."
            )
        if not 0 <= self.latency <= LONGEST:
            raise ValueError(
                f"latency={self.latency} is no latency. Use 0 to {LONGEST:g} seconds, which is a "
                "day."
            )

    def seconds(
        self, n_bytes: float, hops: float, crowding: float = 1.0, reducing: float = 0.0
    ) -> float:
        """To move so many bytes over the busiest link, in so many waits for another worker.

        Where workers share cores, what the processor does takes `crowding` times as long: copying,
        or `reducing` seconds a byte, in which copying is. It goes on beside the transfer, so the
        slower of the two counts.
        """
        wire = 8 * n_bytes / (self.bandwidth * self.share)
        busy = crowding * max(self.copying, reducing) * n_bytes
        return max(wire, busy) + hops * self.latency


@dataclass(frozen=True)
class Setting:
    """How training is set up."""

    n_workers: int
    n_steps: int  # local steps of a round, tau
    wire: str = "float32"
    period: int | None = 1  # Lazy: a unit is dealt anew once in so many rounds; None: never
    cores: float | None = None  # that the workers share; None: one for each
    reduce: str = "ring"  # how all-reduce works: ring or tree
    replicas: int = 0  # of every rank's part, in direct hand-over: 0 or 1
    outer: bool = False  # IST's merge steps with momentum, as DiLoCo's

    def __post_init__(self) -> None:
        if self.wire not in WIRES:
            raise ValueError(f"There is no wire {self.wire!r}. Known are: {', '.join(WIRES)}.")
        if self.reduce not in ("ring", "tree"):
            raise ValueError(f"There is no all-reduce {self.reduce!r}. Known are: ring, tree.")
        if self.replicas not in (0, 1):
            raise ValueError(f"Replicas are 0 or 1, not {self.replicas}: one death is survived.")
        if self.n_workers < 2 or self.n_steps < 1:
            raise ValueError(
                f"A round has two workers or more and one local step or more, not "
                f"{self.n_workers} and {self.n_steps}."
            )
        if self.n_steps > MOST_STEPS:
            raise ValueError(
                f"A round has {MOST_STEPS:,} local steps at most. Use fewer: merge more often."
            )
        if (self.period is not None and self.period < 1) or (
            self.cores is not None and not self.cores > 0
        ):
            raise ValueError(
                f"period={self.period} and cores={self.cores} are positive: 1 deals every unit in "
                "every round, and workers without a core compute nothing."
            )

    @property
    def crowding(self) -> float:
        """By how much a step takes longer because workers share cores."""
        return 1.0 if self.cores is None else max(1.0, self.n_workers / self.cores)


@dataclass(frozen=True)
class Round:
    """What a round of one method costs one worker: the busiest, where they differ."""

    compute: float  # seconds of local steps
    exchange: float  # seconds on the wire that no computing hides
    handling: float  # seconds of cutting, merging, copying
    bytes_down: float  # payload that a worker receives
    bytes_up: float
    memory: float  # bytes of a worker: parameters, gradients, moments, activations, buffers

    @property
    def seconds(self) -> float:
        """Of the whole round."""
        return self.compute + self.exchange + self.handling


def moved(n_workers: int, period: int | None, n_axes: int) -> float:
    """Share of a block's entries that come from another worker when they are dealt.

    An entry stays if no unit of its axes is dealt anew; else its last holder is taken for any of n.
    Exact for one axis, and for every round of a Perm; an upper bound for lazy deals of two axes,
    where an entry is more likely to come back to who had it.

    >>> moved(4, 1, 1), moved(4, 2, 1), moved(4, None, 2)
    (0.75, 0.375, 0.0)
    """
    if period is None:
        return 0.0
    untouched = (1 - 1 / period) ** n_axes
    return (1 - 1 / n_workers) * (1 - untouched)


def sent(sizes: Sizes, setting: Setting) -> float:
    """Bytes of an entry of a part on its way, with its moments, which int8 leaves at 16 bits.

    >>> sent(Sizes(8, (8,), moments=2), Setting(2, 1, wire="int8"))
    5
    """
    return WIRES[setting.wire] + (sizes.moments + setting.outer) * _of_moment(setting)


def _of_moment(setting: Setting) -> int:
    return max(WIRES[setting.wire], WIRES["bfloat16"])


def direct(sizes: Sizes, pace: Pace, network: Network, setting: Setting) -> Round:
    """IST without a server: each entry that changes hands travels once; shared ones are reduced."""
    n, wire = setting.n_workers, sent(sizes, setting)
    whole = FLOAT * (1 + sizes.moments + setting.outer)
    shared, *cut = sizes.part
    handed = sum(moved(n, setting.period, k) * size for k, size in enumerate(cut, 1))
    one_way = wire * (handed + 2 * (n - 1) / n * shared)
    one_way -= setting.outer * _of_moment(setting) * 2 * (n - 1) / n * shared  # stays with keepers
    for k, size in enumerate(sizes.counters):
        one_way += FLOAT * size * (moved(n, setting.period, k) if k else 2 * (n - 1) / n)
    hops = (1 if handed or shared else 0) + (1 if shared else 0)  # shared ones meet at a keeper
    messages = hops * (n - 1) if pace.messages is None else pace.messages
    own, idle = _copied(sizes, setting)
    memory = _directly(sizes, setting, one_way)
    if setting.replicas:  # of the shard; what was sent, and the rest of the neighbour's part
        memory += whole * _idle(sizes.part, n) + one_way + whole * own
        one_way += whole * (own + idle)
        hops += 3  # replicas, and a word at the end of each stage
        messages += 1 + 2 * (n - 1)
    handling = pace.handling / n if pace.direct is None else pace.direct
    return Round(
        compute=_part_compute(pace, setting),
        exchange=network.seconds(one_way, hops, setting.crowding),
        handling=(handling + messages * pace.message) * setting.crowding,
        bytes_down=one_way,
        bytes_up=one_way,
        memory=memory,
    )


def stored(sizes: Sizes, n_workers: int, *, outer: bool = False) -> float:
    """Bytes that a rank of direct hand-over has between two rounds.

    Its part, what all hold a second time, its share of what nobody holds, and a bit for each line
    of a matrix that is cut on both sides; Adam's counts of steps likewise. The momentum of a merge
    that steps (`outer`) is there once.
    """
    n = n_workers
    own = sizes.held + _idle(sizes.part, n)
    entries = (1 + sizes.moments) * (own + sizes.part[0]) + outer * own
    counts = sum(sizes.counters) + _idle(sizes.counters, n)
    return FLOAT * (entries + counts) + (1 + bool(sizes.counters)) * sizes.lines / 8


def _directly(sizes: Sizes, setting: Setting, one_way: float) -> float:
    """Bytes of a rank that exchanges so many each way.

    Beside what it stores, at one time after another: the largest parameter as it is drawn, with
    its moments; gradients and activations; what leaves, what arrives, the largest block anew, and
    who sends which line. A merge that steps wants what the part was before training until then.
    """
    n, an_entry = setting.n_workers, FLOAT * (1 + sizes.moments + setting.outer)
    drawn = an_entry * sizes.largest
    training = FLOAT * sizes.held + sizes.activations_part
    exchange = 2 * one_way + drawn / n + n * sizes.lines / 8
    before = FLOAT * sizes.held * setting.outer
    return stored(sizes, n, outer=setting.outer) + max(drawn, before + training, before + exchange)


def _idle(part: tuple[int, ...], n: int) -> float:
    """Entries of a rank's share of what nobody holds: n^k blocks make a tensor, of which n are."""
    entries: float = sum(size * (n ** (k - 1) - 1) for k, size in enumerate(part) if k)
    return entries


def _copied(sizes: Sizes, setting: Setting) -> tuple[float, float]:
    """Entries that a rank sends its neighbour: of its block, and those that become idle.

    Of a block cut along k dims: those that no other worker sent; those that nobody holds next.
    """
    n, (shared, *cut) = setting.n_workers, sizes.part
    own, idle = shared / n, 0.0
    for k, size in enumerate(cut, 1):
        dealt = moved(n, setting.period, k)
        own += size * (1 - dealt)
        idle += size * dealt * n / (n - 1) * (1 - n ** (1 - k))
    return own, idle


def star(sizes: Sizes, pace: Pace, network: Network, setting: Setting) -> Round:
    """IST through a coordinator that is worker 0 too: every subnetwork goes down and comes back.

    Who has its subnetwork early sends it back while others still get theirs. Where all get theirs
    at once the coordinator's link carries 2 (n - 1) of them one after another, where they get them
    in turn n; connections that share a link do something in between, and it is taken in the middle.
    Worker 0 has its own at once: where workers share cores it trains while the others get theirs.
    """
    n = setting.n_workers
    one_after_another = (n + 2 * (n - 1)) / 2
    one_way = FLOAT * ((1 + sizes.moments) * sizes.held + sum(sizes.counters))
    down = network.seconds(one_after_another / 2 * one_way, 1, setting.crowding)
    return Round(
        compute=_behind(down, _part_compute(pace, replace(setting, cores=None)), setting),
        exchange=network.seconds(one_after_another * one_way, 2, setting.crowding),
        handling=pace.handling + (n - 1) * pace.message,
        bytes_down=one_way,
        bytes_up=one_way,
        memory=_training(sizes.held, sizes) + sizes.activations_part + one_way,
    )


def local_sgd(sizes: Sizes, pace: Pace, network: Network, setting: Setting) -> Round:
    """Whole models, averaged by an all-reduce after each round; moments stay where they are."""
    one_way, exchange = _all_reduce(WIRES[setting.wire] * sizes.whole, pace, network, setting)
    return Round(
        compute=(setting.n_steps * (pace.step_whole + pace.batch) + pace.around_whole)
        * setting.crowding,
        exchange=exchange,
        handling=pace.averaging * setting.crowding,
        bytes_down=one_way,
        bytes_up=one_way,
        memory=_training(sizes.whole, sizes)
        + sizes.activations_whole
        + WIRES[setting.wire] * sizes.whole,
    )


def diloco(sizes: Sizes, pace: Pace, network: Network, setting: Setting) -> Round:
    """Local SGD, whose workers keep the last global model and an outer momentum as well."""
    as_local = local_sgd(sizes, pace, network, setting)
    return Round(
        as_local.compute,
        as_local.exchange,
        as_local.handling + pace.outer * setting.crowding,
        as_local.bytes_down,
        as_local.bytes_up,
        as_local.memory + 2 * FLOAT * sizes.whole,
    )


def ddp(sizes: Sizes, pace: Pace, network: Network, setting: Setting) -> Round:
    """As many steps of whole models with a gradient all-reduce in each, behind the backward pass.

    All buckets but the last one may travel while the backward pass goes on. What the processor does
    for them is not hidden: it is taken from the backward pass.
    """
    gradients = FLOAT * (sizes.whole if sizes.trained is None else sizes.trained)
    one_way, exchange = _all_reduce(gradients, pace, network, setting)
    step = (pace.step_whole + pace.batch) * setting.crowding
    may_hide = 1 - min(1.0, BUCKET / max(1, gradients))
    idle = max(0.0, exchange - pace.reducing * setting.crowding * one_way)
    hidden = min(BACKWARD_SHARE * pace.step_whole * setting.crowding, may_hide * idle)
    return Round(
        compute=setting.n_steps * step,
        exchange=setting.n_steps * (exchange - hidden),
        handling=setting.n_steps * pace.buckets * setting.crowding,
        bytes_down=setting.n_steps * one_way,
        bytes_up=setting.n_steps * one_way,
        memory=_training(sizes.whole, sizes) + sizes.activations_whole + gradients,
    )


METHODS = {
    "IST, direct": direct,
    "IST, coordinator": star,
    "Local SGD": local_sgd,
    "DiLoCo": diloco,
    "DDP": ddp,
}
OF_IST = ("IST, direct", "IST, coordinator")


def predict(sizes: Sizes, pace: Pace, network: Network, setting: Setting) -> dict[str, Round]:
    """The cost of a round of `n_steps` local steps, by method.

    Raises:
        ValueError: a round takes more seconds than there are numbers for.
    """
    costs = {name: cost(sizes, pace, network, setting) for name, cost in METHODS.items()}
    endless = [name for name, cost in costs.items() if not math.isfinite(cost.seconds)]
    if endless:
        raise ValueError(
            f"A round of {endless[0]} takes more seconds than there are numbers for. Use more "
            f"cores than {setting.cores} for {setting.n_workers} workers, or fewer steps."
        )
    return costs


def break_even(costs: Mapping[str, Round], ist: str = "IST, direct") -> tuple[str, float]:
    """The fastest method that is not IST, and how many times its steps IST may need at most.

    Below 1 IST does not pay, even if it needed no more steps than the other.
    """
    others = {name: cost.seconds for name, cost in costs.items() if name not in OF_IST}
    best = min(others, key=others.__getitem__)
    return best, others[best] / costs[ist].seconds


def _part_compute(pace: Pace, setting: Setting) -> float:
    """Seconds of a round of local steps of a subnetwork."""
    steps = setting.n_steps * (pace.step_part + pace.batch)
    return (steps + pace.around_part) * setting.crowding


def _behind(down: float, alone: float, setting: Setting) -> float:
    """Seconds of all workers' local steps, of which one has a head start of `down` seconds.

    Args:
        down: until the others begin.
        alone: seconds of each worker on a core of its own.
        setting: how many share how many cores.
    """
    if setting.cores is None:
        return alone
    return max(alone, (setting.n_workers * alone - min(down, alone)) / setting.cores)


def _training(entries: int, sizes: Sizes) -> float:
    """Bytes of parameters, gradients and moments."""
    return FLOAT * entries * (2 + sizes.moments)


def _hops(setting: Setting) -> float:
    """Waits for another worker in one all-reduce."""
    if setting.reduce == "tree":
        return 2 * math.ceil(math.log2(setting.n_workers))
    return 2 * (setting.n_workers - 1)


def _all_reduce(
    n_bytes: float, pace: Pace, network: Network, setting: Setting
) -> tuple[float, float]:
    """Bytes of a worker in each direction, and seconds, of the mean of n flat buffers."""
    n, hops = setting.n_workers, _hops(setting)
    # a tree sends whole buffers, one level after another
    tree = setting.reduce == "tree"
    one_way = 2 * n_bytes if tree else 2 * (n - 1) / n * n_bytes
    passed_on = hops * n_bytes if tree else one_way
    a_byte = max(pace.reducing, pace.waiting)
    return one_way, network.seconds(passed_on, hops, setting.crowding, a_byte)
