"""Small losses under hyperlr.guard, where a test can spoil what an update is given."""

import functools

import jax
import jax.numpy as jnp
import optax

import hyperlr

MOMENTUM = functools.partial(optax.sgd, momentum=0.9)


def steep(learning_rate):
    """Momentum in large units, which overflow where the gradients do not."""
    return optax.chain(optax.scale(1e3), MOMENTUM(learning_rate))


BARE = hyperlr.marthe(steep, 1e-5, hyper_learning_rate=1e-12)
GUARDED = hyperlr.guard(BARE, cut=0.5)


def square(w):
    return jnp.sum(w**2)


@functools.cache
def jitted(tx):
    """An update whose loss and gradients come from outside, where a test can spoil them."""

    @jax.jit
    def update(params, state, value, grads, val_grad):
        updates, state = tx.update(
            grads, state, params, value=value, value_fn=square, val_grad=val_grad
        )
        return optax.apply_updates(params, updates), state

    return update


def ordinary(params):
    return square(params), 2 * params, 2 * params
