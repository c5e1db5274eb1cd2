"""The multilayer perceptron of the paper's Section 5 in plain JAX, its loss and accuracy."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

HIDDEN_WIDTHS = (500, 500, 500)

Params = list[dict[str, jax.Array]]


def init_mlp(key: jax.Array, widths: Sequence[int]) -> Params:
    """Draws Glorot-uniform weights and zero biases, of these widths from the inputs to the classes.

    Returns:
      One dict a layer: `weight` float32 [inputs, outputs], `bias` float32 [outputs].
    """
    glorot = jax.nn.initializers.glorot_uniform()
    pairs = list(itertools.pairwise(widths))
    keys = jax.random.split(key, len(pairs))
    return [
        {"weight": glorot(layer_key, pair, jnp.float32), "bias": jnp.zeros(pair[1], jnp.float32)}
        for layer_key, pair in zip(keys, pairs, strict=True)
    ]


def apply_mlp(params: Params, inputs: jax.Array) -> jax.Array:
    """Returns the logits [batch, classes] of inputs [batch, pixels]; ReLU between layers."""
    hidden = inputs
    for layer in params[:-1]:
        hidden = jax.nn.relu(_affine(layer, hidden))
    return _affine(params[-1], hidden)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean softmax cross-entropy of logits [batch, classes] and integer labels."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the share of labels whose logit is the largest; NaN where a logit is not finite."""
    share = jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))
    # Among NaNs argmax picks class 0, and a diverged network would score a tenth.
    return jnp.where(jnp.all(jnp.isfinite(logits)), share, jnp.nan)


def _affine(layer: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    # Spelled out, since rank promotion may be forbidden by the user's configuration.
    return inputs @ layer["weight"] + layer["bias"][None, :]
