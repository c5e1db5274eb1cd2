"""Curvature whatever JAX is set to: the search for NaN and ∞, and strict promotion of dtypes."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import hyperlr
from hyperlr import curvature

PARAMS = {"w": jnp.linspace(0.1, 0.7, 6).reshape(2, 3), "dead": jnp.ones(2)}

LOSSES = {
    "curved": lambda params: jnp.mean((jnp.tanh(params["w"]) - 0.5) ** 2),
    "flat": lambda params: jnp.sum(params["w"]),
    "negative": lambda params: -jnp.sum(params["w"] ** 2),
    "constant": lambda params: 0.0 * jnp.sum(params["w"]),
    "hardly curved": lambda params: 1e-38 * jnp.sum(params["w"] ** 2),
}


def two_steps(tx, loss, jit):
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if jit else step
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(2):
        params, state = step(params, state)
    return jax.block_until_ready((params, state))


@pytest.mark.usefixtures("debugging")
def test_a_clean_run_does_not_stop_the_search_for_nan():
    tx = curvature.limit_learning_rate(optax.sgd(0.1), fraction=2, every=2)
    for name, loss in LOSSES.items():
        chex.assert_tree_all_finite(two_steps(tx, loss, jit=True))
        if name in ("curved", "flat"):
            chex.assert_tree_all_finite(two_steps(tx, loss, jit=False))
        for function in (curvature.lipschitz_constant, curvature.rayleigh_quotient):
            assert jnp.isfinite(jax.jit(functools.partial(function, loss))(PARAMS))
    marthe = hyperlr.marthe(hyperlr.optimizers.adam, 0.01, hyper_learning_rate=1e-3)
    around = curvature.limit_learning_rate(marthe, 0.5)
    chex.assert_tree_all_finite(two_steps(around, LOSSES["curved"], jit=True))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_strict_promotion_of_dtypes_passes(dtype):
    params = {"w": jnp.ones(3, dtype), "b": jnp.ones((), dtype)}
    loss = lambda p: jnp.sum(p["w"] ** 2) + p["b"] ** 2
    with jax.numpy_dtype_promotion("strict"):
        grads = jax.grad(loss)(params)
        for fraction in (0.5, jnp.float32(0.5)):
            tx = curvature.limit_learning_rate(optax.sgd(10.0), fraction)
            updates, _ = tx.update(grads, tx.init(params), params, value_fn=loss)
            chex.assert_trees_all_close(updates, jax.tree.map(lambda g: -0.5 * g, grads), rtol=1e-2)
        assert curvature.lipschitz_constant(loss, params).round(2) == 2.0
        assert curvature.max_stable_learning_rate(loss, params).round(2) == 1.0


def test_building_a_limit_computes_nothing():
    with jax.transfer_guard("disallow_explicit"):
        curvature.limit_learning_rate(optax.sgd(1), 1, every=1)
