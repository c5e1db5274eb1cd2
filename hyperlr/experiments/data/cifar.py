"""Readers of CIFAR-10's and CIFAR-100's binary formats, and the split for training."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperlr.experiments.data import DATA_DIR_VARIABLE
from hyperlr.experiments.errors import InputError

SHAPE = (32, 32, 3)
_NUM_PIXELS = 3 * 32 * 32


class Format(NamedTuple):
    """How a data set lies on the disk."""

    name: str
    """What people call it."""
    folder: str
    """Where the usual tools leave its files, below the data directory."""
    train_files: tuple[str, ...]
    """Names of the training files; those that are there are read."""
    test_file: str
    """Name of the test file."""
    num_classes: int
    """Labels are 0 to one less than this."""
    label_bytes: int
    """Bytes before the pixels of a record, of which the last is the label."""


CIFAR10 = Format(
    "CIFAR-10",
    "cifar-10-batches-bin",
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test_batch.bin",
    num_classes=10,
    label_bytes=1,
)
# Two label bytes: the superclass, then the class.
CIFAR100 = Format(
    "CIFAR-100", "cifar-100-binary", ("train.bin",), "test.bin", num_classes=100, label_bytes=2
)


class Images(NamedTuple):
    """Labelled colour images; a run draws its training and validation images from `images`."""

    source: str
    """Where the images come from, in words."""
    images: np.ndarray
    """uint8 [N, 32, 32, 3]."""
    labels: np.ndarray
    """int32 [N]."""
    test_images: np.ndarray
    """uint8 [M, 32, 32, 3]; for reports alone, never for E."""
    test_labels: np.ndarray
    """int32 [M]."""
    num_classes: int
    """10 or 100."""


def load(form: Format, data_dir: Path | None) -> Images:
    """Loads the training and test images of a data set.

    Args:
      form: CIFAR10 or CIFAR100.
      data_dir: directory with the binary files, in it or in the folder of their usual name; None
        takes the environment variable HYPERLR_DATA_DIR.

    Raises:
      InputError: no directory is named, a file is missing, cut short or not what its name says.
    """
    origin = "--data-dir"
    if data_dir is None:
        origin, from_environment = DATA_DIR_VARIABLE, os.environ.get(DATA_DIR_VARIABLE)
        if not from_environment:
            raise InputError(
                f"{form.name} does not come with hyperlr: pass --data-dir (or set "
                f"{DATA_DIR_VARIABLE}) with the directory that holds {form.folder}, the binary "
                "version from https://www.cs.toronto.edu/~kriz/cifar.html"
            )
        data_dir = Path(from_environment)
    if not data_dir.is_dir():
        raise InputError(f"{origin} names {data_dir}, which is no directory")
    folder = _folder_with_files(form, data_dir, origin)
    train = [read(folder / name, form) for name in form.train_files if (folder / name).is_file()]
    if not train or not (folder / form.test_file).is_file():
        missing = form.test_file if train else form.train_files[0]
        raise InputError(f"{origin}: {folder / missing} is missing; put it beside the others")
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    test_images, test_labels = read(folder / form.test_file, form)
    if len(images) < 2:
        raise InputError(f"{folder}: one training image cannot be split; name a larger data set")
    return Images(
        source=f"{form.name}: {len(images):,} images in {folder}",
        images=images,
        labels=labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=form.num_classes,
    )


def read(path: Path, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of any number of records: label bytes, then 3,072 bytes, colour by colour.

    Returns:
      (images, labels): uint8 [n, 32, 32, 3] and int32 [n].

    Raises:
      InputError: the file cannot be read, is cut short, or holds a label that cannot be.
    """
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    record = form.label_bytes + _NUM_PIXELS
    if content.size == 0 or content.size % record:
        raise InputError(
            f"{path} is cut short or is not {form.name}'s binary version: {content.size} bytes are "
            f"no whole number of records of {record} bytes; fetch it again"
        )
    records = content.reshape(-1, record)
    labels = records[:, form.label_bytes - 1].astype(np.int32)
    if labels.max() >= form.num_classes:
        first = int(np.argmax(labels >= form.num_classes))
        raise InputError(
            f"{path} is mislabelled: record {first} has the label {labels[first]}, and "
            f"{form.name}'s labels are 0 to {form.num_classes - 1}; check that it is the right file"
        )
    pixels = records[:, form.label_bytes :].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels


def split_indices(num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a seed's training and validation images, nine to one.

    The paper does not say how many it held out; a tenth is 5,000 of the 50,000.

    Returns:
      (training, validation): int32 indices, disjoint.
    """
    order = np.random.default_rng([seed, 0]).permutation(num_images).astype(np.int32)
    num_val = max(1, num_images // 10)
    return order[num_val:], order[:num_val]


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of each colour, float32 [3], in units of 255."""
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(3)])
    values = np.arange(256) / 255.0
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    # A colour that never varies is left at zero, not divided by it.
    deviation = np.sqrt(np.where(variance > 1e-12, variance, 1.0))
    return mean.astype(np.float32), deviation.astype(np.float32)


def _folder_with_files(form: Format, data_dir: Path, origin: str) -> Path:
    for folder in (data_dir / form.folder, data_dir):
        if any((folder / name).is_file() for name in (*form.train_files, form.test_file)):
            return folder
    raise InputError(
        f"{origin}: none of {form.name}'s files ({', '.join((*form.train_files, form.test_file))}) "
        f"is in {data_dir / form.folder} or {data_dir}; put them there"
    )
