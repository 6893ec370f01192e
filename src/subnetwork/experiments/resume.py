"""Where a training run begins, how it is kept, and how it goes on."""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from torch import Tensor

from subnetwork.methods import Training
from subnetwork.methods.rows import Method, Task
from subnetwork.nets import ModelState, NetSketch, checkpoint
from subnetwork.nets.checkpoint import Checkpoint
from subnetwork.record import OUT_OF_SPACE, Row, force

CHANGEABLE = (
    *("workers", "rounds", "steps", "step_size", "outer_step_size", "outer_momentum"),
    *("exchange", "wire", "replicas", "shares", "clip_updates", "capacities"),
    *("test_every", "patience"),
)
"""What may be another when a run goes on; anything else makes it another run."""

SECONDS = 60.0  # about this much work is lost when a run is killed, where nothing else is asked for
STALE = "stale checkpoint"
SHARE = 20.0  # and at most a twentieth of the time goes into writing checkpoints


@dataclass(frozen=True)
class Start:
    """Where a run begins: before round k, from x, after the rows that an earlier part recorded."""

    make: Callable[[], ModelState]
    k: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)  # the last row of what came before
    notes: Mapping[str, Any] = field(default_factory=dict)  # for the headers of what is written
    source: Checkpoint | None = None  # where the run goes on

    @cached_property
    def x(self) -> ModelState:
        """The whole model, made or read when it is first asked for."""
        return self.make()


@dataclass(frozen=True)
class Edges:
    """What happens at the edges of a part of a run: where it begins, and after each of its rows."""

    show: Callable[[Row], None]
    """Is told of every row."""
    begun: Callable[[], None] = lambda: None
    """Is told when the record is there, before the first round."""
    wanted: Callable[[int], bool] = lambda _: False
    """Asked after a row whether the run is to go on as another one before round k. There is a
    checkpoint then, unless the disk is full."""
    leaves: Callable[[bool], bool] = lambda _: False
    """Told whether the checkpoint is there, and asked whether the part ends with it."""
    notes: list[dict[str, Any]] = field(default_factory=list)
    """Faults that the next row is to tell of, those of checkpoints among them."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds."""

    run: Training
    start: Start
    found: Checkpoint

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.found.path

    @property
    def law(self) -> str:
        """Of the cut, as `NetSketch.to_json` wrote it."""
        return json.dumps(self.found.header["sketch"])


