"""Adaptive optimizers whose derivatives are finite and right at zero gradients.

Their arguments are named as optax names them, and mean what they mean there. With Adam and its kin
``eps`` is added outside the root, and ``eps_root`` inside; with AdaGrad, RMSprop and AdaDelta
``eps`` is inside. What is inside the root is positive, which makes the derivatives hold; so it is
here by default, and 0 is refused.

Their arithmetic and their state are in at least float32, whatever the dtype of the gradients. With
float16 the updates are right, too, but not every tangent: where a gradient is zero, the slope of
the update is about learning_rate / √eps_root, 1e7 and more with the default, and float16 ends at
65504. Keep float16 parameters only with an ``eps_root`` of 1e-8 or more, or use bfloat16.
"""

from hyperlr.optimizers._adadelta import adadelta, scale_by_adadelta
from hyperlr.optimizers._adagrad import ScaleByAdagradState, adagrad, scale_by_adagrad
from hyperlr.optimizers._adam import adam, scale_by_adam
from hyperlr.optimizers._adam_max import adam_max, scale_by_adam_max
from hyperlr.optimizers._adamax import adamax, scale_by_adamax
from hyperlr.optimizers._adamw import adamw
from hyperlr.optimizers._nadam import nadam, scale_by_nadam
from hyperlr.optimizers._rmsprop import rmsprop, scale_by_rmsprop
from hyperlr.optimizers._sparsity import scale_by_sparsity, sparsity_factor

__all__ = [
    "ScaleByAdagradState",
    "adadelta",
    "adagrad",
    "adam",
    "adam_max",
    "adamax",
    "adamw",
    "nadam",
    "rmsprop",
    "scale_by_adadelta",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_adam_max",
    "scale_by_adamax",
    "scale_by_nadam",
    "scale_by_rmsprop",
    "scale_by_sparsity",
    "sparsity_factor",
]
