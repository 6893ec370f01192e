"""Checkpoints: safetensors and JSON under a manifest of sha256 sums, whole or not there at all.

A checkpoint is a folder ``round-00000012`` (the round that comes next) that holds

- ``shard-0-of-2.safetensors``, ...: pieces of named tensors by flat position (`Piece`),
- ``header.json``: format, round, shapes and dtypes, and whatever the caller says of the run,
- ``manifest.json``: bytes and sha256 of each of these files,
- ``COMMITTED``: the sha256 of the manifest, written last.

It is written beside its place, every file and the folder forced to disk, then renamed into it, so
a writer that dies at any moment leaves the earlier ones as they were. Nothing is ever overwritten
in place, and nothing is pickled. Another checkpoint of a round that has one stands beside it, as
``round-00000012.1``, and is the newer one.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from subnetwork.nets.pieces import (
    At,
    Kind,
    Piece,
    assembled,
    cut,
    even_ranges,
    index,
    kinds_of,
    overlap,
)
from subnetwork.nets.tensorfile import in_order, named_in_text, write_passing, write_tensors

FORMAT = 1
KEPT = 2
HEADER, MANIFEST, COMMITTED = "header.json", "manifest.json", "COMMITTED"
_NAME = re.compile(r"round-(\d{8,})(?:\.(\d+))?")


@dataclass(frozen=True)
class Written:
    """A file of a checkpoint as its writer knows it: plain data, to be told to who commits."""

    file: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was checked against its sums."""

    path: Path
    header: Mapping[str, Any]

    @property
    def k(self) -> int:
        """The round that comes next."""
        return int(self.header["k"])

    @property
    def kinds(self) -> dict[str, Kind]:
        """Dtype and shape of every whole tensor."""
        return {
            name: (getattr(torch, kind["dtype"]), tuple(kind["shape"]))
            for name, kind in self.header["tensors"].items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, whole, however many shards they were written in."""
        return assembled(self.kinds, self._pieces())

    def part(self, wanted: Mapping[str, At]) -> list[Piece]:
        """Some entries of some tensors, without ever holding more: what one rank reads.

        Raises:
            ValueError: an unknown tensor, or positions beyond its entries.
        """
        kinds = self.kinds
        unknown = sorted(set(wanted) - set(kinds))
        if unknown:
            raise ValueError(f"{self.path} holds no {unknown}. It holds {sorted(kinds)}.")
        found = []
        for name, at in wanted.items():
            dtype, shape = kinds[name]
            values = torch.empty(len(at), dtype=dtype)
            filled = 0
            for key, held, file in self._held[name]:
                mine, theirs = overlap(at, held)
                if len(mine):
                    values[index(mine)] = _read(file, key, theirs)
                    filled += len(mine)
            if filled != len(at):
                raise ValueError(
                    f"{name} has {prod(shape)} entries; positions beyond were asked for."
                )
            found.append(Piece(name, at, values))
        return found

    def _shards(self) -> Iterator[Path]:
        return (self.path / written.file for written in self._written)

    @property
    def _written(self) -> list[Written]:
        """Its shards, as the manifest has them."""
        files = json.loads((self.path / MANIFEST).read_text())["files"]
        return [Written(file, **sums) for file, sums in files.items() if file != HEADER]

    def _pieces(self) -> Iterator[Piece]:
        for name, held_pieces in self._held.items():
            for key, held, file in held_pieces:
                yield Piece(name, held, _read(file, key, range(len(held))))

    @cached_property
    def _held(self) -> Mapping[str, list[tuple[str, At, Path]]]:
        """The pieces of every tensor: key, positions, file."""
        found: dict[str, list[tuple[str, At, Path]]] = {name: [] for name in self.kinds}
        for file in self._shards():
            with named_in_text(file) as path, safe_open(path, framework="pt") as shard:
                for key, name, start, stop in json.loads(shard.metadata()["pieces"]):
                    held = shard.get_tensor(f"{key}.at") if stop is None else range(start, stop)
                    found[name].append((key, held, file))
        return found


def save(
    folder: Path,
    k: int,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    shards: int = 1,
) -> Path:
    """Write a checkpoint of whole tensors and keep the two newest; returns its folder.

    Args:
        folder: where the checkpoints of the run lie; made if it is not there.
        k: the round that comes next.
        header: what else to remember, as JSON: the run, its layout, seeds.
        tensors: the state, by name.
        shards: files to write it in.

    Raises:
        OSError: the disk is full or not writable; the earlier checkpoints are as they were.
    """
    stage = staging(folder, k)
    try:
        shares = even_ranges({name: t.numel() for name, t in tensors.items()}, shards)
        written = [
            write_shard(stage, cut(tensors, share), rank, shards)
            for rank, share in enumerate(shares)
        ]
        return commit(stage, folder, k, header, kinds_of(tensors), written)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def retell(found: Checkpoint, folder: Path, header: Mapping[str, Any]) -> Path:
    """Write a checkpoint again under another header, beside the old one; returns its folder.

    The tensors are not read: their files get a second name.

    Raises:
        OSError: the disk is full or not writable; the earlier checkpoints are as they were.
    """
    stage, shards = staging(folder, found.k), found._written
    try:
        for shard in shards:
            second_name(found.path / shard.file, stage / shard.file)
        return commit(stage, folder, found.k, header, found.kinds, shards)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def staging(folder: Path, k: int) -> Path:
    """A new, empty place to write the checkpoint of round k in; what a dead writer left is gone.

    With several ranks one of them calls it, before the others write their shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".round-*"):
        shutil.rmtree(left)
    stage = folder / f".{_name(k)}"
    stage.mkdir()
    return stage


