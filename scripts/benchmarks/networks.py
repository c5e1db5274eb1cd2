"""The networks that steps are timed on; images and tokens are random, as times do not mind."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyperlr.experiments.networks import convolutional, mlp, transformer

DIGITS_WIDTHS = (784, *mlp.HIDDEN_WIDTHS, 10)
DIGITS_BATCH = 100

_LENGTH, _BATCH = 64, 32


class Network(NamedTuple):
    """A network, and minibatches of its size."""

    name: str
    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    batch: Callable[[jax.Array], Any]


def _images(key: jax.Array, *shape: int) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(key)
    return jax.random.uniform(keys[0], shape), jax.random.randint(keys[1], shape[:1], 0, 10)


def _digits_loss(params: Any, batch: Any) -> jax.Array:
    images, labels = batch
    return mlp.cross_entropy(mlp.apply_mlp(params, images), labels)


def _convolutional() -> Network:
    model = convolutional.Vgg11(num_classes=10, width=16)

    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)["params"]

    def loss(params: Any, batch: Any) -> jax.Array:
        images, labels = batch
        # Batches are normalized by their own statistics; the running ones are dropped.
        logits, _ = model.apply({"params": params}, images, train=True, mutable="batch_stats")
        return mlp.cross_entropy(logits, labels)

    return Network("VGG-11 of an eighth", init, loss, lambda key: _images(key, 64, 32, 32, 3))


def _transformer(name: str, num_layers: int, stacked: bool = False) -> Network:
    return Network(
        name,
        functools.partial(
            transformer.params, num_layers=num_layers, width=128, length=_LENGTH, stacked=stacked
        ),
        transformer.scanned_loss if stacked else transformer.loss,
        functools.partial(transformer.batch, size=_BATCH, length=_LENGTH),
    )


NETWORKS = {
    "digits": Network(
        "digits, 784-500-500-500-10",
        lambda key: mlp.init_mlp(key, DIGITS_WIDTHS),
        _digits_loss,
        lambda key: _images(key, DIGITS_BATCH, DIGITS_WIDTHS[0]),
    ),
    "cnn": _convolutional(),
    "transformer": _transformer("transformer of 4 layers", 4),
    "scanned": _transformer("transformer, scanned layers", 4, stacked=True),
    "deep": _transformer("transformer of 12 layers", 12),
}
