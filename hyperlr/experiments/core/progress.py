"""How long an experiment will take, from a few timed steps."""

import functools
import time

import jax
import jax.numpy as jnp
import optax

from hyperlr.experiments import training
from hyperlr.experiments.data import Data

_NUM_STEPS = 8


def seconds_per_step(images: Data, lanes: training.Lanes) -> float:
    """Times plain gradient descent on the first lane, without compilation.

    Args:
      images: the data.
      lanes: of which the first gives the network and the minibatches.
    """
    params = jax.tree.map(lambda x: x[0], lanes.params)
    state = _plain(0.0).init(params)
    steps = jax.jit(functools.partial(training.train_steps, _plain))
    arguments = (
        params,
        state,
        jnp.zeros(()),
        jnp.asarray(images.images),
        jnp.asarray(images.labels),
        lanes.train_batches[0, :_NUM_STEPS],
        lanes.val_batches[0, :_NUM_STEPS],
    )
    jax.block_until_ready(steps(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(steps(*arguments))
    return (time.perf_counter() - start) / min(_NUM_STEPS, lanes.train_batches.shape[1])


def in_words(seconds: float) -> str:
    """Returns a duration as `3 h 20 min`, `12 min` or `40 s`.

    >>> in_words(12_000), in_words(100), in_words(3)
    ('3 h 20 min', '2 min', '3 s')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _plain(step_size: jax.Array | float) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(optax.sgd(step_size))
