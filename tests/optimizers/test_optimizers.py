"""What the adaptive optimizers share: hyperparameters, dtypes, trees, lanes and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.optimizers import NAMES, OTHER_HYPERPARAMS, START, run

from hyperlr import optimizers


@pytest.mark.parametrize("name", NAMES)
def test_derivative_in_every_hyperparameter(name, x64):
    factory, others = getattr(optimizers, name), OTHER_HYPERPARAMS[name]

    def objective(hyperparams):
        return jnp.sum(jnp.sin(run(factory(**hyperparams), jnp.asarray(START), 8)[-1]))

    objective_jit = jax.jit(objective)
    # A large eps, so that it matters.
    hyperparams = {"learning_rate": 0.1, **others, "eps": 0.01}
    gradient = jax.jit(jax.grad(objective))(hyperparams)
    for key, value in hyperparams.items():
        h = 1e-6 * value
        above = objective_jit({**hyperparams, key: value + h})
        below = objective_jit({**hyperparams, key: value - h})
        assert abs(gradient[key]) > 1e-6
        np.testing.assert_allclose(gradient[key], (above - below) / (2 * h), rtol=1e-4)


def signatures(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.mark.parametrize("traced", ["static", jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_do_not_drift(name, dtype, traced):
    hyperparams = {"learning_rate": 0.1, **OTHER_HYPERPARAMS[name]}
    factory = getattr(optimizers, name)
    params = {"w": jnp.ones(3, dtype), "b": jnp.ones((), dtype), "none": None}

    def step(hyperparams, state):
        return factory(**hyperparams).update(params, state, params)

    if traced == "static":
        step = functools.partial(step, hyperparams)
    else:
        step = functools.partial(step, jax.tree.map(lambda x: jnp.asarray(x, traced), hyperparams))
    state = jax.eval_shape(factory(**hyperparams).init, params)
    updates, new_state = jax.eval_shape(step, state)
    assert signatures(new_state) == signatures(state)
    assert signatures(updates) == signatures(jax.eval_shape(lambda: params))
    floats = {x.dtype for x in jax.tree.leaves(state)} - {jnp.dtype(jnp.int32)}
    assert floats == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_do_not_drift_beside_float64(name, dtype, x64):
    hyperparams = {"learning_rate": 0.1, **OTHER_HYPERPARAMS[name]}
    other = jnp.float64 if dtype == jnp.float32 else jnp.float32
    traced = jax.tree.map(lambda x: jnp.asarray(x, other), hyperparams)
    factory, params = getattr(optimizers, name), jnp.ones(3, dtype)
    state = jax.eval_shape(factory(0.1).init, params)
    updates, new_state = jax.eval_shape(
        lambda h, s: factory(**h).update(params, s, params), traced, state
    )
    assert signatures(new_state) == signatures(state)
    assert updates.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_second_moment_decays_in_bfloat16(name):
    """0.999 is 1 in bfloat16: an average kept in it would never forget."""
    tx = getattr(optimizers, name)(0.1)

    def last_update(dtype):
        state = tx.init(jnp.ones(1, dtype))
        _, state = tx.update(jnp.full(1, 64.0, dtype), state)

        def step(state, _):
            updates, state = tx.update(jnp.full(1, 0.5, dtype), state)
            return state, updates

        return jax.lax.scan(step, state, None, length=200)[1][-1].astype(jnp.float32)

    np.testing.assert_allclose(last_update(jnp.bfloat16), last_update(jnp.float32), rtol=1e-2)


@pytest.mark.parametrize("params", [{}, None, {"a": None}, {"a": jnp.zeros((0, 2))}, 1.5])
@pytest.mark.parametrize("name", NAMES)
def test_unusual_trees(name, params):
    tx = getattr(optimizers, name)(0.1)
    state = tx.init(params)
    updates, new_state = tx.update(params, state, params, unknown="ignored")
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_the_rate(name):
    factory = getattr(optimizers, name)
    start = jnp.asarray(START, jnp.float32)
    rates = jnp.array([0.05, 0.2])
    together = jax.jit(jax.vmap(lambda rate: run(factory(rate), start, 6)))(rates)
    apart = jnp.stack([run(factory(rate), start, 6) for rate in rates])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_rate_by_schedule_and_injected(name, x64):
    factory = getattr(optimizers, name)
    start = jnp.asarray(START)
    expected = run(factory(0.1), start, 5)
    for tx in [factory(lambda step: 0.1), optax.inject_hyperparams(factory)(0.1)]:
        np.testing.assert_allclose(run(tx, start, 5), expected, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_static_mistakes_are_named(name):
    transformation = getattr(optimizers, f"scale_by_{name}")
    for key in OTHER_HYPERPARAMS[name]:
        for value in [0.0, -1.0] if key == "eps" else [1.0, -0.1]:
            with pytest.raises(ValueError, match=f"^{key} must"):
                transformation(**{key: value})
