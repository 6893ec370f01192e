"""How `subnetwork train` keeps a run, and how it goes on with one or begins from given weights."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from subnetwork.algorithm import RunFailedError
from subnetwork.cli.console import say
from subnetwork.cli.folder import CHECKPOINTS, has_checkpoint, resumable, unfinished
from subnetwork.methods import Training
from subnetwork.record import OUT_OF_SPACE

if TYPE_CHECKING:
    from rich.console import Console

    from subnetwork.experiments.resume import Keeper, Saved, Start
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

    Where torchrun starts its processes again after a failure, the run goes on unasked.

    Raises:
        ValueError: there is no run to go on with, or no intact checkpoint of it.
    """
    from subnetwork.experiments.resume import saved

    folder = unfinished(keeping.out)
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 and has_checkpoint(folder)
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
    from subnetwork.experiments.weights import from_weights

    if old is not None:
        check_progress(t, row, old)
        if old.start.k == row.n_rounds and not has_checkpoint(unfinished(keeping.out)):
            raise ValueError(
                f"The run in {keeping.out} is complete. Ask for more: --rounds or --steps above "
                f"its {old.run.total_steps} steps."
            )
        say(console, f"goes on after round {old.start.k} of {row.n_rounds}, from {old.path}")
        return going_on(t, old)
    if keeping.start is None:
        return Start(lambda: row.x)
    start = from_weights(t, row, keeping.start)
    found = start.notes["from"]
    say(
        console,
        f"from {keeping.start}: before round 0 the test loss is {found['loss']:.4f}, the accuracy "
        f"{found['accuracy']:.1%}",
    )
    return start


@contextmanager
def kept(
    keeping: Keeping, t: "Task", start: "Start", console: "Console"
) -> Iterator[tuple[Path, "Keeper"]]:
    """Yield the folder to write the run in, and what keeps its checkpoints.

    However the run ends, what is said of it says how to go on, where that is possible.
    """
    from subnetwork.experiments.resume import Keeper

    with resumable(keeping.out, resume=keeping.resume, restart=keeping.restart) as folder:
        keeper = Keeper(
            folder / CHECKPOINTS,
            t,
            every=keeping.checkpoint_every,
            kept=start.k or None,
            say=lambda line: say(console, f"{line}; training goes on"),
        )
        try:
            yield folder, keeper
        except (KeyboardInterrupt, RunFailedError, OSError) as reason:
            raise _with_advice(reason, keeping.out, keeper.kept) from None


def _with_advice(reason: BaseException, out: Path, k: int | None) -> BaseException:
    """The same end of a run, said with how to go on."""
    if k is None:
        return KeyboardInterrupt() if isinstance(reason, KeyboardInterrupt) else reason
    flag = "" if out == Keeping().out else f" --out {out}"
    kept = "1 round is kept" if k == 1 else f"{k} rounds are kept"
    how = f"{kept}; go on with: subnetwork train --resume{flag}"
    if isinstance(reason, KeyboardInterrupt):
        return KeyboardInterrupt(f"interrupted; {how}")
    if isinstance(reason, RunFailedError):
        return type(reason)(f"{reason} {how}")
    if isinstance(reason, OSError) and reason.errno in OUT_OF_SPACE:
        return RunFailedError(f"{reason.strerror}; {how}, once there is space")
    return reason
