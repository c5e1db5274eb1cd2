"""Handwritten digits with a multilayer perceptron, for a short run and for a very long one."""

import functools

import jax

from hyperlr.experiments import data
from hyperlr.experiments.comparison.tasks.task import Data, Task, grids, sample_rows
from hyperlr.experiments.networks import mlp

WIDTHS = (784, 100, 100, 100, 10)


@functools.cache
def packaged_digits() -> data.Data:
    """The digits that come with the install; the one place where the tasks get them from."""
    return data.load_packaged()


def make_data(seed: int) -> Data:
    """Images uint8 [n, 784] and labels int32 [n] of a seed."""
    digits = packaged_digits()
    train, val = data.split_indices(digits, seed)
    return Data(
        train=(digits.images[train], digits.labels[train]),
        val=(digits.images[val], digits.labels[val]),
        test=(digits.test_images, digits.test_labels),
    )


def init(key: jax.Array) -> mlp.Params:
    """Glorot-uniform weights and zero biases."""
    return mlp.init_mlp(key, WIDTHS)


def loss(params: mlp.Params, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The mean cross-entropy."""
    images, labels = examples
    return mlp.cross_entropy(mlp.apply_mlp(params, data.as_inputs(images)), labels)


def score(params: mlp.Params, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The accuracy."""
    images, labels = examples
    return mlp.accuracy(mlp.apply_mlp(params, data.as_inputs(images)), labels)


DIGITS = Task(
    name="digits",
    title="digits, MLP 784-100-100-100-10",
    score_name="accuracy",
    make_data=make_data,
    init=init,
    loss=loss,
    score=score,
    num_steps=500,
    batch_size=100,
    gradient_cost=1.0,
    rates=grids(3e-3, 3e-2, 3e-1),
    sample=sample_rows,
)

# Long past the step at which the training loss is zero, where a learned rate can run away.
DIGITS_LONG = DIGITS._replace(
    name="digits-long", title="digits, MLP, long after a training loss of 0", num_steps=4_000
)
