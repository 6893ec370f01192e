"""Readers on small files that the tests write, and on the real ones where they are."""

import bz2
import gzip
import lzma
import os

import numpy as np
import pytest
from scipy.sparse import csr_array

from subnetwork.theory import data
from subnetwork.theory.data import (
    LIBSVM,
    TABLES,
    Known,
    libsvm_named,
    read_libsvm,
    read_npz,
    table_named,
)
from subnetwork.theory.table import Table, standardised

TEXT = b"2 1:0.5 3:-1\n1 2:2\n2\n1 1:1 2:1 3:1 # a comment\n"
VALUES = [[0.5, 0, -1], [0, 2, 0], [0, 0, 0], [1, 1, 1]]
PACKED = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress}


def written(folder, text=TEXT, name="set"):
    path = folder / name
    path.write_bytes(text)
    return path


@pytest.mark.parametrize("ending", PACKED)
def test_libsvm_text_is_read_plain_and_packed(tmp_path, ending):
    path = written(tmp_path, PACKED[ending](TEXT), f"set{ending}")
    table = read_libsvm(path, dim=4, n_rows=4)
    np.testing.assert_array_equal(table.features.toarray(), np.pad(VALUES, ((0, 0), (0, 1))))
    np.testing.assert_array_equal(table.targets, [1, -1, 1, -1])  # 1 and 2 become -1 and +1
    assert table.dim == 4
    assert read_libsvm(path).dim == 3


@pytest.mark.parametrize("labels", [(b"0", b"1"), (b"-1", b"+1"), (b"-7.5", b"3")])
def test_the_larger_label_becomes_plus_one(tmp_path, labels):
    small, large = labels
    path = written(tmp_path, b"%b 1:1\n%b 1:1\n" % (large, small))
    np.testing.assert_array_equal(read_libsvm(path).targets, [1, -1])


def test_labels_are_kept_as_targets_where_asked(tmp_path):
    path = written(tmp_path, b"1.5 1:1\n-2 1:1\n7 1:2\n")
    np.testing.assert_array_equal(read_libsvm(path, binary=False).targets, [1.5, -2, 7])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TEXT, {"n_rows": 5}, r"set has 4 rows, but 5 were expected: it is cut off"),
        (
            TEXT,
            {"dim": 2, "n_rows": 4},
            r"set could not be read: .* Expected was .* of 4 rows with indices from 1 to 2",
        ),
        (b"1 0:3\n2 1:1\n", {}, r"could not be read: .*index 0 .* with indices from 1\."),
        (b"1 1:x\n", {}, r"could not be read: .* Expected was LIBSVM text"),
        (b"1 1:1\n2 1:nan\n", {}, r"set holds NaN or infinity in row 2 of 2"),
        (b"1 1:1\ninf 1:1\n", {"binary": False}, r"NaN or infinity in row 2"),
        (b"1 1:1\n2 1:1\n3 1:1\n", {}, r"3 different labels \(1, 2, 3\.\.\).* binary=False"),
        (b"1 1:1\n1 1:1\n", {}, r"1 different labels"),
    ],
)
def test_bad_text_is_refused_by_name(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        read_libsvm(written(tmp_path, text), **options)


@pytest.mark.parametrize("ending", [".xz", ".gz", ".bz2"])
def test_a_packed_file_that_is_cut_off_is_refused_by_name(tmp_path, ending):
    packed = PACKED[ending](TEXT * 50)
    for spoilt in (packed[:-9], b"not packed at all"):
        path = written(tmp_path, spoilt, f"set{ending}")
        with pytest.raises(ValueError, match=rf"set\{ending} could not be read: .*Fetch the file"):
            read_libsvm(path, n_rows=200)


def test_a_missing_file_is_said_with_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*gone\. Expected was LIBSVM text of 3 rows"):
        read_libsvm(tmp_path / "gone", n_rows=3)
    with pytest.raises(ValueError, match=r"no file .*gone\. Expected was a NumPy archive"):
        read_npz(tmp_path / "gone")


# .npz


def test_npz_arrays_become_rows(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([1, 0, 2], dtype=np.int8))
    table = read_npz(tmp_path / "set.npz", features="images", targets="labels")
    np.testing.assert_array_equal(table.features, images.reshape(3, 8))
    np.testing.assert_array_equal(table.targets, [1, 0, 2])
    assert table.features.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.ones((2, 1))}, r"it has the arrays \['X'\] and no 'y'\. Expected was"),
        ({"X": np.ones((2, 1)), "y": np.ones(3)}, r"could not be read: .* 'X' and 'y'"),
        ({"X": np.array([{}, {}]), "y": np.ones(2)}, r"could not be read: Object arrays"),
        ({"X": np.array([[1], [np.nan]]), "y": np.ones(2)}, r"NaN or infinity in row 2 of 2"),
        ({"X": np.array([["a"]]), "y": np.ones(1)}, r"could not be read"),
        ({"X": np.ones((1, 1), complex), "y": np.ones(1)}, r"they are complex128 and float64"),
        ({"X": np.array(1.0), "y": np.ones(1)}, r"could not be read"),
    ],
)
def test_bad_archives_are_refused_by_name(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "set.npz")


