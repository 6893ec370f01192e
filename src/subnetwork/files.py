"""Files of data: where they are, and how to read them without trusting them. NumPy only.

Sets are looked for in the folder that the environment variable SUBNETWORK_DATA names, and in its
folders. Whatever is wrong with a file is said with its name and what was expected of it.
"""

import bz2
import gzip
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

VARIABLE = "SUBNETWORK_DATA"
UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
}
UNREADABLE = (
    *(ValueError, OSError, EOFError, MemoryError, OverflowError, RuntimeError, struct.error),
    *(lzma.LZMAError, zlib.error, zipfile.BadZipFile),
)
"""What unpackers and readers raise at a damaged file; a zip's unknown flags are RuntimeErrors."""
AGAIN = "it is damaged, or another version. Fetch the file again."

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def found(
    name: str, files: Sequence[str], folders: Sequence[str], holds: str, without: str
) -> Path:
    """The first of these files, plain or packed, in the data folder or one of its folders.

    Args:
        name: of the set, for the message.
        files: names that the file may have.
        folders: folders in the data folder where it may lie.
        holds: what the file holds, in words.
        without: a set that needs no file, for the message.

    Raises:
        ValueError: SUBNETWORK_DATA is not set, or no such file is there.
    """
    top = os.environ.get(VARIABLE)
    names = [file + ending for file in files for ending in ("", *UNPACK, ".txt")]
    if not top:
        raise ValueError(
            f"{name} is read from a file, but the environment variable {VARIABLE} is not set. Set "
            f"it to the folder that holds {_one_of(names)}, or use {without}."
        )
    for place in (Path(top), *(Path(top) / folder for folder in folders)):
        for file in names:
            if (place / file).is_file():
                return place / file
    where = f"{top} ({VARIABLE}) or its folder{'s' * (len(folders) > 1)} {' and '.join(folders)}"
    raise ValueError(
        f"There is no file {_one_of(names)} in {where}. Put {holds} there under one of these names."
    )


@dataclass(frozen=True)
class Numbers:
    """What an array of a file has to be: whole numbers of this shape, from `least` to `most`."""

    shape: tuple[int | None, ...]  # None is any size
    most: int | None = None  # None is any that is finite
    least: int = 0
    fractions: bool = False  # whether numbers that are not whole will do

    def fault(self, array: NDArray[Any]) -> str:
        """What is wrong with an array, as the end of a sentence; empty where nothing is."""
        most = float(np.finfo(np.float32).max) if self.most is None else self.most
        fits = array.ndim == len(self.shape) and all(
            wanted in (own, None) for own, wanted in zip(array.shape, self.shape, strict=True)
        )
        if not fits or array.dtype.kind not in ("iuf" if self.fractions else "iu"):
            kind = "numbers" if self.fractions else "whole numbers"
            return f"is {array.dtype} of shape {array.shape}, not {kind} of {_shape(self.shape)}"
        if not array.size or (array.min() >= self.least and array.max() <= most):
            return ""
        wanted = f"{self.least} to {most}" if self.most is not None else f"{self.least} or more"
        return f"holds {array.min()} to {array.max()}, not {wanted}"


