"""The commands by name, and what their ends mean to the shell.

Exit status: 0 done, 1 a claim did not hold, 2 the user's mistake, 3 a failure at run time,
130 interrupted. Commands are imported when they are called, since torch takes seconds to import.
"""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, get_args

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, Token, convert

import subnetwork
from subnetwork.algorithm import RunFailedError
from subnetwork.cli.config import flags_of, winning, with_its_file
from subnetwork.cli.console import Output
from subnetwork.cli.streams import lose_words_rather_than_runs

TRACEBACK = "SUBNETWORK_TRACEBACK"  # set it to see where an unexpected error comes from
NO_MEMORY = "can't allocate memory"  # what torch says where the processor's memory is short
NO_THREAD = "can't start new thread"  # what Python says where there is none for its stack
DONE, NOT_HELD, MISTAKE, FAILURE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 3, 130, 141
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _whole_numbers(kind: Any, tokens: Sequence[Token]) -> Any:  # noqa: ANN401 - any flag's type
    """What cyclopts makes of a flag's words, but 1.9 is no whole number."""
    if int in (kind, *get_args(kind)) and float not in get_args(kind):
        for token in tokens:
            if "." in token.value:
                raise ValueError(
                    f"{token.keyword or 'a flag'} is a whole number, not {token.value}."
                )
    return convert(kind, tokens)


app = App(
    name="subnetwork",
    help="Independent subnetwork training: the theory as a lab, the practice as an engine.",
    version=subnetwork.__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(converter=_whole_numbers, consume_multiple=True),
)
app.meta.suppress_keyboard_interrupt = False


def _say_what_was_given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in the hidden --given of a command: the fields that its flags, or its file, set.

    A flag that was said with its default's value is not a flag that was left out.
    """
    del app, commands
    hidden = [argument for argument in arguments if argument.name == "--given"]
    for argument in arguments:
        if hidden and argument.tokens and argument not in hidden:
            name = argument.keys[-1] if argument.keys else argument.name.lstrip("-")
            hidden[0].append(Token(keyword="--given", value=name, index=len(hidden[0].tokens)))


app.config = (_say_what_was_given,)
lab = App(name="lab", help="Sketches, exact curves and theorems on quadratics; no torch needed.")
app.command(lab)
app.command(
    "subnetwork.cli.demo:demo",
    help="Train IST and its baselines on digits, run two theorems, write a page.",
)
app.command(
    "subnetwork.cli.train:train", help="Train a network on worker processes, or under torchrun."
)
app.command("subnetwork.cli.plan:plan", help="Say how a model is cut, and whether it pays.")
app.command(
    "subnetwork.cli.scale:scale", help="Have a running run go on with more or fewer workers."
)
app.command("subnetwork.cli.watch:watch", help="Show a run and its workers as it goes.")
app.command(
    "subnetwork.cli.evaluate:evaluate", help="Test a run's merged model on the data of the run."
)
app.command("subnetwork.cli.export:export", help="Write a run's merged model for the plain module.")
app.command("subnetwork.cli.report:report", help="Write the page of a folder of records again.")
lab.command("subnetwork.cli.lab:run", help="Run an experiment: measured, exact and proven.")
lab.command(
    "subnetwork.cli.lab:listing",
    name="list",
    help="List experiments, problems, sketches and methods.",
)
lab.command("subnetwork.cli.lab:figure", help="Write an experiment's figure, SVG or PNG.")
lab.command("subnetwork.cli.lab:sweep", help="Run a grid of methods, computing nothing twice.")
lab.command("subnetwork.cli.lab:verify", help="Check the paper's equations, one line each.")


@app.meta.default
def _with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="A TOML file of flags; flags win.")] = None,
) -> object:
    filed: set[str] = set()
    file = [flags_of(config), winning(filed)] if config else []
    app.config = (*file, _say_what_was_given)
    try:
        return app(tokens, exit_on_error=False, print_error=False)
    except ValueError as mistake:
        if config is None:
            raise
        raise with_its_file(mistake, filed, config) from mistake


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status. A mistake costs one line on stderr."""
    for ends in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ends, _interrupt)
    app.config = (_say_what_was_given,)  # not the file of an earlier call
    lose_words_rather_than_runs()
    try:
        status = app.meta(arguments, console=Output(), exit_on_error=False, print_error=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get(TRACEBACK):
            raise
        line, status = _verdict(error)
        print(f"subnetwork: {' '.join(line.split())}", file=sys.stderr)  # noqa: T201
    return status if isinstance(status, int) else DONE


def _verdict(error: BaseException) -> tuple[str, int]:
    """The line and the exit status of an error."""
    line, status = str(error), FAILURE
    match error:
        case CycloptsError() | ValueError():
            status = MISTAKE
        case RunFailedError():
            pass
        case KeyboardInterrupt():
            line, status = line or "interrupted; nothing was written", INTERRUPTED
        case ModuleNotFoundError(name="torch"):
            line = "training needs torch, which is not installed: pip install 'subnetwork[train]'"
            status = MISTAKE
        case OSError():
            line, status = _of_the_system(error)
        case MemoryError():
            why = line or "the system has none to give"
            line = f"not enough memory: {why}. Ask for less: fewer rounds or seeds, a smaller model"
        case _:
            line = _unexpected(error)
    return line, status


def _of_the_system(error: OSError) -> tuple[str, int]:
    """The line and the exit status of what the system refuses."""
    if error.errno == errno.ENOMEM:
        return _short_of("the system has none to give"), FAILURE
    if error.strerror is None:
        return _unexpected(error), FAILURE
    line = error.strerror + (f": {error.filename}" if error.filename else "")
    if error.errno not in OUT_OF_SPACE:
        return line, MISTAKE
    rest = "nothing was written. Free some space, or choose another disk with --out"
    return f"{line}; {rest}", FAILURE


def _unexpected(error: BaseException) -> str:
    """The line of an error that nobody raised on purpose."""
    line = str(error)
    if NO_MEMORY in line:
        return _short_of(f"torch {line[line.index(NO_MEMORY) :].rstrip('.')}")
    if NO_THREAD in line:
        return (
            "the system can't start a new thread: memory is short, or the user's processes are too "
            "many (ulimit -u). Ask for less: fewer workers, or a smaller network"
        )
    return (
        f"unexpected {type(error).__name__}: {line}. This is a defect: {TRACEBACK}=1 in the "
        "environment shows where; please report it"
    )


def _short_of(why: str) -> str:
    return (
        f"not enough memory: {why}. Ask for less: a smaller network or batch, or --exchange "
        "direct, whose ranks hold parts of the model"
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    for ends in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ends, signal.SIG_IGN)  # once is enough: what follows is a short cleaning up
    raise KeyboardInterrupt
