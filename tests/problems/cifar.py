"""Small data sets in the formats of CIFAR, and a network as small."""

import flax.linen as nn
import numpy as np

from hyperlr.experiments.data.cifar import CIFAR10, CIFAR100


class Tiny(nn.Module):
    """The smallest network with what the large ones have: a layer, batch normalization, a layer."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, images, train):
        hidden = images[:, ::8, ::8, :].reshape(len(images), -1)
        hidden = nn.Dense(self.width)(hidden)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(hidden))
        return nn.Dense(self.num_classes)(hidden)


def records(form, num, seed=0):
    """Images, labels, and the bytes of a file that holds them, made without the reader."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(form.num_classes, size=num)
    images = rng.integers(256, size=(num, 32, 32, 3), dtype=np.uint8)
    content = b""
    for image, label in zip(images, labels, strict=True):
        superclass = b"\x13" * (form.label_bytes - 1)
        planes = b"".join(image[:, :, colour].tobytes() for colour in range(3))
        content += superclass + bytes([label]) + planes
    return images, labels, content


def write_set(folder, form, num_train=120, num_test=20):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / form.train_files[0]).write_bytes(records(form, num_train)[2])
    (folder / form.test_file).write_bytes(records(form, num_test, seed=1)[2])
    return folder


def write_sets(directory):
    """Writes both data sets where the usual tools leave them."""
    for form in (CIFAR10, CIFAR100):
        write_set(directory / form.folder, form)
    return directory
