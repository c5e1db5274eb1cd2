"""Data sets of random bytes, as files in the layouts that people have."""

import gzip

import numpy as np

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx_bytes(values):
    header = bytes([0, 0, 8, values.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + sizes + values.astype(np.uint8).tobytes()


def small_set(num_train=33, num_test=8, shape=(3, 5), num_classes=4):
    rng = np.random.default_rng(0)
    return {
        TRAIN_IMAGES: rng.integers(0, 256, (num_train, *shape)),
        TRAIN_LABELS: np.arange(num_train) % num_classes,
        TEST_IMAGES: rng.integers(0, 256, (num_test, *shape)),
        TEST_LABELS: np.arange(num_test) % num_classes,
    }


def write_set(folder, arrays, gzipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        content = idx_bytes(values)
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
