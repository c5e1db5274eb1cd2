"""Tangents of the adaptive optimizers where gradients are exactly zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.optimizers import NAMES

from hyperlr import optimizers

HISTORIES = {
    "first batch": [],
    "after an empty batch": [[0.0, 0.0, 0.0]],
    "after gradients": [[0.0, 0.0, 0.0], [0.5, -2.0, 0.0], [1.0, 0.3, 0.0]],
}


def state_after(tx, history, dtype):
    params = jnp.ones(3, dtype)
    state = tx.init(params)
    for grads in history:
        _, state = tx.update(jnp.asarray(grads, dtype), state, params)
    return state


def update_at_zero(name, history, dtype):
    """g ↦ update, and the state it gives, from a state with the given past."""
    tx = getattr(optimizers, name)(0.1)
    state = state_after(tx, history, dtype)

    def update(grads):
        updates, new_state = tx.update(grads, state, jnp.ones(3, dtype))
        floats = [x for x in jax.tree.leaves(new_state) if jnp.issubdtype(x.dtype, jnp.floating)]
        return updates, floats

    return update


# All three move in the first, one alone in the second.
DIRECTIONS = ([1.0, -0.5, 2.0], [0.0, 0.0, 1.0])


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("name", NAMES)
def test_tangent_at_zero_gradient_is_the_central_difference(name, history, x64):
    update = update_at_zero(name, HISTORIES[history], jnp.float64)
    zero = jnp.zeros(3)
    h = 1e-13  # far below the root of eps, on the scale of which the update bends
    for direction in DIRECTIONS:
        d = jnp.asarray(direction)
        _, tangent = jax.jvp(update, (zero,), (d,))
        difference = jax.tree.map(lambda a, b: (a - b) / (2 * h), update(h * d), update(-h * d))
        for actual, expected in zip(
            jax.tree.leaves(tangent), jax.tree.leaves(difference), strict=True
        ):
            # The state is of order one, so its difference quotient is only good to 1e-16 / h.
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("name", NAMES)
def test_vjp_at_zero_gradient_is_the_transpose_of_jvp(name, history, x64):
    update = update_at_zero(name, HISTORIES[history], jnp.float64)
    zero = jnp.zeros(3)
    outputs, pullback = jax.vjp(update, zero)
    leaves, treedef = jax.tree.flatten(outputs)
    cotangent = treedef.unflatten([jnp.full_like(x, k + 1.0) for k, x in enumerate(leaves)])
    (gradient,) = pullback(cotangent)
    for direction in DIRECTIONS:
        _, tangent = jax.jvp(update, (zero,), (jnp.asarray(direction),))
        expected = optax.tree.vdot(cotangent, tangent)
        np.testing.assert_allclose(jnp.vdot(gradient, jnp.asarray(direction)), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_tangents_at_zero_gradient_in_low_precision(name, dtype, x64):
    direction, zero = jnp.asarray(DIRECTIONS[0], dtype), jnp.zeros(3, dtype)
    rtol = 1e-4 if dtype == jnp.float32 else 2e-2
    for history in HISTORIES.values():
        update = update_at_zero(name, history, dtype)
        exact = update_at_zero(name, history, jnp.float64)
        outputs, tangent = jax.jvp(update, (zero,), (direction,))
        (gradient,) = jax.vjp(update, zero)[1](jax.tree.map(jnp.ones_like, outputs))
        _, expected = jax.jvp(exact, (jnp.zeros(3),), (direction.astype(jnp.float64),))
        ones = jax.tree.map(jnp.ones_like, expected)
        (expected_gradient,) = jax.vjp(exact, jnp.zeros(3))[1](ones)
        leaves = zip(
            jax.tree.leaves((tangent, gradient)),
            jax.tree.leaves((expected, expected_gradient)),
            strict=True,
        )
        for actual, other in leaves:
            np.testing.assert_allclose(actual.astype(jnp.float32), other, rtol=rtol, atol=1e-4)


# A model with a dead unit, an embedding row that no batch uses, and an empty first batch.

TARGETS = np.random.default_rng(1).normal(size=(3, 2))
WEIGHTS = np.array([0.0, 1.0, 1.0])  # of the batches
MODEL = 1 + 0.3 * np.random.default_rng(2).normal(size=9)
ALIVE = [0, 1, 3, 5, 7]  # not the third row, nor what leads into and out of the second unit


def moving(name):
    """Which parameters move: with weight decay all of them."""
    return np.arange(9) if name == "adamw" else ALIVE


@jax.jit
@jax.grad
def model_gradient(params, t):
    dtype = params.dtype
    # Read as embedding [3, 1], hidden [1, 2] with its biases, out [2]; one array, so that the
    # uncompiled operations of the optimizers have one shape.
    embedding, hidden = params[:3], params[3:5].reshape(1, 2)
    bias, out = params[5:7] - jnp.asarray([0, 100], dtype), params[7:9]
    units = jax.nn.relu(embedding[jnp.array([0, 1])][:, None] @ hidden + bias[None])
    residual = units @ out - jnp.asarray(TARGETS, dtype)[t]
    return jnp.asarray(WEIGHTS, dtype)[t] * jnp.sum(residual**2)


def trained(name, learning_rate, dtype):
    """The parameters after three steps; uncompiled, so that the optimizers share operations."""
    tx = getattr(optimizers, name)(learning_rate)
    params = jnp.asarray(MODEL, dtype)
    state = tx.init(params)
    for t in range(3):
        updates, state = tx.update(model_gradient(params, t), state, params)
        params = optax.apply_updates(params, updates)
    return params


def summary(params):
    """A scalar that sees every parameter."""
    dtype = jnp.promote_types(params.dtype, jnp.float32)
    return jnp.vdot(params.astype(dtype), jnp.linspace(0.5, 1.5, 9, dtype=dtype))


@pytest.mark.parametrize("name", NAMES)
def test_tangent_of_a_run_with_dead_parameters(name, x64):
    def objective(rate):
        return summary(trained(name, rate, jnp.float64))

    rate, h = 0.02, 1e-6
    expected = (objective(rate + h) - objective(rate - h)) / (2 * h)
    _, tangent = jax.jvp(objective, (rate,), (1.0,))
    np.testing.assert_allclose(tangent, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(objective)(rate), expected, rtol=1e-6)
    moved = np.flatnonzero(trained(name, rate, jnp.float64) != MODEL)
    np.testing.assert_array_equal(moved, moving(name))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_tangent_of_a_run_with_dead_parameters_in_low_precision(name, dtype):
    def run_and_summary(rate):
        params = trained(name, rate, dtype)
        return summary(params), params

    _, (slope, tangent) = jax.jvp(run_and_summary, (0.02,), (1.0,))
    gradient = jax.grad(run_and_summary, has_aux=True)(0.02)[0]
    np.testing.assert_array_equal(np.flatnonzero(tangent), moving(name))
    assert jnp.all(jnp.isfinite(tangent))
    np.testing.assert_allclose(gradient, slope, rtol=1e-4 if dtype == jnp.float32 else 0.1)
