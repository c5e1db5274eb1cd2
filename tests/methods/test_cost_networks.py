"""What a step costs on networks of layers alone, by way of one linearization: FLOPs."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from problems.networks import NETWORK_SIZES, mlp_params, network_loss

import hyperlr
from hyperlr.experiments.networks import mlp
from hyperlr.experiments.networks.convolutional import Vgg11


def digits():
    """784-500-500-500-10 with batches of 100."""
    params = jax.eval_shape(lambda key: list(mlp_params(key, NETWORK_SIZES).values()), KEY)
    return params, network_loss, (shape(100, 784), shape(100, dtype=jnp.int32))


def convolutional():
    """VGG-11 of an eighth, whose batches are normalized by their own statistics."""
    network = Vgg11(num_classes=10, width=8)
    images = shape(32, 32, 32, 3)
    variables = jax.eval_shape(functools.partial(network.init, train=False), KEY, images)

    def loss(params, batch):
        images, labels = batch
        logits, _ = network.apply({"params": params}, images, train=True, mutable="batch_stats")
        return mlp.cross_entropy(logits, labels)

    return variables["params"], loss, (images, shape(32, dtype=jnp.int32))


def shape(*dimensions, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dimensions, dtype)


KEY = jax.eval_shape(lambda: jax.random.key(0))
INNER = functools.partial(optax.sgd, momentum=0.9)


@functools.cache
def flops(network, method="marthe", *, validates=False, share=1.0):
    params, loss, batch = network()
    tx = {
        "plain": lambda: optax.with_extra_args_support(INNER(0.01)),
        "hd": lambda: hyperlr.hd(INNER, 0.01, 1e-3),
        "marthe": lambda: hyperlr.marthe(INNER, 0.01, meta_learning_rate=1e-6),
    }[method]()

    def step(params, state, batch, val_batch):
        _, grads, extra = hyperlr.value_and_grad(loss, share=share)(
            params, batch, state=state, val_batch=val_batch if validates else None
        )
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    return jax.jit(step).lower(params, state, batch, batch).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("network", "method", "options", "expected"),
    [
        (digits, "hd", {}, 1.02),
        (digits, "hd", {"validates": True}, 2.02),
        (digits, "marthe", {}, 2.7),
        (digits, "marthe", {"validates": True}, 3.7),
        (digits, "marthe", {"share": 0.25}, 1.73),
        (convolutional, "hd", {}, 1.02),
        (convolutional, "marthe", {}, 3.0),
        (convolutional, "marthe", {"validates": True}, 4.0),
    ],
)
def test_flops_are_at_the_floor(network, method, options, expected):
    ratio = flops(network, method, **options) / flops(network, "plain")
    assert expected - 0.12 < ratio <= expected
