"""An autoencoder of handwritten digits, whose first steps are all output bias."""

import jax
import jax.numpy as jnp
import optax

from hyperlr.experiments import data
from hyperlr.experiments.comparison.tasks import digits
from hyperlr.experiments.comparison.tasks.task import Data, Task, grids, sample_rows
from hyperlr.experiments.networks import mlp

WIDTHS = (784, 128, 32, 128, 784)


def make_data(seed: int) -> Data:
    """The images alone, uint8 [n, 784]."""
    labelled = digits.make_data(seed)
    return Data(train=labelled.train[0], val=labelled.val[0], test=labelled.test[0])


def init(key: jax.Array) -> mlp.Params:
    """Glorot-uniform weights and zero biases."""
    return mlp.init_mlp(key, WIDTHS)


def loss(params: mlp.Params, images: jax.Array) -> jax.Array:
    """The binary cross-entropy in nats an image: summed over the pixels, the mean over images."""
    inputs = data.as_inputs(images)
    pixels = optax.sigmoid_binary_cross_entropy(mlp.apply_mlp(params, inputs), inputs)
    return jnp.mean(jnp.sum(pixels, axis=-1))


def score(params: mlp.Params, images: jax.Array) -> jax.Array:
    """The loss with its sign turned, so that higher is better."""
    value = -loss(params, images)
    return jnp.where(jnp.isfinite(value), value, jnp.nan)


AUTOENCODER = Task(
    name="autoencoder",
    title="autoencoder of digits, 784-128-32-128-784",
    score_name="−nats an image",
    make_data=make_data,
    init=init,
    loss=loss,
    score=score,
    num_steps=500,
    batch_size=100,
    gradient_cost=3.0,
    rates=grids(3e-3, 3e-3, 1e-2),
    sample=sample_rows,
)
