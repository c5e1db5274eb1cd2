"""The methods of Section 6: four fixed schedules, and five that learn the rate while training."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax

from hyperlr.experiments import methods
from hyperlr.experiments.methods import METHODS

EPOCHS = 200
"""Of a run in the paper; the schedules are functions of the epoch, in a run of this length."""


class Inner(NamedTuple):
    """An inner optimizer and the paper's η_0 for it."""

    label: str
    make: Callable[[Any], optax.GradientTransformation]
    learning_rate: float


INNER = {
    "momentum": Inner("SGDM", methods.INNER["momentum"][1], 0.1),
    "adam": Inner("Adam", methods.INNER["adam"][1], 3e-4),
}

# β of HD and RTHO are the paper's. Its search for κ "starts high": at 1 here. γ has no counterpart
# in the paper, and was not tuned on CIFAR: one step alters η by at most 2%.
NUMBERS: Mapping[str, float] = {
    **dict.fromkeys(("exponential", "staircase", "sgdr", "sgdr_2264"), 0.0),
    "hd": 1e-6,
    "rtho": 1e-8,
    "marthe": 1.0,
    "marthe_zero": 1.0,
    "marthe_scale_free": 0.02,
}
"""Method of the table → its β or γ; of those in SEARCHED, the largest κ that is tried."""
SEARCHED = ("marthe", "marthe_zero")
"""Whose κ is the largest power of ten with a margin to those that diverge."""


def initial_learning_rate(name: str, inner: Inner) -> float:
    """Returns η_0 of a method with an inner optimizer."""
    return 0.0 if name == "marthe_zero" else inner.learning_rate


def rates(name: str, inner: Inner, num_steps: int) -> np.ndarray:
    """Returns what a step is given as learning rate, float32 [T]: the schedule, or η_0 throughout.

    A fixed schedule changes from epoch to epoch (the restarts of SGDR at epochs 10, 33, 84 and 200
    are whole epochs in the paper, too), and a shorter run sees all of it, faster. An online method
    looks at the learning rate in its first step alone.
    """
    start, schedule = initial_learning_rate(name, inner), METHODS[name].schedule
    if schedule is None:
        return np.full(num_steps, start, np.float32)
    epochs = np.arange(num_steps) * EPOCHS // num_steps
    return np.asarray(schedule(start, EPOCHS)(epochs), np.float32)
