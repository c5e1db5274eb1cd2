"""Settings of JAX and dtypes: what passes with the inner optimizer alone passes with a method."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import mlp_batches, mlp_loss, mlp_params

import hyperlr

PARAMS = {"w": jnp.linspace(0.1, 1.0, 6).reshape(2, 3), "dead": jnp.ones(2)}
INNER = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "optax adam": optax.adam,
    "our adamw": hyperlr.optimizers.adamw,
    "clipped": lambda learning_rate: optax.chain(
        optax.clip_by_global_norm(1.0), optax.sgd(learning_rate)
    ),
}
RULE = hyperlr.exponentiated_gradient(0.1)
METHODS = {
    "hd": lambda inner: hyperlr.hd(inner, 0.01, 1e-3),
    "rtho, every 2": lambda inner: hyperlr.rtho(inner, 0.01, 1e-3, every=2),
    "marthe": lambda inner: hyperlr.marthe(inner, 0.01, meta_learning_rate=1e-6),
    "scale-free": lambda inner: hyperlr.marthe(inner, 0.01, discount=0.9, hyper_optimizer=RULE),
    "auto": hyperlr.auto,
}


def loss(params, batch=None):
    return jnp.mean((jnp.tanh(params["w"]) - 0.5) ** 2)


def trained(tx, params=PARAMS, steps=3):
    @jax.jit
    def step(params, state):
        _, grads, extra = hyperlr.value_and_grad(loss)(params, None, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return jax.block_until_ready((params, state))


@pytest.mark.parametrize("method", ["rtho, every 2", "marthe", "auto"])
@pytest.mark.parametrize("inner", ["clipped", "optax adam", "our adamw"])
@pytest.mark.usefixtures("debugging")
def test_clean_runs_do_not_stop_the_search_for_nan(inner, method):
    params, _ = trained(METHODS[method](INNER[inner]))
    assert loss(params) < loss(PARAMS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("inner", ["sgd", "momentum", "our adamw"])
def test_strict_promotion_of_dtypes_changes_nothing(inner, method):
    expected = trained(METHODS[method](INNER[inner]))
    with jax.numpy_dtype_promotion("strict"):
        found = trained(METHODS[method](INNER[inner]))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtypes", [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16)])
def test_gradients_of_another_dtype_leave_the_state_as_it_is(dtypes, method):
    of_params, of_grads = dtypes
    params = jax.tree.map(lambda x: x.astype(of_params), PARAMS)
    tx = METHODS[method](INNER["momentum"])
    state = tx.init(params)
    for _ in range(2):
        _, grads, extra = hyperlr.value_and_grad(loss)(params, None, state=state)
        grads = jax.tree.map(lambda g: g.astype(of_grads), grads)
        updates, new_state = tx.update(grads, state, params, **extra)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
        state, params = new_state, optax.apply_updates(params, updates)


@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_a_validation_gradient_in_float64_leaves_the_state_as_it_is(promotion, x64):
    """Of a model in float32, as a loss with a float64 constant in it gives it."""
    params = jax.tree.map(lambda x: x.astype(jnp.float32), PARAMS)
    for make in METHODS.values():
        tx = make(INNER["momentum"])
        state = tx.init(params)
        for _ in range(2):
            _, grads, extra = hyperlr.value_and_grad(loss)(params, None, state=state)
            extra["val_grad"] = jax.tree.map(lambda g: g.astype(jnp.float64), grads)
            with jax.numpy_dtype_promotion(promotion):
                updates, new_state = tx.update(grads, state, params, **extra)
            chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
            state, params = new_state, optax.apply_updates(params, updates)


def test_building_a_method_computes_nothing():
    with jax.log_compiles(False), jax.transfer_guard("disallow"):
        for make in METHODS.values():
            make(optax.sgd)
        hyperlr.online(optax.sgd, {"learning_rate": 0.1}, hyper_optimizer=RULE, average=8.0)


def test_tangents_of_bfloat16_parameters_are_kept_in_float32_or_as_asked():
    """Over many steps of a small rate bfloat16 rounds away what every step adds."""
    steps = 400
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), mlp_params(jax.random.key(0)))
    batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(1), 1))

    def tangent(dtype, params):
        tx = hyperlr.online(
            optax.sgd,
            {"learning_rate": 1e-3},
            discount=1.0,
            hyper_optimizer=hyperlr.adaptive_sgd(0.0),
            tangent_dtype=dtype,
        )
        held = params  # weights in bfloat16 would be stuck: only the tangent is looked at

        def step(state, _):
            _, grads, extra = hyperlr.value_and_grad(mlp_loss)(held, batch, state=state)
            return tx.update(grads, state, held, **extra)[1], None

        state = jax.jit(lambda s: jax.lax.scan(step, s, length=steps)[0])(tx.init(held))
        z = state.tangent["learning_rate"].params
        return np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(z)]), z

    exact, _ = tangent(None, jax.tree.map(lambda x: x.astype(jnp.float32), params))
    off = {}
    for dtype in (None, jnp.bfloat16):
        found, z = tangent(dtype, params)
        assert {x.dtype for x in jax.tree.leaves(z)} == {jnp.dtype(dtype or jnp.float32)}
        off[dtype] = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert off[None] < 0.03
    assert off[jnp.bfloat16] > 0.1