def write_shard(stage: Path, pieces: Sequence[Piece], rank: int, n_ranks: int) -> Written:
    """Write what one of n ranks holds; returns what the rank that commits has to be told."""
    entries: dict[str, Tensor] = {}
    described: list[tuple[str, str, int | None, int | None]] = []
    for number, piece in enumerate(pieces):
        key = f"{number:05}"
        entries[key] = piece.values
        if isinstance(piece.at, range):
            described.append((key, piece.name, piece.at.start, piece.at.stop))
        else:
            entries[f"{key}.at"] = piece.at
            described.append((key, piece.name, None, None))
    file = _shard(rank, n_ranks)
    return Written(file, *write_tensors(stage / file, entries, {"pieces": json.dumps(described)}))


def write_whole_tensors(
    stage: Path,
    kinds: Mapping[str, Kind],
    tensors: Iterable[tuple[str, Tensor]],
    rank: int,
    n_ranks: int,
) -> Written:
    """Write a shard of whole tensors that come one after another, by one of n ranks.

    Args:
        stage: the folder of `staging`.
        kinds: dtype and shape of each of them, the widest entries first.
        tensors: name and tensor, in this order; none is kept longer than its turn.
        rank: which shard.
        n_ranks: of how many.
    """
    keys = {name: f"{number:05}" for number, name in enumerate(kinds)}
    flat = {keys[name]: (dtype, (prod(shape),)) for name, (dtype, shape) in kinds.items()}
    assert in_order(flat) == list(flat), "the widest entries come first"
    described = [(keys[name], name, 0, prod(shape)) for name, (_, shape) in kinds.items()]
    file = _shard(rank, n_ranks)
    passing = ((keys[name], tensor.reshape(-1)) for name, tensor in tensors)
    said = {"pieces": json.dumps(described)}
    return Written(file, *write_passing(stage / file, flat, passing, said))


def commit(
    stage: Path,
    folder: Path,
    k: int,
    header: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    shards: Sequence[Written],
) -> Path:
    """Make a checkpoint of the shards that all ranks have written, and drop what is outdated.

    Args:
        stage: the folder of `staging`.
        folder: where the checkpoints lie.
        k: the round that comes next.
        header: what to remember of the run, as JSON.
        kinds: dtype and shape of every whole tensor.
        shards: what every rank's `write_shard` returned.
    """
    target = folder / _name(k)
    tensors = {
        name: {"dtype": str(dtype).removeprefix("torch."), "shape": list(shape)}
        for name, (dtype, shape) in kinds.items()
    }
    content = {"format": FORMAT, **header, "k": k, "tensors": tensors}
    files = [_write_text(stage / HEADER, _json(content)), *shards]
    manifest = _write_text(stage / MANIFEST, _json({"files": {w.file: _sums(w) for w in files}}))
    _force(stage)
    _write_text(stage / COMMITTED, manifest.sha256)
    _force(stage)
    there = [path for path in checkpoints(folder) if _numbers(path)[0] == k]
    if there and _intact(there[-1]) and _says(there[-1]) == manifest.sha256:
        shutil.rmtree(stage, ignore_errors=True)
        return there[-1]  # its equal: it is not touched
    if there:
        target = folder / f"{_name(k)}.{_numbers(there[-1])[1] + 1}"
    stage.rename(target)
    _force(folder)
    _prune(folder, k)
    return target


