"""Handwritten digits with a small convolutional network."""

import jax
import jax.numpy as jnp

from hyperlr.experiments import data
from hyperlr.experiments.comparison.tasks import digits
from hyperlr.experiments.comparison.tasks.task import Task, grids, sample_rows
from hyperlr.experiments.networks import mlp

_SIDE = 28
# (window, channels in, channels out) of the convolutions, each with a stride of 2.
_LAYERS = ((5, 1, 8), (3, 8, 16))
_NUM_FEATURES = (_SIDE // 4) ** 2 * 16

Params = dict[str, list[dict[str, jax.Array]]]


def init(key: jax.Array) -> Params:
    """He-normal convolutions, a Glorot-uniform last layer, zero biases."""
    he = jax.nn.initializers.he_normal()
    *keys, last_key = jax.random.split(key, len(_LAYERS) + 1)
    convolutions = [
        {
            "weight": he(layer_key, (window, window, inputs, outputs), jnp.float32),
            "bias": jnp.zeros(outputs, jnp.float32),
        }
        for layer_key, (window, inputs, outputs) in zip(keys, _LAYERS, strict=True)
    ]
    return {"convolutions": convolutions, "head": mlp.init_mlp(last_key, (_NUM_FEATURES, 10))}


def apply(params: Params, images: jax.Array) -> jax.Array:
    """Returns the logits [n, 10] of images uint8 [n, 784]."""
    hidden = data.as_inputs(images).reshape(-1, _SIDE, _SIDE, 1)
    for layer in params["convolutions"]:
        hidden = jax.lax.conv_general_dilated(
            hidden,
            layer["weight"],
            window_strides=(2, 2),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        hidden = jax.nn.relu(hidden + layer["bias"][None, None, None, :])
    return mlp.apply_mlp(params["head"], hidden.reshape(len(images), -1))


def loss(params: Params, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The mean cross-entropy."""
    images, labels = examples
    return mlp.cross_entropy(apply(params, images), labels)


def score(params: Params, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The accuracy."""
    images, labels = examples
    return mlp.accuracy(apply(params, images), labels)


DIGITS_CNN = Task(
    name="digits-cnn",
    title="digits, two convolutions",
    score_name="accuracy",
    make_data=digits.make_data,
    init=init,
    loss=loss,
    score=score,
    num_steps=500,
    batch_size=100,
    rates=grids(3e-3, 3e-2, 3e-1),
    sample=sample_rows,
)
