"""Loggers: who is told of a run as it goes, beside its record (docs/add-a-logger.md)."""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias

__all__ = ["Logger", "logged", "logger_named"]

Row: TypeAlias = Mapping[str, Any]


class Logger(Protocol):
    """What is told of a run. Whatever it raises costs the logger, never the run."""

    def begin(self, folder: Path, config: Row, k: int, /) -> None:
        """A run of this config begins in a folder, before round k: 0, or where it goes on."""
        ...

    def row(self, row: Row, /) -> None:
        """A row was recorded; docs/runs.md lists its fields. It is the logger's own copy."""
        ...

    def end(self, reason: str, /) -> None:
        """The run has ended: "done", or why it ended early."""
        ...


@contextmanager
def logged(
    loggers: list[Logger],
    folder: Path,
    config: Row,
    k: int = 0,
    *,
    ended: Callable[[], str] = lambda: "done",
) -> Iterator[Callable[[Row], None]]:
    """Yield the function that tells all loggers of a row; they are told of the run's end as well.

    A logger that raises is named on stderr, once, taken out of the list, and told no more. `ended`
    is asked for the reason of an end that no exception is.
    """
    loggers[:] = [one for one in loggers if _tell(one, one.begin, folder, config, k)]

    def tell(row: Row) -> None:
        loggers[:] = [one for one in loggers if _tell(one, one.row, row)]

    try:
        yield tell
        reason = ended()
    except BaseException as error:
        reason = str(error) or type(error).__name__
        raise
    finally:
        loggers[:] = [one for one in loggers if _tell(one, one.end, reason)]


def logger_named(name: str) -> Logger:
    """A logger that comes with the package; raises ValueError where it is none or is not there."""
    if name != "tensorboard":
        raise ValueError(
            f"There is no logger {name!r}. Known is: tensorboard; or write file.py:NAME for one of "
            "your own."
        )
    if find_spec("tensorboard") is None:
        raise ValueError(
            "--log tensorboard needs the package tensorboard, which is not installed: pip install "
            "'subnetwork[trackers]'."
        )
    from subnetwork.loggers.tensorboard import TensorBoard

    return TensorBoard()


def _tell(logger: Logger, method: Callable[..., None], *arguments: object) -> bool:
    """Whether the logger took it."""
    try:
        method(*copy.deepcopy(arguments))
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        print(  # noqa: T201
            f"subnetwork: the logger {type(logger).__name__} failed in {method.__name__} ({said}); "
            "it is told no more, training goes on",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True
