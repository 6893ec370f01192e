"""How `subnetwork train` keeps a run, and how it goes on with one or begins from given weights."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from subnetwork.algorithm import RunFailedError
from subnetwork.cli.console import say
from subnetwork.cli.folder import CHECKPOINTS, Held, has_checkpoint, resumable, unfinished
from subnetwork.environment import restarts_under_torchrun
from subnetwork.methods import Training
from subnetwork.record import OUT_OF_SPACE, ended

if TYPE_CHECKING:
    from rich.console import Console

    from subnetwork.experiments.resume import Keeper, Saved, Start
    from subnetwork.loggers import Logger
    from subnetwork.methods.rows import Method, Task


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How a run is kept and begun."""

    out: Path = Path("runs/train")
    """The run's folder. It appears when the run is complete and replaces an earlier run then; until
    then the run lies in OUT.unfinished."""
    resume: bool = False
    """Go on with the run in OUT.unfinished, or with the one in OUT and more rounds; with the same
    number of workers or another one."""
    restart: bool = False
    """Give up the run in OUT.unfinished and begin anew."""
    checkpoint_every: int | None = None
    """Rounds of `local_steps` steps between two checkpoints; if left out, about a minute."""
    start: Annotated[Path | None, Parameter(name="--from")] = None
    """Begin with these weights: a state_dict of the plain module, as .safetensors or saved by
    torch.save."""
    log: tuple[str, ...] = ()
    """Who else is told of every row: tensorboard, or file.py:NAME of your own."""

    def __post_init__(self) -> None:
        chosen = [f for f, on in self._begins.items() if on]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} begin a run in two ways. Choose one of them.")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise ValueError(
                f"checkpoint_every is a whole number of rounds from 1 on, not "
                f"{self.checkpoint_every}."
            )

    @property
    def _begins(self) -> dict[str, bool]:
        return {
            "--resume": self.resume,
            "--restart": self.restart,
            "--from": self.start is not None and not self.restart,
        }


def earlier(keeping: Keeping, console: "Console") -> tuple[Keeping, "Saved | None"]:
    """The run to go on with, or None where a new one begins.

    Where torchrun starts its processes again after a failure, the run goes on unasked. Its folder
    is held: nobody writes a newer checkpoint meanwhile, or removes this one.

    Raises:
        ValueError: there is no run to go on with, or no intact checkpoint of it.
    """
    from subnetwork.experiments.resume import saved

    folder = unfinished(keeping.out)
    again = restarts_under_torchrun() > 0 and has_checkpoint(folder)
    if not (keeping.resume or again):
        return keeping, None
    if not has_checkpoint(folder):
        folder = keeping.out
    found, damage = saved(folder / CHECKPOINTS)
    if found is None:
        raise ValueError(
            f"There is no run to go on with in {keeping.out}: no checkpoint was written yet. "
            "Leave --resume out, or name the run's folder with --out."
        )
    for line in damage:
        say(console, f"skipped a damaged checkpoint: {line}")
    return replace(keeping, resume=True, restart=False, start=None), found


def exchange_of_run(asked: Training, keeping: Keeping, given: Collection[str]) -> str:
    """How the run will exchange, as far as that can be told without torch, which takes seconds.

    Of one that goes on, the newest checkpoint's header says it; what is wrong with that is said
    when the checkpoint is read.
    """
    if keeping.resume and "exchange" not in given:
        folders = [of / CHECKPOINTS for of in (unfinished(keeping.out), keeping.out)]
        headers = [sorted(folder.glob("round-*/header.json")) for folder in folders]
        with suppress(OSError, ValueError, LookupError, TypeError, StopIteration):
            newest = next(found[-1] for found in headers if found)
            return str(json.loads(newest.read_text(encoding="utf-8"))["run"]["exchange"])
    return asked.exchange


def loggers(keeping: Keeping) -> "list[Logger]":
    """The loggers that --log names.

    Raises:
        ValueError: there is none of that name, its package is missing, or its file makes none.
    """
    from subnetwork.cli.models import made_by
    from subnetwork.loggers import logger_named

    found = []
    for name in keeping.log:
        path, colon, function = name.rpartition(":")
        one = made_by(Path(path), function, "a logger") if colon else logger_named(name)
        lacking = [m for m in ("begin", "row", "end") if not callable(getattr(one, m, None))]
        if lacking:
            raise ValueError(
                f"{name} makes a {type(one).__name__} without {' and '.join(lacking)}: a logger "
                "has the methods begin, row and end. See docs/add-a-logger.md."
            )
        found.append(one)
    return found


