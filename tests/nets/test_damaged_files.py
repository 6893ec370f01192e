"""Files of data that are not what their name says: the file, its fault, the way out, in a line."""

import contextlib

import numpy as np
import pytest
import torch

from subnetwork import files
from subnetwork.nets.data import graph, graphs, load, pictures, tables

GRAPH = {
    "x_indptr": np.array([0, 1, 3, 3, 4]),
    "x_indices": np.array([2, 0, 1, 2], np.int16),
    "x_shape": np.array([4, 3]),
    "x_data": np.array([3, 1, 1, 2], np.uint8),
    "adj_indptr": np.array([0, 1, 2, 3, 4]),
    "adj_indices": np.array([1, 0, 3, 2], np.uint16),
    "y": np.array([0, 1, 1, -1], np.int8),
    "train_idx": np.array([0, 1]),
    "val_idx": np.array([2]),
    "test_idx": np.array([0]),
}
KNOWN = graphs.Known(4, 3, 2, {"train": 2, "val": 1, "test": 1})
BAD_GRAPHS = {
    "no array 'y'": {"y": None},
    "no array 'x_shape'": {"x_shape": None},
    "no array 'adj_indptr'": {"adj_indptr": None},
    "no array 'train_idx'": {"train_idx": None},
    "has 3 rows, but 4 were expected": {"y": np.zeros(3, int)},
    "'y' is <U1 of shape (4,), not whole numbers": {"y": np.full(4, "a")},
    "'y' is float64 of shape (4,), not whole numbers": {"y": np.zeros(4)},
    "'y' holds -1 to 2, not -1 to 1": {"y": np.array([0, 1, 2, -1])},
    "features of shape [4, 4], not [4, 3]": {"x_shape": np.array([4, 4])},
    "'x_indices' holds 0 to 3, not 0 to 2": {"x_indices": np.array([2, 0, 1, 3])},
    "'adj_indices' holds -1 to 3, not 0 to 3": {"adj_indices": np.array([1, 0, 3, -1])},
    "'x_indptr' does not rise from 0 to 4": {"x_indptr": np.array([0, 3, 1, 3, 4], np.uint8)},
    "'adj_indptr' does not rise from 0 to 4": {"adj_indptr": np.array([0, 1, 2, 3, 3])},
    "'x_data' is uint8 of shape (3,), not numbers of shape (4)": {"x_data": np.ones(3, np.uint8)},
    "'x_data' holds nan to nan, not 0 or more": {"x_data": np.array([1, np.nan, 1, 1])},
    "'train_idx' is int64 of shape (1,)": {"train_idx": np.array([0])},
    "'test_idx' holds 4 to 4, not 0 to 3": {"test_idx": np.array([4])},
    "'test_idx' names nodes without a class": {"test_idx": np.array([3])},
}
LABELS = {
    f"{what}_{array}_{part}": values
    for part in ("train", "test")
    for what in ("x", "y")
    for array, values in (("indptr", np.array([0, 1, 2])), ("indices", np.array([1, 0])))
}
BAD_LABELS = {
    "no array 'y_indptr_test'": {"y_indptr_test": None},
    "'x_indptr_train' is int64 of shape (2,)": {"x_indptr_train": np.array([0, 2])},
    "'y_indices_train' holds 0 to 3, not 0 to 2": {"y_indices_train": np.array([3, 0])},
}
SPOKEN = {
    "x": np.zeros((3_000, 128, 32), np.uint8),
    "y": np.arange(3_000) % 10,
    "speaker": np.arange(3_000) % 6,
    "take": np.arange(3_000) % 50,
}
BAD_SPOKEN = {
    "and no 'take'": {"take": None},
    "'x' is uint8 of shape (3000, 128, 31)": {"x": SPOKEN["x"][..., 1:]},
    "'y' holds 0 to 10, not 0 to 9": {"y": np.arange(3_000) % 11},
    "'speaker' is float64 of shape (3000,)": {"speaker": np.zeros(3_000)},
}
CACHED = (graphs.planetoid, tables.libsvm, tables.multilabel, pictures.mnist_like)
CACHED += (pictures.spoken_digits, pictures.cifar10)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(files.VARIABLE, str(tmp_path))
    monkeypatch.setattr(graphs, "PLANETOID", {"cora": KNOWN})
    monkeypatch.setattr(tables, "MULTILABEL", {"bibtex": tables.Known(2, 2, 3, 3)})
    monkeypatch.setattr(tables, "LIBSVM", {"phishing": (2, 3)})
    for read in CACHED:
        read.cache_clear()
    yield tmp_path
    for read in CACHED:
        read.cache_clear()


def write(folder, name, arrays, changes=None):
    changed = {**arrays, **(changes or {})}
    np.savez(folder / name, **{key: array for key, array in changed.items() if array is not None})


def refusal(read, name):
    """The one line that says which file it is and what to do."""
    with pytest.raises(ValueError, match=name) as reason:
        read(name)
    line = str(reason.value)
    assert line.endswith(("Fetch the file again.", "or correct it."))
    assert "\n" not in line
    return line


