"""The MODEL of a command: a built-in name, or `file.py:build` of the user's own."""

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def model_named(name: str) -> "tuple[nn.Module, Any]":
    """A model and an example batch for it.

    A name that ends in `.py:FUNCTION` runs that file of the user's, as `python file.py` would, and
    calls the function, which returns the two; nothing else is run.

    Raises:
        ValueError: no such name, file or function, or one that fails or returns something else.
    """
    path, colon, function = name.rpartition(":")
    from torch import nn

    from subnetwork.cli.built_in import MODELS, built_in

    if not colon and name not in MODELS:
        advice = f"{name}:build" if name.endswith(".py") else "file.py:build"
        raise ValueError(
            f"There is no model {name!r}. Known are: {', '.join(MODELS)}; or write {advice} for "
            "a function of your own that returns (model, example_batch)."
        )
    what = "(model, example_batch)"
    made = made_by(Path(path), function, what) if colon else built_in(name)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module)):
        raise ValueError(
            f"{name} returned {_kind(made)}, not (model, example_batch): a torch.nn.Module, and "
            "what it is called with: a tensor, a tuple of arguments or a dict of keywords."
        )
    return made


def made_by(path: Path, function: str, what: str) -> Any:  # noqa: ANN401 - whatever it gives
    """What a function of the user's file returns; the file runs as `python file.py` would.

    Raises:
        ValueError: no such file or function, or one that fails; says `what` it should return.
    """
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(
            f"There is no file {path}. Name a Python file, such as mine.py:{function}."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as for a script: files beside it are found
    try:
        spec.loader.exec_module(module)
        build = getattr(module, function, None)
        if callable(build):
            return build()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be run: {_told(error, path)}") from error
    finally:
        sys.path.pop(0)
    raise ValueError(
        f"{path} has no function {function!r}. Write one that takes nothing and returns {what}."
    )


def _told(error: BaseException, path: Path) -> str:
    """An error of the user's file, with its last line in that file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
    if isinstance(error, SyntaxError) and error.lineno:
        lines = [error.lineno]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"


def _kind(made: object) -> str:
    if isinstance(made, tuple):
        return f"a tuple of {len(made)}: " + ", ".join(type(one).__name__ for one in made[:4])
    return type(made).__name__