def test_an_archive_that_is_none_is_refused(tmp_path):
    for text in (b"PK\x03\x04cut off", b"plain text", b""):
        with pytest.raises(ValueError, match=r"set\.npz could not be read"):
            read_npz(written(tmp_path, text, "set.npz"))


# the registry


def test_sets_are_found_in_the_folder_and_below_it(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "LIBSVM", {"tiny": Known(4, 3)})
    monkeypatch.setenv("SUBNETWORK_DATA", str(tmp_path))
    (tmp_path / "libsvm").mkdir()
    written(tmp_path / "libsvm", lzma.compress(TEXT), "tiny.xz")
    assert libsvm_named("tiny").n_rows == 4
    written(tmp_path, b"1 1:1\n2 1:1\n", "tiny")  # nearer, and wrong
    with pytest.raises(ValueError, match=r"tiny has 2 rows, but 4 were expected"):
        libsvm_named("tiny")


def test_what_to_do_about_a_missing_set_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("SUBNETWORK_DATA", raising=False)
    with pytest.raises(ValueError, match=r"SUBNETWORK_DATA is not set\. Set it .* a9a\.xz"):
        libsvm_named("a9a")
    monkeypatch.setenv("SUBNETWORK_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"no file w8a, w8a\.xz.*Put 49749 rows of LIBSVM text"):
        libsvm_named("w8a")
    with pytest.raises(ValueError, match=r"no LIBSVM set 'a8a'\. Known sets: a9a, "):
        libsvm_named("a8a")
    with pytest.raises(ValueError, match=r"no table 'a8a'\. Known tables: breast_cancer, digits"):
        table_named("a8a")


def test_bundled_tables_have_their_known_shapes():
    assert table_named("breast_cancer").features.shape == (569, 30)
    assert table_named("digits").features.shape == (1797, 64)
    assert table_named("diabetes").features.shape == (442, 10)
    digits = table_named("digits")
    np.testing.assert_array_equal(digits.targets, 2 * (digits.labels % 2) - 1)
    np.testing.assert_allclose(table_named("diabetes").targets.std(), 1)


@pytest.mark.skipif(not os.environ.get("SUBNETWORK_DATA"), reason="SUBNETWORK_DATA is not set")
@pytest.mark.parametrize(
    ("name", "plus", "entries"),
    [
        ("a9a", 7_841, 451_592),
        ("a9a.t", 3_846, 225_731),
        ("w8a", 1_479, 579_586),
        ("mushrooms", 4_208, 170_604),
        ("phishing", 6_157, 331_650),
    ],
)
def test_the_real_sets_are_whole(name, plus, entries):
    table = table_named(name)
    assert (table.n_rows, table.dim) == (LIBSVM[name].rows, LIBSVM[name].dim)
    assert (table.targets > 0).sum() == plus
    assert table.features.nnz == entries


def test_every_table_has_a_name():
    assert set(TABLES) == {"breast_cancer", "digits", "diabetes", *LIBSVM}


# tables


def test_standardised_columns_have_mean_0_and_variance_1():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((49, 3)) * [1, 100, 0] + [5, -3, 0.1]
    assert A[:, 2].mean() != 0.1  # rounding, which must not be blown up
    done = standardised(Table(A, np.zeros(49), np.zeros(49))).features
    assert not done[:, 2].any()
    np.testing.assert_allclose(done.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(done.std(axis=0), [1, 1, 0], atol=1e-12)


def test_sparse_columns_are_scaled_and_stay_sparse():
    A = csr_array(np.array([[1.0, 0, 0], [3, 0, 2], [0, 0, 0]]))
    done = standardised(Table(A, np.zeros(3), np.zeros(3))).features
    assert done.nnz == 3
    np.testing.assert_allclose((done.toarray() ** 2).mean(axis=0), [1, 0, 1])


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (np.ones((2, 1)), np.ones(3), r"\(2, 1\), targets of shape \(3,\) .* do not match"),
        (np.ones((0, 1)), np.ones(0), r"shape \(0, 1\) holds no data"),
        (np.array([[1.0], [np.inf]]), np.ones(2), r"Row 1 \(counted from 0\)"),
        (csr_array(np.array([[0, 0], [0, np.nan]])), np.ones(2), r"Row 1 .* Drop or fill"),
        (np.ones((2, 1)), np.array([np.nan, 1]), r"Row 0"),
    ],
)
def test_tables_that_are_none_are_refused(features, targets, message):
    with pytest.raises(ValueError, match=message):
        Table(features, targets, targets)
