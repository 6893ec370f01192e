"""Safetensors files written in one pass, with their sha256; state_dicts read from anybody's file.

The library's `save` holds a second copy of all tensors and hides the operating system's reason
when a disk is full. The format is a length, a JSON header and the entries, so it is written here,
tensor by tensor; the library reads it back.
"""

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from subnetwork.nets.pieces import Kind, kinds_of

_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError),
    *(AttributeError, ImportError, struct.error),
)
"""What torch.load raises at a damaged file of the old format, beside what says so."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Write a safetensors file and force it to disk; returns its bytes and its sha256.

    Raises:
        OSError: as the operating system says it, with a full disk too.
    """
    kinds = kinds_of(tensors)
    passing = ((name, tensors[name]) for name in in_order(kinds))
    return write_passing(path, kinds, passing, metadata)


def in_order(kinds: Mapping[str, Kind]) -> list[str]:
    """The order of tensors in a file: the widest entries first, so that all are aligned."""
    return sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))


def write_passing(
    path: Path,
    kinds: Mapping[str, Kind],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """`write_tensors` of tensors that come one after another; none is kept longer than its turn.

    Args:
        path: the file.
        kinds: dtype and shape of every tensor.
        tensors: name and tensor, in the order of `in_order`.
        metadata: what the file says besides.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    names, end = in_order(kinds), 0
    for name in names:
        dtype, shape = kinds[name]
        start, end = end, end + prod(shape) * dtype.itemsize
        offsets = [start, end]
        if dtype not in _DTYPES:
            raise ValueError(
                f"{name} is {dtype}, which the file format cannot hold. Save torch.view_as_real of "
                "complex numbers, and other types as one of these: "
                f"{', '.join(str(known).removeprefix('torch.') for known in _DTYPES)}."
            )
        header[name] = {"dtype": _DTYPES[dtype], "shape": [*shape], "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    sum_ = hashlib.sha256()
    with path.open("wb") as file:

        def write(data: bytes | memoryview) -> None:
            file.write(data)
            sum_.update(data)

        write(len(text).to_bytes(8, "little"))
        write(text)
        for expected, (name, tensor) in zip(names, tensors, strict=True):
            assert (name, (tensor.dtype, tuple(tensor.shape))) == (expected, kinds[expected])
            write(_bytes(tensor))
        file.flush()
        os.fsync(file.fileno())
    return 8 + len(text) + end, sum_.hexdigest()


def read_state_dict(
    path: Path, instead: str = "Save model.state_dict() with safetensors or torch.save."
) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file, or of what torch.save wrote; nothing is unpickled.

    Tensors under a key ``state_dict`` or ``model``, as training scripts write them, are found;
    the prefixes of DataParallel and torch.compile are taken off.

    Args:
        path: the file.
        instead: what to do where it cannot be read, for the message.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}. Name a state_dict: .safetensors or torch.save.")
    try:
        with named_in_text(path) as file:
            content: Any = (
                load_file(file)
                if path.suffix == ".safetensors"
                else torch.load(file, map_location="cpu", weights_only=True)
            )
    except (SafetensorError, *_UNREADABLE) as error:
        raise ValueError(_no_state_dict(path, error, instead)) from None
    for key in ("state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else content
    named = content.items() if isinstance(content, dict) else ()
    tensors = {_plain(str(name)): tensor for name, tensor in named if isinstance(tensor, Tensor)}
    if not tensors or len(tensors) != len(named):
        raise ValueError(f"{path} holds no state_dict. {instead}")
    return tensors


def _no_state_dict(path: Path, error: Exception, instead: str) -> str:
    reason = " ".join(str(error).split())[:160].rstrip(".")
    return f"{path} is no state_dict that can be read safely: {reason}. {instead}"


@contextmanager
def named_in_text(path: Path) -> Iterator[Path]:
    """Yield the path, or a link to it where it is not text: the library opens no such file."""
    if str(path).isprintable():
        yield path
        return
    with TemporaryDirectory(prefix="subnetwork-") as folder:
        link = Path(folder) / "link"
        link.symlink_to(path.resolve())
        yield link


def fitted(tensors: Mapping[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """The parameters of a model from a state_dict; the buffers in it are left out.

    Raises:
        ValueError: names or shapes are not those of the model; says which.
    """
    params = dict(model.named_parameters())
    instead = "Give the run the sizes of the network that was saved."
    _check_fit(path, tensors, params, model.state_dict(), instead)
    return {name: tensors[name].detach().to(p.dtype).clone() for name, p in params.items()}


def fill(model: nn.Module, path: Path, instead: str) -> nn.Module:
    """The model with all that a state_dict of its own in a file says, buffers too.

    Args:
        model: is filled.
        path: the file.
        instead: what to do where it is not that model's, for the message.

    Raises:
        ValueError: the file cannot be read, or names, shapes or types are not those of the model.
    """
    tensors = read_state_dict(path, instead)
    _check_same(path, tensors, model.state_dict(), instead)
    model.load_state_dict(tensors)
    return model


def copy_tensors(path: Path, to: Path, like: Mapping[str, Tensor], instead: str) -> None:
    """Write a safetensors file anew, tensor by tensor, if it is that of these tensors.

    Args:
        path: the file.
        to: the new one.
        like: names, shapes and types that it has to have; values are no matter.
        instead: what to do where it does not fit, for the message.

    Raises:
        ValueError: the file cannot be read, or names, shapes or types are others.
        OSError: the new file cannot be written.
    """
    with named_in_text(path) as named:
        try:
            file = safe_open(named, framework="pt")
        except (SafetensorError, *_UNREADABLE) as error:
            raise ValueError(_no_state_dict(path, error, instead)) from None
        with file as there:
            names = there.keys()  # no dict, which could be gone through
            _check_same(path, {name: _hollow(there, name) for name in names}, like, instead)
            kinds = kinds_of(like)
            write_passing(to, kinds, ((name, there.get_tensor(name)) for name in in_order(kinds)))


def _hollow(file: Any, name: str) -> Tensor:  # noqa: ANN401  (the library has no type for it)
    """A tensor of a file on torch's meta device: its values are not read."""
    of = file.get_slice(name)
    dtype = next((dtype for dtype, text in _DTYPES.items() if text == of.get_dtype()), None)
    other = torch.complex128  # of which no file is
    return torch.empty(of.get_shape(), dtype=dtype or other, device="meta")


def _check_same(
    path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], instead: str
) -> None:
    """Raise ValueError unless a file has these tensors, of these shapes and types, and no other."""
    _check_fit(path, tensors, own, own, instead)
    odd = [name for name, t in own.items() if tensors[name].dtype != t.dtype]
    if odd:
        raise ValueError(
            f"{path} does not fit the network: {odd[0]} is {tensors[odd[0]].dtype} there, "
            f"{own[odd[0]].dtype} here. {instead}"
        )


def _check_fit(
    path: Path,
    tensors: Mapping[str, Tensor],
    needed: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
    instead: str,
) -> None:
    """Raise ValueError unless a file has what is needed, in its shapes, and nothing unknown."""
    missing = [name for name in needed if name not in tensors]
    odd = [name for name in tensors if name not in known]
    if missing or odd:
        raise ValueError(
            f"{path} does not fit the network: it lacks {_some(missing)} and has {_some(odd)} "
            f"beside. {instead}"
        )
    for name, p in needed.items():
        if tensors[name].shape != p.shape:
            raise ValueError(
                f"{path} does not fit the network: {name} has shape {tuple(tensors[name].shape)} "
                f"there, {tuple(p.shape)} here. {instead}"
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])]) or "nothing"


def _plain(name: str) -> str:
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
