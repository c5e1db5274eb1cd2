"""The adaptive optimizers by name, and gradients to run them on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

NUM_STEPS = 50
EPS = 1e-16

ADAM = {"b1": 0.9, "b2": 0.999, "eps": 0.0, "eps_root": EPS}

# What each takes besides learning_rate, all of which may be traced, at its default.
OTHER_HYPERPARAMS = {
    "adadelta": {"rho": 0.9, "eps": 1e-6},
    "adagrad": {"eps": EPS},
    "adam": ADAM,
    "adam_max": ADAM,
    "adamax": ADAM,
    "adamw": {**ADAM, "weight_decay": 1e-4},
    "nadam": ADAM,
    "rmsprop": {"decay": 0.9, "eps": EPS},
}

# Those in which eps is inside the root, as it is in optax.
EPS_INSIDE = ("adadelta", "adagrad", "rmsprop")

NAMES = sorted(OTHER_HYPERPARAMS)

# Gradients of different sizes, one parameter that never has any, a first batch that gives none.
CURVATURES = np.array([1.0, 0.3, 3.0, 0.0])
NOISE = np.random.default_rng(0).normal(size=(NUM_STEPS, 4)) * [0.1, 1.0, 0.01, 0.0]
NOT_EMPTY = (np.arange(NUM_STEPS) > 0).astype(float)
START = np.array([1.0, -2.0, 0.5, 0.7])


def numpy_gradient(w, t):
    return NOT_EMPTY[t] * (CURVATURES * w + NOISE[t])


def jax_gradient(w, t):
    dtype = w.dtype
    slope = jnp.asarray(CURVATURES, dtype) * w + jnp.asarray(NOISE, dtype)[t]
    return jnp.asarray(NOT_EMPTY, dtype)[t] * slope


def run(tx, params, num_steps=NUM_STEPS):
    """The parameters after each step, by scan: a state that drifts would not be a carry."""

    def step(carry, t):
        params, state = carry
        updates, state = tx.update(jax_gradient(params, t), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(num_steps))[1]


def by_logarithms(learning_rate):
    """SGD, but the derivative of its update is 0 · ∞ where a gradient is 0."""

    def scaled(g):
        return -jnp.sign(g) * jnp.exp(jnp.log(learning_rate * jnp.abs(g)))

    return optax.stateless(lambda grads, _: jax.tree.map(scaled, grads))
