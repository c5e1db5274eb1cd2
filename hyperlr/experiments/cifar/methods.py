"""The methods of Section 6: four fixed schedules, and five that learn the rate while training."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

import hyperlr
from hyperlr import optimizers, schedules

EPOCHS = 200
"""Of a run in the paper; the schedules are functions of the epoch, in a run of this length."""


class Inner(NamedTuple):
    """An inner optimizer and the paper's η_0 for it."""

    label: str
    make: Callable[[Any], optax.GradientTransformation]
    learning_rate: float


# ε inside the root, so that the tangents hold where a gradient has always been 0.
INNER = {
    "momentum": Inner("SGDM", functools.partial(optax.sgd, momentum=0.9), 0.1),
    "adam": Inner("Adam", optimizers.adam, 3e-4),
}


class Method(NamedTuple):
    """A fixed schedule (`schedule` is set), or an online method (`online` is)."""

    label: str
    """Name in figures and tables."""
    cost: float
    """FLOPs of a step over those of a plain one: the weight of the method in a progress bar."""
    schedule: Callable[[float], optax.Schedule] | None = None
    """Makes the schedule, a function of the epoch, from η_0."""
    online: Callable[[Any, Any, Any], optax.GradientTransformationExtraArgs] | None = None
    """Makes the transformation from the inner optimizer, η_0 and the step size, maybe traced."""
    step_size: float = 0.0
    """β or γ; where `searched`, the largest κ that the search tries."""
    searched: bool = False
    """Whether the step size is the largest power of ten with a margin to those that diverge."""
    starts_at_zero: bool = False
    """Whether η_0 is 0, not the paper's for the inner optimizer."""


def _hd(inner: Any, learning_rate: Any, step_size: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.hd(inner, learning_rate, step_size)


def _rtho(inner: Any, learning_rate: Any, step_size: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.rtho(inner, learning_rate, step_size)


def _marthe(
    inner: Any, learning_rate: Any, step_size: Any
) -> optax.GradientTransformationExtraArgs:
    return hyperlr.marthe(inner, learning_rate, meta_learning_rate=step_size)


def _scale_free(
    inner: Any, learning_rate: Any, step_size: Any
) -> optax.GradientTransformationExtraArgs:
    rule = hyperlr.exponentiated_gradient(step_size)
    return hyperlr.marthe(inner, learning_rate, discount=0.99, hyper_optimizer=rule)


# The step sizes of HD and RTHO are the paper's. Its search for κ "starts high": at 1 here. γ has no
# counterpart in the paper, and was not tuned on CIFAR: one step alters η by at most 2%.
METHODS = {
    "exponential": Method(
        "exponential decay",
        1.0,
        schedule=lambda rate: schedules.exponential_decay(rate, -math.log(0.99)),
    ),
    "staircase": Method(
        "staircase", 1.0, schedule=lambda rate: schedules.step_decay(rate, 0.1, 60)
    ),
    "sgdr": Method("SGDR (2)", 1.0, schedule=lambda rate: schedules.warm_restarts(rate, 10, 2.0)),
    "sgdr_2264": Method(
        "SGDR (2.264)", 1.0, schedule=lambda rate: schedules.warm_restarts(rate, 10, 2.264)
    ),
    "hd": Method("HD", 2.0, online=_hd, step_size=1e-6),
    "rtho": Method("RTHO", 3.67, online=_rtho, step_size=1e-8),
    "marthe": Method("MARTHE", 3.67, online=_marthe, step_size=1.0, searched=True),
    "marthe_zero": Method(
        "MARTHE, η_0 = 0", 3.67, online=_marthe, step_size=1.0, searched=True, starts_at_zero=True
    ),
    "marthe_scale_free": Method("MARTHE, scale-free", 3.67, online=_scale_free, step_size=0.02),
}


def initial_learning_rate(method: Method, inner: Inner) -> float:
    """Returns η_0 of a method with an inner optimizer."""
    return 0.0 if method.starts_at_zero else inner.learning_rate


def rates(method: Method, inner: Inner, num_steps: int) -> np.ndarray:
    """Returns what a step is given as learning rate, float32 [T]: the schedule, or η_0 throughout.

    A fixed schedule changes from epoch to epoch (the restarts of SGDR at epochs 10, 33, 84 and 200
    are whole epochs in the paper, too), and a shorter run sees all of it, faster. An online method
    looks at the learning rate in its first step alone.
    """
    start = initial_learning_rate(method, inner)
    if method.schedule is None:
        return np.full(num_steps, start, np.float32)
    epochs = np.arange(num_steps) * EPOCHS // num_steps
    return np.asarray(method.schedule(start)(epochs), np.float32)
