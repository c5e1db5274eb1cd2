"""A smooth function of six numbers, without noise: its rate is near the edge of stability."""

import jax
import jax.numpy as jnp
import numpy as np

from hyperlr.experiments.comparison.tasks.task import Data, Task, grids, sample_rows
from hyperlr.experiments.networks import mlp

WIDTHS = (6, 64, 64, 1)
_NUM_TRAIN, _NUM_VAL, _NUM_TEST = 8_000, 1_000, 2_000

Examples = tuple[jax.Array, jax.Array]


def target(x: np.ndarray) -> np.ndarray:
    """The function to be learned: float32 [n] of x in [−1, 1], [n, 6]; variance about 1."""
    waves = np.sin(3 * x[:, 0]) + np.cos(2 * x[:, 1] * x[:, 2])
    return (waves + x[:, 3] * x[:, 4] - x[:, 5] ** 2).astype(np.float32)


def make_data(seed: int) -> Data:
    """Inputs float32 [n, 6] and values float32 [n], drawn afresh for every seed."""
    parts = []
    for part, size in enumerate((_NUM_TRAIN, _NUM_VAL, _NUM_TEST)):
        rng = np.random.default_rng([seed, part])
        x = rng.uniform(-1.0, 1.0, (size, WIDTHS[0])).astype(np.float32)
        parts.append((x, target(x)))
    return Data(*parts)


def init(key: jax.Array) -> mlp.Params:
    """Glorot-uniform weights and zero biases."""
    return mlp.init_mlp(key, WIDTHS)


def apply(params: mlp.Params, x: jax.Array) -> jax.Array:
    """Returns the values [n] at x [n, 6]; tanh between layers."""
    hidden = x
    for layer in params[:-1]:
        hidden = jnp.tanh(mlp.apply_mlp([layer], hidden))
    return mlp.apply_mlp(params[-1:], hidden)[:, 0]


def loss(params: mlp.Params, examples: Examples) -> jax.Array:
    """The mean squared error."""
    x, y = examples
    return jnp.mean((apply(params, x) - y) ** 2)


def score(params: mlp.Params, examples: Examples) -> jax.Array:
    """How many decades the squared error is below 1."""
    error = loss(params, examples)
    return jnp.where(jnp.isfinite(error), -jnp.log10(error), jnp.nan)


FUNCTION = Task(
    name="function",
    title="noise-free function, tanh 6-64-64-1",
    score_name="−log10 of the squared error",
    make_data=make_data,
    init=init,
    loss=loss,
    score=score,
    num_steps=600,
    batch_size=100,
    gradient_cost=0.1,
    rates=grids(3e-2, 3e-2, 1e-1),
    sample=sample_rows,
)
