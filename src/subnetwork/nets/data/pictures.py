"""Pictures and sound as pictures: digits, MNIST, Fashion-MNIST, CIFAR-10, spoken digits."""

import gzip
import io
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subnetwork import files
from subnetwork.nets.data.sets import DataSet, Scaled, parted

WITHOUT = "digits, which comes with scikit-learn"
MOMENTS = {"mnist": (0.1307, 0.3081), "fashion_mnist": (0.2860, 0.3530)}  # of the training pixels
CIFAR = Scaled((0.4913, 0.4821, 0.4465), (0.2452, 0.2428, 0.2606))  # of the JPEG pictures
IDX = {"train": "train", "test": "t10k"}  # how the files of the original are named
KINDS = {"x": "images-idx3", "y": "labels-idx1"}


def digits(seed: int = 0) -> DataSet:
    """scikit-learn's handwritten digits: 1,797 pictures of 8 x 8; a fifth is the test set.

    Pixels are scaled to [0, 1]. The split is keyed by `seed`.
    """
    pixels, labels = _digits()
    inputs = torch.as_tensor(pixels / 16.0, dtype=torch.float32)
    targets = torch.as_tensor(labels, dtype=torch.int64)
    return parted("digits", inputs, targets, 10, seed)


def _digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """What `load_digits` reads; to import it takes a second, which every worker would wait for."""
    package = find_spec("sklearn")
    place = Path(package.origin).parent if package and package.origin else Path()
    file = place / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():  # it moved
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.data, bunch.target
    with gzip.open(file, "rt") as text:
        table = np.loadtxt(text, delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


@lru_cache(maxsize=2)
def mnist_like(name: str) -> DataSet:
    """MNIST or Fashion-MNIST: 60,000 + 10,000 grey pictures of 28 x 28, as bytes.

    From NAME.npz, or from the four idx files of the original in the folder NAME.
    """
    folders = [name]
    holds = "60,000 training and 10,000 test pictures"
    top = files.found(name, [f"{name}.npz", "train-images-idx3-ubyte"], folders, holds, WITHOUT)
    expected = {
        f"{xy}_{part}": files.Numbers((n, *sizes), most)
        for part, n in (("train", 60_000), ("test", 10_000))
        for xy, sizes, most in (("x", (28, 28), 255), ("y", (), 9))
    }
    if top.suffix == ".npz":
        held = files.npz(top, *expected)
        files.require_arrays(top, held, expected)
    else:
        held = _of_idx(name, expected)
    mean, std = MOMENTS[name]
    x, y, x_test, y_test = (_tensor(held[f"{a}_{part}"]) for part in IDX for a in ("x", "y"))
    return DataSet(name, x, y, x_test, y_test, 10, prepare=Scaled((mean,), (std,)))


@lru_cache(maxsize=1)
def cifar10() -> DataSet:
    """CIFAR-10, 50,000 + 10,000 colour pictures of 32 x 32, as bytes, channels first.

    From cifar10_jpeg.npz, JPEG pictures that share one header; takes Pillow and seconds.
    """
    holds = "the JPEG pictures"
    path = files.found("cifar10", ["cifar10_jpeg.npz"], ["cifar10_jpeg"], holds, WITHOUT)
    names = [f"{what}_{part}" for part in ("train", "test") for what in ("scan", "len", "y")]
    held = files.npz(path, "header", *names)
    data = files.Numbers((None,), 255)
    tensors: list[Tensor] = []
    for part, n in (("train", 50_000), ("test", 10_000)):
        counted = {f"len_{part}": files.Numbers((n,)), f"y_{part}": files.Numbers((n,), 9)}
        files.require_arrays(path, held, {"header": data, f"scan_{part}": data, **counted})
        pictures = _decoded(path, held["header"], held[f"scan_{part}"], held[f"len_{part}"])
        tensors += [torch.as_tensor(pictures), _tensor(held[f"y_{part}"])]
    x, y, x_test, y_test = tensors
    return DataSet("cifar10", x, y, x_test, y_test, 10, prepare=CIFAR)


@lru_cache(maxsize=1)
def spoken_digits() -> DataSet:
    """Spoken digits as 128 x 32 log-mel pictures; six speakers, who are the clients.

    Recordings 0 to 4 of each speaker and digit are the test set.
    """
    holds = "3,000 recordings"
    path = files.found("spoken_digits", ["spoken_digits.npz"], ["spoken_digits"], holds, WITHOUT)
    held = files.npz(path, "x", "y", "speaker", "take")
    expected = {
        "x": files.Numbers((3_000, 128, 32), 255),
        "y": files.Numbers((3_000,), 9),
        "speaker": files.Numbers((3_000,), 5),
        "take": files.Numbers((3_000,), 49),
    }
    files.require_arrays(path, held, expected)
    inputs = torch.as_tensor(held["x"].astype(np.float32) / 80)[:, None]
    targets, speakers = _tensor(held["y"]), _tensor(held["speaker"])
    test = torch.as_tensor(held["take"] < 5)
    return DataSet(
        "spoken_digits",
        inputs[~test],
        targets[~test],
        inputs[test],
        targets[test],
        n_classes=10,
        clients=speakers[~test],
    )


def _decoded(path: Path, header: NDArray[Any], scan: NDArray[Any], sizes: NDArray[Any]) -> Any:  # noqa: ANN401
    """Pictures (n, 3, 32, 32) from their entropy-coded parts, which lie end to end."""
    from PIL import Image

    head, data = header.astype(np.uint8).tobytes(), scan.astype(np.uint8).tobytes()
    ends = np.cumsum(sizes, dtype=np.int64)
    if ends[-1] != len(data):
        raise ValueError(
            f"{path} announces {ends[-1]} bytes of pictures and holds {len(data)}: it is cut off. "
            "Fetch the file again."
        )
    pictures = np.empty((len(sizes), 3, 32, 32), np.uint8)
    for i, end in enumerate(ends):
        jpeg = head + data[end - int(sizes[i]) : end] + b"\xff\xd9"
        try:
            picture = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
            if (picture.size, picture.mode) != ((32, 32), "RGB"):
                raise ValueError(f"it is {picture.mode} of size {picture.size}")
            pictures[i] = np.asarray(picture).transpose(2, 0, 1)
        except (*files.UNREADABLE, SyntaxError) as reason:
            expected = f"a JPEG picture of 32 x 32 at place {i}"
            raise ValueError(files.unreadable(path, expected, reason)) from None
    return pictures


def _of_idx(name: str, expected: Mapping[str, files.Numbers]) -> files.Arrays:
    """The four arrays of the original's files, each checked under the name of its file."""
    held = {}
    for array, numbers in expected.items():
        xy, part = array.split("_")
        file = f"{IDX[part]}-{KINDS[xy]}-ubyte"
        path = files.found(name, [file], [name], "an idx file", WITHOUT)
        held[array] = files.idx(path)
        files.require_arrays(path, held, {array: numbers})
    return held


def _tensor(array: NDArray[Any]) -> Tensor:
    """Pictures as bytes with a channel; labels as whole numbers."""
    if array.ndim == 3:
        return torch.as_tensor(array.astype(np.uint8, copy=False))[:, None]
    return torch.as_tensor(array).long()


PICTURES: Mapping[str, Callable[[int], DataSet]] = {
    "digits": digits,
    "mnist": lambda _: mnist_like("mnist"),
    "fashion_mnist": lambda _: mnist_like("fashion_mnist"),
    "cifar10": lambda _: cifar10(),
    "spoken_digits": lambda _: spoken_digits(),
}