def second_name(source: str | Path, target: str | Path) -> str | Path:
    """The same file under another name, or a copy on disk: such files are replaced, never changed.

    As `shutil.copytree` takes its `copy_function`.
    """
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
        with Path(target).open("rb+") as file:
            os.fsync(file.fileno())
    return target


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is intact, and what is wrong with those that are newer.

    Returns:
        None where there is none, and a line for each damaged one that names its file.
    """
    damage: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return opened(path), damage
        except ValueError as reason:
            damage.append(str(reason))
    return None, damage


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first, intact or not."""
    if not folder.is_dir():
        return []
    named = (path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(named, key=_numbers)


def _numbers(path: Path) -> tuple[int, int]:
    """The round of a checkpoint's folder, and which of that round's it is."""
    named = _NAME.fullmatch(path.name)
    assert named is not None
    return int(named[1]), int(named[2] or 0)


def opened(path: Path) -> Checkpoint:
    """A checkpoint, after every byte of it was compared with its sums.

    Raises:
        ValueError: a file is missing or differs; says which.
    """
    manifest = _checked_read(path / MANIFEST)
    if _checked_read(path / COMMITTED) != hashlib.sha256(manifest).hexdigest().encode():
        raise ValueError(f"{path / MANIFEST} or {COMMITTED} beside it is damaged: sha256 differs")
    for file, sums in json.loads(manifest)["files"].items():
        _check(path / file, sums["sha256"])
    header = json.loads((path / HEADER).read_text())
    if header["format"] != FORMAT:
        raise ValueError(
            f"{path} is of format {header['format']}, this version reads format {FORMAT}"
        )
    return Checkpoint(path, header)


def _shard(rank: int, n_ranks: int) -> str:
    return f"shard-{rank}-of-{n_ranks}.safetensors"


def _name(k: int) -> str:
    return f"round-{k:08}"


def _read(file: Path, key: str, places: At) -> Tensor:
    with named_in_text(file) as path, safe_open(path, framework="pt") as shard:
        entries = shard.get_slice(key)
        if isinstance(places, range):
            return torch.as_tensor(entries[places.start : places.stop])
        low, high = int(places[0]), int(places[-1]) + 1
        return torch.as_tensor(entries[low:high])[places - low]


def _sums(written: Written) -> dict[str, int | str]:
    return {key: value for key, value in asdict(written).items() if key != "file"}


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _write_text(path: Path, text: str) -> Written:
    data = text.encode()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return Written(path.name, len(data), hashlib.sha256(data).hexdigest())


def _checked_read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _check(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if found != expected:
        raise ValueError(f"{path} is damaged: its sha256 is not that of the manifest")


def _force(folder: Path) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _says(path: Path) -> str:
    return (path / COMMITTED).read_text()


def _intact(path: Path) -> bool:
    try:
        opened(path)
    except ValueError:
        return False
    return True


def _prune(folder: Path, k: int) -> None:
    """Keep the newest two rounds up to round k; later ones are of a course that was given up."""
    there = checkpoints(folder)
    kept = sorted({_numbers(path)[0] for path in there if _numbers(path)[0] <= k})[-KEPT:]
    for path in there:
        if _numbers(path)[0] not in kept:
            gone = path.with_name(f".{path.name}.gone")  # whole or hidden, never half there
            path.rename(gone)
    for left in folder.glob(".round-*"):
        shutil.rmtree(left, ignore_errors=True)