@pytest.mark.parametrize("fault", BAD_GRAPHS)
def test_a_graph_that_is_another_one_is_refused(fault, folder):
    write(folder, "cora.npz", GRAPH, BAD_GRAPHS[fault])
    assert fault in refusal(graph, "cora")


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_rows_with_other_labels_are_refused(fault, folder):
    write(folder, "bibtex.npz", LABELS, BAD_LABELS[fault])
    assert fault in refusal(load, "bibtex")


@pytest.mark.parametrize("fault", BAD_SPOKEN)
def test_other_recordings_are_refused(fault, folder):
    write(folder, "spoken_digits.npz", SPOKEN, BAD_SPOKEN[fault])
    assert fault in refusal(load, "spoken_digits")


def test_what_is_whole_is_read(folder):
    """In any type of whole numbers; so it is the faults above that are refused."""
    write(folder, "cora.npz", {name: a.astype(np.int64) for name, a in GRAPH.items()})
    found = graph("cora")
    np.testing.assert_allclose(found.features.toarray()[1], [0.5, 0.5, 0])
    assert found.adjacency.toarray()[2].tolist() == [0, 0, 0, 1]
    assert (found.targets.tolist(), found.n_classes) == ([0, 1, 1, -1], 2)
    assert found.train.tolist() == [0, 1]
    write(folder, "bibtex.npz", LABELS)
    assert load("bibtex").train_targets.tolist() == [[0, 1, 0], [1, 0, 0]]
    write(folder, "spoken_digits.npz", SPOKEN)
    assert load("spoken_digits").train_inputs.dtype == torch.float32


def test_pictures_of_another_size_or_class_are_refused(folder):
    sizes = {"train": 60_000, "test": 10_000}
    whole = {f"x_{part}": np.zeros((n, 28, 28), np.uint8) for part, n in sizes.items()}
    whole |= {f"y_{part}": np.arange(n) % 10 for part, n in sizes.items()}
    for fault, changes in {
        "'y_test' holds 0 to 10, not 0 to 9": {"y_test": np.arange(10_000) % 11},
        "'x_test' is uint8 of shape (10000, 28, 27)": {"x_test": whole["x_test"][..., 1:]},
        "'x_train' is uint8 of shape (60000,)": {"x_train": whole["x_train"][:, 0, 0]},
    }.items():
        write(folder, "mnist.npz", whole, changes)
        assert fault in refusal(load, "mnist")


def test_the_idx_file_that_is_at_fault_is_named(folder):
    def idx(name, shape, entries):
        head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        (folder / name).write_bytes(head + entries)

    idx("train-images-idx3-ubyte", (60_000, 28, 28), bytes(60_000 * 784))
    idx("train-labels-idx1-ubyte", (60_000,), bytes([9]) * 60_000)
    idx("t10k-images-idx3-ubyte", (10_000, 28, 28), bytes(10_000 * 784))
    idx("t10k-labels-idx1-ubyte", (), bytes(1))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte: .* 'y_test' is uint8 of shape"):
        load("mnist")
    idx("t10k-labels-idx1-ubyte", (10_000,), bytes([10]) * 10_000)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte: .* 'y_test' holds 10 to 10"):
        load("mnist")


def test_a_picture_that_is_none_is_refused(folder):
    data = {
        f"{what}_{part}": np.zeros(n, np.uint8)
        for part, n in (("train", 50_000), ("test", 10_000))
        for what in ("len", "scan", "y")
    }
    write(
        folder,
        "cifar10_jpeg.npz",
        {"header": np.zeros(9, np.uint8), **data},
        {"len_train": np.ones(50_000, np.uint8)},
    )
    with pytest.raises(ValueError, match=r"cifar10_jpeg\.npz could not be read: cannot identify"):
        load("cifar10")
    write(
        folder,
        "cifar10_jpeg.npz",
        {"header": np.zeros(9, np.uint8), **data},
        {"len_train": np.full(50_000, "a")},
    )
    with pytest.raises(ValueError, match=r"'len_train' is <U1 of shape"):
        load("cifar10")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1 1:1\n2 3:nan\n", "holds NaN or infinity"),
        ("1 1:1\n1 3:1\n", "holds 1 different labels, not 2"),
        ("1 1:1\n2 99999999999999999999:1\n", "could not be read: "),
    ],
)
def test_a_table_that_is_another_one_is_refused(text, fault, folder):
    (folder / "phishing").write_text(text)
    assert fault in refusal(load, "phishing")


def test_an_archive_is_refused_wherever_a_bit_of_it_turns(tmp_path):
    """Or read as it was: much of an archive's directory says nothing of its arrays."""
    np.savez_compressed(tmp_path / "set.npz", x=np.arange(5))
    whole = (tmp_path / "set.npz").read_bytes()
    for place in range(len(whole)):
        for bit in (1, 8, 128):
            turned = bytearray(whole)
            turned[place] ^= bit
            (tmp_path / "set.npz").write_bytes(turned)
            with contextlib.suppress(ValueError):
                assert files.npz(tmp_path / "set.npz", "x")["x"].tolist() == [0, 1, 2, 3, 4]
