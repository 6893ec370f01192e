"""Safetensors files written in one pass, with their sha256; state_dicts read from anybody's file.

The library's `save` holds a second copy of all tensors and hides the operating system's reason
when a disk is full. The format is a length, a JSON header and the entries, so it is written here,
tensor by tensor; the library reads it back.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

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
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # aligned
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        shape = list(tensors[name].shape)
        header[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    sum_ = hashlib.sha256()
    with path.open("wb") as file:

        def write(data: bytes | memoryview) -> None:
            file.write(data)
            sum_.update(data)

        write(len(text).to_bytes(8, "little"))
        write(text)
        for name in names:
            write(_bytes(tensors[name]))
        file.flush()
        os.fsync(file.fileno())
    return 8 + len(text) + end, sum_.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
