"""Readers of CIFAR-10's and CIFAR-100's binary formats, and the split for training."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.data.batches import Data
from hyperlr.experiments.data.directory import VARIABLE, data_directory, read_bytes

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


def load(form: Format, data_dir: Path | None) -> Data:
    """Loads the training and test images of CIFAR10 or CIFAR100.

    The binary files are in the directory, or in the folder of their usual name in it; None takes
    the environment variable HYPERLR_DATA_DIR.

    Raises:
      InputError: no directory is named, a file is missing, cut short or not what its name says.
    """
    directory = data_directory(data_dir)
    if directory is None:
        raise InputError(
            f"{form.name} does not come with hyperlr: pass --data-dir (or set {VARIABLE}) with the "
            f"directory that holds {form.folder}, the binary version from "
            "https://www.cs.toronto.edu/~kriz/cifar.html"
        )
    origin, names = directory.origin, (*form.train_files, form.test_file)
    what = f"{form.name}'s files ({', '.join(names)})"
    folder = directory.folder_with((form.folder, "."), names, what)
    train = [read(folder / name, form) for name in form.train_files if (folder / name).is_file()]
    if not train or not (folder / form.test_file).is_file():
        missing = form.test_file if train else form.train_files[0]
        raise InputError(f"{origin}: {folder / missing} is missing; put it beside the others")
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    test = read(folder / form.test_file, form)
    if len(images) < 2:
        raise InputError(f"{folder}: one training image cannot be split; name a larger data set")
    # The paper does not say how many it held out; a tenth is 5,000 of the 50,000.
    num_val = max(1, len(images) // 10)
    source = f"{form.name}: {len(images):,} images in {folder}"
    sizes = len(images) - num_val, num_val
    return Data(source, images, labels, *test, form.num_classes, *sizes)


def read(path: Path, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of any number of records: label bytes, then 3,072 bytes, colour by colour.

    Returns:
      (images, labels): uint8 [n, 32, 32, 3] and int32 [n].

    Raises:
      InputError: the file cannot be read, is cut short, or holds a label that cannot be.
    """
    content = np.frombuffer(read_bytes(path), np.uint8)
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


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of each colour, float32 [3], in units of 255."""
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(3)])
    values = np.arange(256) / 255.0
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    # A colour that never varies is left at zero, not divided by it.
    deviation = np.sqrt(np.where(variance > 1e-12, variance, 1.0))
    return mean.astype(np.float32), deviation.astype(np.float32)