def continued_as(old: "Saved", asked: Training, given: Collection[str]) -> Training:
    """The run that goes on, with what the command line changes."""
    from subnetwork.experiments.resume import continued

    return continued(old.run, asked, given)


def begun(
    keeping: Keeping, t: "Task", row: "Method", old: "Saved | None", console: "Console"
) -> "Start":
    """Where the run begins: at its checkpoint, from given weights, or from its seed.

    Raises:
        ValueError: there is nothing left to do, or the weights do not fit the network.
    """
    from subnetwork.experiments.resume import Start, check_progress, going_on
    from subnetwork.experiments.training import lost
    from subnetwork.experiments.weights import from_weights

    if old is not None:
        check_progress(t, row, old)
        if old.start.k == row.n_rounds and not has_checkpoint(unfinished(keeping.out)):
            raise ValueError(
                f"The run in {keeping.out} is complete. Ask for more: --rounds or --steps above "
                f"its {old.run.total_steps} steps."
            )
        say(console, f"goes on after round {old.start.k} of {row.n_rounds}, from {old.path}")
        for line in lost(old.path.parents[1] / f"{old.run.method}.jsonl", old.start):
            say(console, line)
        return going_on(t, old)
    if keeping.start is None:
        return Start(lambda: row.x)
    start = from_weights(t, row, keeping.start)
    found = start.notes["from"]
    say(
        console,
        f"from {keeping.start}: before round 0 the {t.run.measure} loss is {found['loss']:.4f}, "
        f"the accuracy {found['accuracy']:.1%}",
    )
    return start


def keeper_of(keeping: Keeping, t: "Task", start: "Start", console: "Console") -> "Keeper":
    """What keeps the run's checkpoints."""
    from subnetwork.experiments.resume import Keeper

    return Keeper(
        unfinished(keeping.out) / CHECKPOINTS,
        t,
        start,
        every=keeping.checkpoint_every,
        say=lambda line: say(console, f"{line}; training goes on"),
    )


@contextmanager
def kept(held: Held, keeping: Keeping, keeper: "Keeper", n_rounds: int) -> Iterator[Path]:
    """Yield the folder to write the run in.

    However the run ends, what is said of it says how to go on, where that is possible.
    """
    begun = False  # until then, what is refused is said as it is
    try:
        with resumable(held, resume=keeping.resume, restart=keeping.restart) as folder:
            begun = True
            yield folder
    except (KeyboardInterrupt, RunFailedError, OSError) as reason:
        if not begun:
            raise
        raise _with_advice(reason, keeping.out, keeper.kept, n_rounds) from None


@contextmanager
def ended_in_words(record: Path, keeper: "Keeper") -> Iterator[None]:
    """However a run ends, also between two parts, its record has a last line that says how."""
    try:
        yield
    except BaseException as reason:  # Ctrl-C too; it goes on up
        interrupt = isinstance(reason, KeyboardInterrupt)
        how = f"interrupted after {keeper.kept or 0} rounds" if interrupt else type(reason).__name__
        ended(record, str(reason) or how)
        raise


def _with_advice(reason: BaseException, out: Path, k: int | None, n_rounds: int) -> BaseException:
    """The same end of a run, said with how to go on."""
    if k is None:
        return KeyboardInterrupt() if isinstance(reason, KeyboardInterrupt) else reason
    flag = "" if out == Keeping().out else f" --out {out}"
    kept = "1 round is kept" if k == 1 else f"{k} rounds are kept"
    how = f"{kept}; go on with: subnetwork train --resume{flag}"
    if isinstance(reason, KeyboardInterrupt):
        return KeyboardInterrupt(_done(out, k, flag) if k == n_rounds else f"interrupted; {how}")
    if isinstance(reason, RunFailedError):
        return type(reason)(f"{reason} {how}")
    if isinstance(reason, OSError) and reason.errno in OUT_OF_SPACE:
        return RunFailedError(f"{reason.strerror}; {how}, once there is space")
    return reason


def _done(out: Path, k: int, flag: str) -> str:
    """What an interrupt costs a run that has done all its rounds."""
    if has_checkpoint(unfinished(out)):
        return f"all {k} rounds are done; write the model with: subnetwork train --resume{flag}"
    return f"all {k} rounds are done, and the run is complete in {out}"
