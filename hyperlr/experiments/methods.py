"""The online methods that the experiments compare, each a function of its one step size."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import hyperlr

LEARNING_RATE = 0.01
"""η_0, where every schedule of Section 5 starts."""


class Method(NamedTuple):
    """How to build a method, and what to call it."""

    label: str
    """Name in figures and tables."""
    step_size_name: str
    """What the step size is: β, κ or γ; empty for a method without one."""
    coarse_grid: tuple[float, ...]
    """Step sizes from far too small to far too large, few of them, in ascending order."""
    grid: tuple[float, ...]
    """Step sizes closer to one another, in ascending order."""
    make: Callable[[Any], optax.GradientTransformationExtraArgs]
    """Builds the optimizer from a step size, which may be traced."""
    cost: float
    """FLOPs of a step over those of a plain one: the weight of the method in a progress bar."""
    margin: float = 10.0
    """How many times as large as the one that is found a step size must not diverge either."""


def _constant(step_size: Any) -> optax.GradientTransformationExtraArgs:
    del step_size
    return optax.with_extra_args_support(optax.sgd(LEARNING_RATE))


def _hd(step_size: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.hd(optax.sgd, LEARNING_RATE, step_size)


def _rtho(step_size: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.rtho(optax.sgd, LEARNING_RATE, step_size)


def _marthe_fixed(step_size: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.marthe(optax.sgd, LEARNING_RATE, hyper_learning_rate=step_size, discount=0.99)


def _marthe_mu(step_size: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.marthe(optax.sgd, LEARNING_RATE, hyper_learning_rate=step_size)


def _marthe(step_size: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.marthe(optax.sgd, LEARNING_RATE, meta_learning_rate=step_size)


def _marthe_scale_free(step_size: Any) -> optax.GradientTransformationExtraArgs:
    rule = hyperlr.exponentiated_gradient(step_size)
    return hyperlr.marthe(optax.sgd, LEARNING_RATE, discount=0.99, hyper_optimizer=rule)


def _decades(first: int, last: int) -> tuple[float, ...]:
    """Returns the powers of ten from the first to the last."""
    return tuple(float(f"1e{exponent}") for exponent in range(first, last + 1))


def _halved_decades(first: int, last: int) -> tuple[float, ...]:
    """Returns the powers of ten from the first to the last, and three times each but the last."""
    exponents = range(first, last)
    steps = [float(f"{digit}e{exponent}") for exponent in exponents for digit in (1, 3)]
    return (*steps, float(f"1e{last}"))


# γ is a step size of log η, not of η: on seeds 0 and 1 of the packaged digits it was a matter of
# luck from 0.4 on whether a run diverged, and all from 0.025 to 0.2 did well. A margin of 4 keeps
# away from the ones without giving up the others.
METHODS = {
    "constant": Method("constant", "", (0.0,), (0.0,), _constant, 1.0),
    "hd": Method("HD", "β", _decades(-5, -1), _halved_decades(-5, -1), _hd, 2.0),
    "rtho": Method("RTHO", "β", _decades(-6, -2), _halved_decades(-7, -3), _rtho, 3.67),
    "marthe_fixed": Method(
        "MARTHE (μ = 0.99)",
        "β",
        _decades(-6, -2),
        _halved_decades(-6, -2),
        _marthe_fixed,
        3.67,
    ),
    "marthe_mu": Method(
        "MARTHE (μ adapted)",
        "β",
        _decades(-5, -1),
        _halved_decades(-5, -1),
        _marthe_mu,
        3.67,
    ),
    "marthe": Method(
        "MARTHE (μ, β adapted)",
        "κ",
        _decades(-8, -3),
        _decades(-11, -3),
        _marthe,
        3.67,
    ),
    "marthe_scale_free": Method(
        "MARTHE (scale-free)",
        "γ",
        (0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
        _marthe_scale_free,
        3.67,
        margin=4.0,
    ),
}


def step_records(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Returns the scalars of a method's last update, of which `learning_rate` always is one."""
    try:
        return hyperlr.metrics(opt_state)
    except ValueError:
        return {"learning_rate": jnp.asarray(LEARNING_RATE, jnp.float32)}