class Keeper:
    """Keeps checkpoints of one run. A disk that is full costs a checkpoint, never the run."""

    def __init__(
        self,
        folder: Path,
        t: Task,
        start: Start,
        *,
        every: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Checkpoints go to `folder`, `every` so many rows, or else about once a minute.

        The record lies beside `folder`. `start` is where the run begins, `say` is told when a
        checkpoint was not written.
        """
        if every is not None and every < 1:
            raise ValueError(
                f"checkpoint_every is a whole number of rounds from 1 on, not {every}."
            )
        self._folder, self._task, self._start, self._every = folder, t, start, every
        self._rows, self._cost = 0, 0.0
        self._last = time.monotonic()
        self.kept = start.k or None  # the newest checkpoint is the one before this round
        self.goes_on = False  # in a process that has trained before: no full disk is to end it
        self._say = say

    def due(self) -> bool:
        """Whether it is time, after one more row."""
        self._rows += 1
        if self._every is not None:
            return self._rows % self._every == 0
        return time.monotonic() - self._last >= max(SECONDS, SHARE * self._cost)

    def begin(self, law: str) -> list[dict[str, Any]]:
        """Where the run goes on as another one, have its checkpoint say so from now on.

        Killed at any moment, it is then resumed as what it is. Returns the faults of a full disk:
        the checkpoint is as it was, and what was not ended for it (`go_on`) is not ended now.

        Raises:
            OSError: the disk is full where the run begins.
        """
        source = self._start.source
        if source is None or source.header["run"] == _plain(self._task.run):
            return []
        try:
            checkpoint.retell(source, self._folder, self._header(self._start.row, law))
        except OSError as error:
            if not self.goes_on or error.errno not in OUT_OF_SPACE:
                raise
            k, why = source.k, error.strerror
            line = f"the checkpoint of round {k} does not say yet how the run goes on: {why}"
            self._say(line)
            return [{"k": k, "kind": STALE, "reason": line}]
        return []

    def keep(self, k: int, x: ModelState, row: Mapping[str, Any], law: str) -> str | None:
        """Write the checkpoint before round k; says why where the disk is full, else None.

        The record's rows are on disk before it is, but for those that found no space: a checkpoint
        that is there counts on them. `law` is that of the cut (`NetSketch.to_json`): deals with
        their scores, and width.
        """

        def write(header: Mapping[str, Any]) -> None:
            force(self._folder.with_name(f"{self._task.run.method}.jsonl"))
            checkpoint.save(self._folder, k, header, tensors_of(x))

        return self.keep_by(k, row, law, write)

    def keep_by(
        self, k: int, row: Mapping[str, Any], law: str, write: Callable[[Mapping[str, Any]], object]
    ) -> str | None:
        """`keep` by a function that writes the checkpoint under a header."""
        if self.kept == k:
            return None
        started = time.monotonic()
        try:
            write(self._header(row, law))
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            stale = "there is none" if self.kept is None else f"the last is of round {self.kept}"
            line = f"no checkpoint of round {k}: {error.strerror}; {stale}"
            self._say(line)
            return line
        finally:
            self._last = time.monotonic()
            self._cost = self._last - started
        self.kept = k
        return None

    def go_on(self, t: Task, start: Start) -> None:
        """Keep the run as another one from now on, which goes on from the newest checkpoint."""
        assert self.kept == start.k
        self._task, self._start, self.goes_on = t, start, True

    def _header(self, row: Mapping[str, Any], law: str) -> dict[str, Any]:
        return {
            "run": asdict(self._task.run),
            "layout": json.loads(self._task.architecture.layout.to_json()),
            "row": dict(row),
            "sketch": json.loads(law),
            "notes": dict(self._start.notes),
        }


def tensors_of(x: ModelState) -> dict[str, Tensor]:
    """The tensors of a model and what belongs to it, under names like ``moments/momentum/w``."""
    named = {f"params/{name}": p for name, p in x.params.items()}
    for moment, tensors in x.moments.items():
        named |= {f"moments/{moment}/{name}": t for name, t in tensors.items()}
    return named | {f"outer/{name}": t for name, t in x.outer.items()}


def state_of(tensors: Mapping[str, Tensor]) -> ModelState:
    """The model that `tensors_of` gave names to."""
    params: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {}
    outer: dict[str, Tensor] = {}
    for path, tensor in tensors.items():
        kind, name = path.split("/", maxsplit=1)
        if kind == "moments":
            moment, name = name.split("/", maxsplit=1)
            moments.setdefault(moment, {})[name] = tensor
        else:
            {"params": params, "outer": outer}[kind][name] = tensor
    return ModelState(params, moments, outer)


def saved(folder: Path) -> tuple[Saved | None, list[str]]:
    """The newest intact checkpoint in a folder of checkpoints, and what is wrong with newer ones.

    Raises:
        ValueError: there are checkpoints, and none is intact.
    """
    found, damage = checkpoint.newest(folder)
    if found is None and damage:
        raise ValueError(f"No checkpoint is intact: {'; '.join(damage)}. Start again: --restart.")
    return (None if found is None else read(found)), damage


def read(found: checkpoint.Checkpoint) -> Saved:
    """The run, the model and the last row of a checkpoint."""
    run, of = training_of(found.header["run"]), found.header
    start = Start(lambda: state_of(found.tensors()), found.k, of["row"], of.get("notes", {}), found)
    return Saved(run, start, found)


def _plain(run: Training) -> dict[str, Any]:
    """A run as it is read from JSON."""
    fields_of: dict[str, Any] = json.loads(json.dumps(asdict(run)))
    return fields_of


def training_of(config: Mapping[str, Any]) -> Training:
    """The run of a checkpoint's or a record's header; what else stands in there is left out.

    Raises:
        ValueError: a field holds what a run cannot have.
    """
    known = get_type_hints(Training)
    held = {name: value for name, value in config.items() if name in known}
    for name, value in held.items():
        if not _is(value, known[name]):
            raise ValueError(f"it has {name}={value!r}, which is no {name} of a run")
    return Training.from_json(json.dumps(held))


def _is(value: object, kind: Any) -> bool:  # noqa: ANN401 - any type of a field
    """Whether JSON has what a field of this type holds; a whole number is a float too."""
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_is(v, get_args(kind)[0]) for v in value)
    kinds = get_args(kind) or (kind,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def continued(old: Training, asked: Training, given: Collection[str]) -> Training:
    """The run that goes on: as it was, with what was asked for and may change.

    Args:
        old: the run so far.
        asked: the run that the command line asked for.
        given: what it said, defaults or not; what is no field of a run is left out.

    Raises:
        ValueError: a field differs that makes it another run.
    """
    said = [f.name for f in fields(Training) if f.name in given]
    changes = {name: getattr(asked, name) for name in said}
    if "rounds" in said and "steps" not in said:
        old = replace(old, steps=None)  # a budget of steps would leave the rounds unheard
    changes = {name: value for name, value in changes.items() if value != getattr(old, name)}
    for name, value in changes.items():
        if name not in CHANGEABLE:
            flag = name.replace("_", "-")
            raise ValueError(
                f"The run so far has {name}={getattr(old, name)}, not {value}: with another one it "
                f"is another run. Leave --{flag} out, or start anew in another folder with --out."
            )
    if changes.get("exchange") == "star":
        own = {"wire": "float32", "replicas": 0}  # a coordinator sends and keeps all as it is
        changes = {name: value for name, value in own.items() if name not in said} | changes
    return replace(old, **changes)


def going_on(t: Task, old: Saved) -> Start:
    """The start of the rounds after a checkpoint, with a line on it for the headers."""
    before, notes = asdict(old.run), old.start.notes
    changed = {name: [before[name], v] for name, v in asdict(t.run).items() if v != before[name]}
    resumed = [*notes.get("resumed", ()), {"k": old.start.k, "changed": changed}]
    return replace(old.start, notes={**notes, "resumed": resumed})


def check_progress(t: Task, method: Method, saved: Saved) -> None:
    """Raise ValueError unless the rounds so far are rounds of the run that is asked for."""
    old, k = saved.run, saved.start.k
    last = saved.start.row["k"]
    if last != k - 1:
        raise ValueError(
            f"The checkpoint {saved.path} is damaged: it comes before round {k}, but its last row "
            f"is of round {last}, not {k - 1}. Remove it, and --resume goes on from the one before."
        )
    if (old.workers, old.capacities) == (t.run.workers, t.run.capacities):
        before = NetSketch.from_json(method.sketch.layout, saved.law)
        if (before.deals, before.width) != (method.sketch.deals, method.sketch.width):
            raise ValueError(
                f"The checkpoint {saved.path} is of a run that was cut by another law: "
                f"{saved.law}. Go on from Python with NetSketch.from_json, or start anew."
            )
    done = saved.start.row["steps"]
    if done > t.run.total_steps:
        raise ValueError(
            f"The run has done {done} steps in {k} rounds already, more than the "
            f"{t.run.total_steps} steps that are asked for. Ask for more, or leave --rounds and "
            "--steps out."
        )
    if k * method.steps_a_round > old.total_steps and t.run.total_steps != old.total_steps:
        raise ValueError(
            f"The run ended with a shorter round, at its {old.total_steps} steps, and cannot get "
            f"longer. Start anew with --steps {t.run.total_steps}."
        )
