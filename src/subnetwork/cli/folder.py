"""A run's folder appears whole or not at all; a run that can go on waits beside it."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from subnetwork.cli.requests import GONE, PLACE, remove

# what commands write into a run's folder; a name that ends in / is a folder of such files
OURS = (
    *("*.jsonl", "report.html", "model.safetensors", "tensorboard/"),
    *(f"{PLACE}/", f"{GONE}/", ".seen-*"),  # of a run that was killed
)
CHECKPOINTS = "checkpoints"
IN_CHECKPOINTS = ("header.json", "manifest.json", "COMMITTED", "shard-*.safetensors")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `out` when the block ends well.

    If it does not, the new folder is removed and an earlier run in `out` stays as it was. A link is
    followed: the folder that it points to is replaced.

    Raises:
        ValueError: where `out` cannot be written, or holds a file that no command here wrote.
    """
    out = resolved(out)
    with _writable(out):
        check_ours(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.", dir=out.parent))
    try:
        yield stage
        _put(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def resolved(out: Path) -> Path:
    """The folder that a path leads to.

    Raises:
        ValueError: it leads nowhere, or to the root of the file system, which no run replaces.
    """
    try:
        found = out.resolve()
    except RuntimeError:  # from Python 3.13 on, the circle is found where it is read or written
        raise ValueError(
            f"{out} is no folder: its links lead in a circle. Remove them, or name another folder."
        ) from None
    if not found.name:
        raise ValueError(
            f"{out} is the root of the file system, not a run's folder. Name one in it, such as "
            f"{found / 'runs' / 'train'}."
        )
    return found


def unfinished(out: Path) -> Path:
    """Where the run lies that is to become `out`: OUT.unfinished, with its record as it grows.

    Raises:
        ValueError: as `resolved`.
    """
    out = resolved(out)
    return out.with_name(f"{out.name}.unfinished")


def run_folder(run: Path) -> Path:
    """The folder of a run that is complete, or else the one where it lies unfinished.

    Raises:
        ValueError: there is neither.
    """
    for folder in (run, unfinished(run)):
        if folder.is_dir():
            return folder
    raise ValueError(
        f"there is no run in {run}. Name a folder that `subnetwork train` wrote, or --out of it."
    )


@dataclass(frozen=True)
class Held:
    """OUT.unfinished, which no other process writes while this one holds it."""

    out: Path
    folder: Path
    lock: int  # the open folder

    def there(self) -> bool:
        """Whether the folder is in its place still: neither removed, nor `out` by now."""
        return _is(self.lock, self.folder)


@contextmanager
def holding(out: Path) -> Iterator[Held]:
    """Hold OUT.unfinished in the block, one process at a time: what is read there stays the newest.

    It is made where it is not there. Where nothing was written there, it is gone after the block.

    Raises:
        ValueError: the folder cannot be written, another process writes it, or it or `out` holds a
            file that no command here wrote.
    """
    out = resolved(out)
    folder = unfinished(out)
    with _writable(out):
        check_ours(out)
        check_ours(folder)
        made = [above for above in folder.parents if not above.exists()]
        held = Held(out, folder, _lock(folder, out))
    remove(folder / PLACE)  # of a run that was killed: nobody would answer there for seconds
    try:
        yield held
    finally:
        with suppress(OSError):  # up to the first one that is not empty
            for path in (folder, *made) if held.there() else ():
                path.rmdir()
        os.close(held.lock)


@contextmanager
def resumable(held: Held, *, resume: bool, restart: bool) -> Iterator[Path]:
    """Yield OUT.unfinished, which takes the place of `out` when the block ends well.

    If it does not, OUT.unfinished stays where it holds a checkpoint, so that the run can go on, and
    is removed where it does not. An earlier run in `out` stays as it was until it is replaced.

    Args:
        held: the folder.
        resume: go on in the folder that is there, or with a copy of the run that is in `out`.
        restart: give up an unfinished run.

    Raises:
        ValueError: the folder cannot be written, or holds an unfinished run that is neither resumed
            nor given up.
    """
    out, folder = held.out, held.folder
    with _writable(out):
        _prepare(folder, out, resume=resume, restart=restart)
    try:
        yield folder
        _put(folder, out)
    except BaseException:  # Ctrl-C too; nothing is hidden: it goes on up
        if held.there() and not has_checkpoint(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a checkpoint, intact or not."""
    return any((folder / CHECKPOINTS).glob("round-*"))


def is_written(folder: Path) -> bool:
    """Whether some process writes the run in a folder at this moment."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(descriptor)
    return False


def check_ours(folder: Path) -> None:
    """Raise ValueError where a folder holds anything that no command here wrote."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file. Choose a folder with --out.")
    for path in sorted(folder.iterdir()):
        foreign = _foreign(path)
        if foreign is not None:
            raise ValueError(
                f"{folder} holds {foreign.relative_to(folder)}, which no run wrote, so it is left "
                "alone. Choose another folder with --out, or move it away."
            )


def _foreign(path: Path) -> Path | None:
    """What in a path no command wrote, or None."""
    if path.name in (CHECKPOINTS, f"{CHECKPOINTS}.new") and path.is_dir():
        within = [file for one in path.iterdir() for file in _files(one)]
        return next((f for f in within if not any(map(f.match, IN_CHECKPOINTS))), None)
    if path.is_dir():
        return None if f"{path.name}/" in OURS else path
    ours = any(path.match(pattern) for pattern in OURS)
    return None if ours or path.match(".*.jsonl.new") else path


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() and "round-" in path.name else [path]


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write to {out}: {error.strerror}. Choose a folder that can be written to with "
            "--out."
        ) from None


def _lock(folder: Path, out: Path) -> int:
    """Make and hold the folder; the system lets go of it however this process ends.

    Between its opening and the lock it may have become `out`: then there is another one to hold.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            descriptor = _locked(folder, out)
            if _is(descriptor, folder):
                return descriptor
            os.close(descriptor)


def _locked(folder: Path, out: Path) -> int:
    """The folder, open and locked, wherever it is by then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(
            f"{folder} is being written by another process. Wait for its end, watch it with "
            f"`subnetwork watch {out}`, or choose another folder with --out."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            os.close(descriptor)
            raise
    return descriptor


def _is(descriptor: int, folder: Path) -> bool:
    """Whether an open folder is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except OSError:
        return False


def _prepare(folder: Path, out: Path, *, resume: bool, restart: bool) -> None:
    """Bring OUT.unfinished into the state in which the run begins or goes on."""
    if has_checkpoint(folder):
        if not (resume or restart):
            raise ValueError(
                f"{folder} holds an unfinished run. Go on with --resume, give it up with "
                "--restart, or choose another folder with --out."
            )
        if resume:
            return
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if resume:
        from subnetwork.nets.checkpoint import second_name

        for path in out.glob("*.jsonl"):
            second_name(path, folder / path.name)
        if (out / "tensorboard").is_dir():
            shutil.copytree(out / "tensorboard", folder / "tensorboard", copy_function=second_name)
        copy = folder / f"{CHECKPOINTS}.new"
        shutil.copytree(out / CHECKPOINTS, copy, copy_function=second_name)
        copy.rename(folder / CHECKPOINTS)


def _put(stage: Path, out: Path) -> None:
    """Have `out` be the new folder; where that fails, or is interrupted, it is the earlier one."""
    umask = os.umask(0)
    os.umask(umask)
    stage.chmod(0o777 & ~umask)
    if not out.exists():
        stage.rename(out)
        return
    earlier = out.with_name(f".{out.name}.earlier")
    with suppress(FileNotFoundError):
        shutil.rmtree(earlier)
    try:
        out.rename(earlier)
        stage.rename(out)
    finally:
        if not out.exists():
            earlier.rename(out)
    shutil.rmtree(earlier)
