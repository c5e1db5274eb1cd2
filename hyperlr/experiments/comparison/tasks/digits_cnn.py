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
        convolved = _convolve(hidden, layer["weight"])
        hidden = jax.nn.relu(convolved + layer["bias"][None, None, None, :])
    return mlp.apply_mlp(params["head"], hidden.reshape(len(images), -1))


def _convolve(x: jax.Array, weight: jax.Array) -> jax.Array:
    """The convolution with a stride of 2 and zeros around: [n, side, side, in] to half the side.

    As one matrix product over patches: with this few channels XLA's own convolution takes eight
    times as long on a CPU.
    """
    window, outputs, half = weight.shape[0], weight.shape[-1], x.shape[1] // 2
    before = (window - 2) // 2
    around = (before, window - 2 - before)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    patches = [
        x[:, row : row + 2 * half : 2, column : column + 2 * half : 2]
        for row in range(window)
        for column in range(window)
    ]
    return jnp.concatenate(patches, axis=-1) @ weight.reshape(-1, outputs)


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
    gradient_cost=5.0,
    rates=grids(3e-3, 3e-2, 3e-1),
    sample=sample_rows,
)
