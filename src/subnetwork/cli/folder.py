"""A run's folder appears whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OURS = ("*.jsonl", "report.html", "model.safetensors")  # what commands write into a run's folder


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `out` when the block ends well.

    If it does not, the new folder is removed and an earlier run in `out` stays as it was. A link is
    followed: the folder that it points to is replaced.

    Raises:
        ValueError: where `out` cannot be written, or holds a file that no command here wrote.
    """
    out = out.resolve()
    try:
        _check_replaceable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.", dir=out.parent))
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
    if not out.is_dir():
        raise ValueError(f"{out} is a file. Choose a folder with --out.")
    for path in sorted(out.iterdir()):
        if not path.is_file() or not any(path.match(pattern) for pattern in OURS):
            raise ValueError(
                f"{out} holds {path.name}, which no run wrote, so it is left alone. Choose another "
                "folder with --out, or move it away."
            )
