"""A run's folder appears whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from subnetwork import record


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `out` when the block ends well.

    If it does not, the new folder is removed and an earlier run in `out` stays as it was.

    Raises:
        ValueError: where `out` cannot be written, or holds something that is not a run.
    """
    _check_replaceable(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ValueError(
            f"cannot write to {out}: {error.strerror}. Choose a folder that can be written to with "
            "--out."
        ) from None
    try:
        yield stage
        _put(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _put(stage: Path, out: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    stage.chmod(0o777 & ~umask)
    if out.exists():
        earlier = stage.with_name(f"{stage.name}.earlier")
        out.rename(earlier)
        stage.rename(out)
        shutil.rmtree(earlier)
    else:
        stage.rename(out)


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    try:
        if out.is_dir() and record.read_folder(out):
            return
    except ValueError:
        pass
    raise ValueError(
        f"{out} exists and is not a run's folder, so it is left alone. Choose another folder with "
        "--out, or move it away."
    )
