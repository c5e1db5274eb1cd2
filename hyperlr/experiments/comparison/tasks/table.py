"""A regression on a real table: fuel consumption of cars, with noise and few rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hyperlr.experiments.comparison.tasks import function
from hyperlr.experiments.comparison.tasks.task import Data, Task, grids, sample_rows, split_rows
from hyperlr.experiments.data.directory import read_packaged
from hyperlr.experiments.networks import mlp

WIDTHS = (7, 64, 64, 1)
_NUM_VAL, _NUM_TEST = 60, 80


@functools.cache
def _rows() -> tuple[np.ndarray, np.ndarray]:
    """Features float64 [392, 7] and miles per gallon float64 [392], as they are in the table."""
    # The column between the features and the consumption is the car's name.
    rows = read_packaged("autompg.csv.gz", columns=(*range(WIDTHS[0]), WIDTHS[0] + 1))
    return rows[:, :-1], rows[:, -1]


def make_data(seed: int) -> Data:
    """Features float32 [n, 7] and consumption float32 [n], in the training rows' units."""
    data = split_rows(_rows(), seed, _NUM_VAL, _NUM_TEST)
    means, scales = zip(*((x.mean(0), x.std(0)) for x in data.train), strict=True)

    def standardized(part: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(
            ((x - mean) / scale).astype(np.float32)
            for x, mean, scale in zip(part, means, scales, strict=True)
        )

    return Data(standardized(data.train), standardized(data.val), standardized(data.test))


def init(key: jax.Array) -> mlp.Params:
    """Glorot-uniform weights and zero biases."""
    return mlp.init_mlp(key, WIDTHS)


def score(params: mlp.Params, examples: function.Examples) -> jax.Array:
    """R²: the share of the variance that is explained."""
    share = 1.0 - function.loss(params, examples) / jnp.var(examples[1])
    return jnp.where(jnp.isfinite(share), share, jnp.nan)


TABLE = Task(
    name="table",
    title="regression on a table of cars, tanh 7-64-64-1",
    score_name="R²",
    make_data=make_data,
    init=init,
    loss=function.loss,
    score=score,
    num_steps=500,
    batch_size=32,
    gradient_cost=0.1,
    rates=grids(3e-3, 1e-2, 3e-2),
    sample=sample_rows,
)