def require_file(path: Path, expected: str) -> None:
    """Raise ValueError unless the file is there."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}. Expected was {expected}. Check the path.")


def unreadable(path: Path, expected: str, reason: Exception) -> str:
    """What to say of a file that could not be read."""
    said = " ".join(str(reason).split()) or type(reason).__name__
    return (
        f"{path} could not be read: {said.rstrip('.')}. Expected was {expected}. Fetch the file "
        "again, or correct it."
    )


def unpacked(path: Path) -> bytes:
    """The bytes of a file, unpacked by its ending; raises what the unpacker raises."""
    return UNPACK.get(path.suffix, bytes)(path.read_bytes())


def npz(path: Path, *names: str) -> Arrays:
    """Arrays of a NumPy archive, never unpickled.

    Args:
        path: the file.
        names: the arrays that it has to hold; all that it holds if none is named.

    Raises:
        ValueError: the file is missing or cannot be read, lacks an array, or holds Python objects.
    """
    listed = f" with the arrays {', '.join(names)}" if names else ""
    expected = f"a NumPy archive{listed}"
    require_file(path, expected)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = sorted(set(names) - set(archive.files))
            if missing:
                raise ValueError(f"it has the arrays {sorted(archive.files)} and no {missing[0]!r}")
            return {name: archive[name] for name in names or archive.files}
    except (*UNREADABLE, TypeError, AttributeError) as reason:
        raise ValueError(unreadable(path, expected, reason)) from None


def idx(path: Path) -> NDArray[Any]:
    """An array in the idx format of MNIST, plain or packed.

    A header of two zero bytes, a type, the number of dims and their sizes as big-endian 32-bit
    integers, then the entries; the file has to hold exactly as many as the header says.

    Raises:
        ValueError: the file is missing, is no idx file, or is cut off.
    """
    expected = "an idx file: 00 00 TYPE DIMS, sizes, entries"
    require_file(path, expected)
    try:
        data = unpacked(path)
        if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
            raise ValueError(f"it begins with {data[:4].hex(' ') or 'nothing'}")
        start = 4 + 4 * data[3]
        shape = np.frombuffer(data[4:start], ">u4").astype(int)
        kind = np.dtype(_IDX_TYPES[data[2]])
        announced, follow = int(shape.prod()) * kind.itemsize, len(data) - start
        if announced != follow:
            raise ValueError(f"its header announces {announced} bytes of entries, {follow} follow")
        return np.frombuffer(data, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))
    except UNREADABLE as reason:
        raise ValueError(unreadable(path, expected, reason)) from None


def text(path: Path) -> str:
    """A UTF-8 text file, plain or packed; raises ValueError where it cannot be read."""
    expected = "UTF-8 text"
    require_file(path, expected)
    try:
        return unpacked(path).decode("utf-8")
    except UNREADABLE as reason:
        raise ValueError(unreadable(path, expected, reason)) from None


def svmlight(path: Path, dim: int | None, expected: str) -> tuple[Any, NDArray[np.float64]]:
    """Features (SciPy's CSR) and labels of LIBSVM text, plain or packed; indices from 1.

    Raises:
        ValueError: the file is missing or cannot be read.
    """
    from sklearn.datasets import load_svmlight_file  # 1 s of CPU to import

    require_file(path, expected)
    try:
        X, y = load_svmlight_file(BytesIO(unpacked(path)), n_features=dim, zero_based=False)
    except UNREADABLE as reason:
        raise ValueError(unreadable(path, expected, reason)) from None
    return X, np.asarray(y, dtype=np.float64)


def require_arrays(path: Path, held: Arrays, expected: Mapping[str, Numbers]) -> None:
    """Raise ValueError where an archive lacks one of these arrays, or has another one."""
    for name, numbers in expected.items():
        if name not in held:
            raise ValueError(f"{path} holds no array {name!r}: {AGAIN}")
        fault = numbers.fault(held[name])
        if fault:
            raise ValueError(f"{path}: the array {name!r} {fault}: {AGAIN}")


def require_sparse(
    path: Path, held: Arrays, indptr: str, indices: str, shape: tuple[int, int]
) -> None:
    """Raise ValueError unless two arrays of an archive are rows of column indices (CSR)."""
    n_rows, n_columns = shape
    require_arrays(path, held, {indices: Numbers((None,), n_columns - 1)})
    n = len(held[indices])
    require_arrays(path, held, {indptr: Numbers((n_rows + 1,), n)})
    ends = held[indptr]
    if ends[0] != 0 or ends[-1] != n or (ends[1:] < ends[:-1]).any():
        raise ValueError(
            f"{path}: the array {indptr!r} does not rise from 0 to {n}, the length of {indices!r}: "
            f"{AGAIN}"
        )


def require_rows(path: Path, found: int, expected: int) -> None:
    """Raise ValueError where a file has another number of rows than its set."""
    if found != expected:
        raise ValueError(
            f"{path} has {found} rows, but {expected} were expected: it is cut off, or another "
            "version. Fetch the file again."
        )


def _shape(shape: Sequence[int | None]) -> str:
    return f"shape ({', '.join('any' if size is None else str(size) for size in shape)})"


def _one_of(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}" if len(names) > 1 else names[0]
