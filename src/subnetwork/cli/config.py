"""Flags that stand in a file: `--config FILE`. A flag of the command line wins over the file."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from cyclopts import App, ArgumentCollection
from cyclopts.config import Toml

INSTEAD = (("--rounds", "--steps"), ("--resume", "--restart"), ("--resume", "--from"))
"""Flags of which one says, in another way, what the other one says."""

Reading: TypeAlias = Callable[[App, tuple[str, ...], ArgumentCollection], None]
"""What cyclopts calls between reading the words of a command and making its arguments."""


def flags_of(config: Path) -> Toml:
    """The flags of a TOML file; raises ValueError with its name where it is not one."""
    try:
        flags = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"cannot read flags from --config {config}: {reason}. It holds lines like rounds = 30."
        ) from None
    tables = [name for name, value in flags.items() if isinstance(value, dict)]
    if tables:
        raise ValueError(
            f"--config {config} holds the table [{tables[0]}]; write its flags at the top of the "
            "file instead, one file a command."
        )
    return Toml(config, must_exist=True, use_commands_as_keys=False)


def winning(filed: set[str]) -> Reading:
    """Drop of the file what a flag says in another way; put the names of the rest into `filed`."""

    def read(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        del app, commands
        given = {argument.name: argument.tokens for argument in arguments if argument.tokens}
        typed = {name for name, tokens in given.items() if tokens[0].source == "cli"}
        said = {name for name in typed if given[name][0].implicit_value is not False}  # not --no-..
        for pair in INSTEAD:
            for one, other in (pair, pair[::-1]):
                if one in said and other not in typed and other in given:
                    given.pop(other).clear()
        filed.update(set(given) - typed)

    return read


def with_its_file(mistake: ValueError, filed: set[str], config: Path) -> ValueError:
    """The same mistake; where it speaks of flags that stand in the file, it says so."""
    spoken = re.findall(r"--[a-z][a-z-]*[a-z]|^[a-z_]+(?= is | has )", str(mistake))
    names = [name if name.startswith("--") else f"--{name}".replace("_", "-") for name in spoken]
    found = [name for name in dict.fromkeys(names) if name in filed]
    if not found:
        return mistake
    return ValueError(f"{mistake} {' and '.join(found)}: as --config {config} has it.")
