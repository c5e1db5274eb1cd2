"""The guard: where it comes back to, and what it cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.guarded import MOMENTUM, jitted, ordinary

import hyperlr


def test_again_is_cut_again():
    tx = hyperlr.guard(hyperlr.marthe(optax.sgd, 0.1, meta_learning_rate=1e-2), cut=0.1)
    update = jitted(tx)
    params = jnp.array([1.0, 2.0])
    state = tx.init(params)
    for count in (1, 2, 3):
        params, state = update(params, state, jnp.nan, params, params)
        np.testing.assert_allclose(hyperlr.metrics(state)["learning_rate"], 0.1 * 0.1**count, 1e-5)
        kappa = state.inner_state.hyper_state.meta_learning_rate["learning_rate"]
        np.testing.assert_allclose(kappa, 1e-2 * 0.1**count, 1e-5)
        assert hyperlr.metrics(state)["num_rollbacks"] == count
        params, state = update(params, state, *ordinary(params))  # completes the way


@pytest.mark.parametrize("size", [1e3, 1e20, 3e37])
def test_it_comes_back_to_the_very_bits(size):
    good = jax.random.normal(jax.random.key(0), (50,)) * jnp.logspace(-6, 2, 50)
    tx = hyperlr.guard(optax.sgd(0.0))
    update = jitted(tx)
    _, state = update(good, tx.init(good), *ordinary(good))
    away = good + size * jax.random.normal(jax.random.key(1), (50,)).clip(-3, 3)
    back, state = update(away, state, jnp.nan, good, good)
    assert not np.array_equal(back, good) or size == 1e3
    back, state = update(back, state, jnp.nan, good, good)
    np.testing.assert_array_equal(back, good)
    assert hyperlr.metrics(state)["num_rollbacks"] == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_parameters_come_back_to_the_very_bits(dtype):
    tx = hyperlr.guard(hyperlr.marthe(MOMENTUM, 0.01, hyper_learning_rate=1e-5))
    update = jitted(tx)
    params = jnp.array([1.0, -2.0, 3.1], dtype)
    state = tx.init(params)
    for _ in range(14):
        params, state = update(params, state, *ordinary(params))
    good = state.good_params
    away = jnp.full(3, jnp.finfo(dtype).max, dtype)
    for w in (away, None):
        w = params if w is None else w
        params, state = update(w, state, *ordinary(w))
    assert params.dtype == dtype
    np.testing.assert_array_equal(params, good)
    assert hyperlr.metrics(state)["num_rollbacks"] == 1


def test_a_way_back_that_overflows_is_completed():
    tx = hyperlr.guard(optax.sgd(0.1))
    good, away = jnp.full(3, -3e4, jnp.float16), jnp.full(3, 6e4, jnp.float16)
    _, state = jitted(tx)(good, tx.init(good), jnp.float32(1.0), good, good)
    params = away
    for value in (jnp.nan, 1.0):
        params, state = jitted(tx)(params, state, jnp.float32(value), good, good)
    np.testing.assert_array_equal(params, good)


@pytest.mark.parametrize("name", ["learning_rate", "lr"])
def test_a_cut_takes_effect_below_a_lower_bound_and_under_any_name(name):
    tx = hyperlr.guard(
        hyperlr.online(
            lambda momentum, **rate: optax.sgd(rate[name], momentum=momentum),
            {name: 0.1, "momentum": 0.9},
            hyper_optimizer=optax.sgd(1e-3),
            bounds={name: (0.05, 1.0), "momentum": (0.5, 0.99)},
        )
    )
    update = jitted(tx)
    params = jnp.ones(2)
    after, state = update(params, tx.init(params), jnp.nan, params, params)
    after, state = update(after, state, *ordinary(after))
    moved, state = update(after, state, *ordinary(after))
    np.testing.assert_allclose(moved, 1 - 0.01 * 2, rtol=1e-6)
    assert hyperlr.metrics(state)["momentum"] == np.float32(0.9)
    moved, state = update(moved, state, *ordinary(moved))
    assert 0.01 < hyperlr.metrics(state)[name] < 0.05  # it may rise again from there


def test_it_is_still_known_how_often_a_tangent_began_anew():
    tx = hyperlr.guard(hyperlr.hd(optax.sgd, 0.01, 0.0))
    update = jitted(tx)
    params = jnp.ones(2)
    params, state = update(params, tx.init(params), *ordinary(params))
    params, state = update(params, state, *ordinary(params)[:2], jnp.full(2, jnp.nan))
    for _ in range(12):
        params, state = update(params, state, *ordinary(params))
    _, state = update(params, state, jnp.nan, params, params)
    found = hyperlr.metrics(state)
    assert (found["num_rollbacks"], found["num_restarts"]) == (1, 1)


def test_where_parameters_are_shown_as_one_vector_rates_are_cut_and_updates_are_not():
    tx = hyperlr.guard(optax.flatten(hyperlr.hd(optax.sgd, 0.1, 0.0)))
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = tx.init(params)
    for value in (jnp.nan, 1.0):
        _, state = tx.update(params, state, params, value=value)
    updates, _ = tx.update(params, state, params, value=1.0)
    for update in updates.values():
        np.testing.assert_allclose(update, -0.01, rtol=1e-6)


def test_parts_that_learn_nothing_are_cut_too():
    """Of a partition, one part learns its rate, and the updates of the other are scaled."""
    learned = hyperlr.hd(optax.sgd, 0.1, 0.0)
    tx = hyperlr.guard(
        optax.partition({"learns": learned, "fixed": optax.sgd(0.2)}, {"a": "learns", "b": "fixed"})
    )
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = tx.init(params)
    for value in (jnp.nan, 1.0):
        _, state = tx.update(params, state, params, value=value)
    updates, state = tx.update(params, state, params, value=1.0)
    np.testing.assert_allclose(updates["a"], -0.01, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -0.02, rtol=1e-6)
    assert hyperlr.metrics(state)["num_rollbacks"] == 1
