"""Other libraries' models and loops: Equinox modules, and Optimistix's wrapper of optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest

import hyperlr


@pytest.mark.parametrize("validation", [False, True])
def test_equinox_model(validation):
    """The parameters are the module with ``None`` in place of all that is not an array."""
    model = eqx.nn.MLP(2, 1, width_size=8, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (32, 2))
    val_x = jax.random.normal(jax.random.key(2), (32, 2))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tx = hyperlr.marthe(optax.sgd, 0.01, hyper_learning_rate=1e-3)
    state = tx.init(params)

    def loss(params, x):
        return jnp.mean((jax.vmap(eqx.combine(params, static))(x) - jnp.sin(x[:, :1])) ** 2)

    @eqx.filter_jit
    def step(params, state):
        def value_fn(params):
            return loss(params, x)

        grads = eqx.filter_grad(value_fn)(params)
        extra = {"val_grad": eqx.filter_grad(loss)(params, val_x)} if validation else {}
        updates, state = tx.update(grads, state, params, value_fn=value_fn, **extra)
        return eqx.apply_updates(params, updates), state

    before = float(loss(params, x))
    for _ in range(50):
        params, state = step(params, state)
    assert hyperlr.metrics(state)["learning_rate"] > 0.011
    assert loss(params, x) < before / 2
    assert jax.vmap(eqx.combine(params, static))(x).shape == (32, 1)


METHODS = {
    "hd": hyperlr.hd(optax.sgd, 1e-3, 1e-4),
    "rtho": hyperlr.rtho(optax.sgd, 1e-3, 1e-6),
    "marthe": hyperlr.marthe(optax.sgd, 1e-3, hyper_learning_rate=1e-5),
}


@pytest.mark.parametrize("name", METHODS)
def test_in_optimistix_unchanged(name):
    """``OptaxMinimiser`` hands ``value_fn`` on, so every method runs in it, with E = L."""
    tx = METHODS[name]
    target = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}

    def fn(y, args):
        del args
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), y, target)))

    start = jax.tree.map(jnp.zeros_like, target)
    solver = optimistix.OptaxMinimiser(tx, rtol=1e-6, atol=1e-6)
    solution = optimistix.minimise(fn, solver, start, max_steps=3_000)
    jax.tree.map(lambda y, t: np.testing.assert_allclose(y, t, rtol=1e-3), solution.value, target)
    found = hyperlr.metrics(solution.state.opt_state)["learning_rate"]
    # The same loop by hand.
    y, state = start, tx.init(start)

    @jax.jit
    def step(y, state):
        def value_fn(y):
            return fn(y, None)

        updates, state = tx.update(jax.grad(value_fn)(y), state, y, value_fn=value_fn)
        return optax.apply_updates(y, updates), state

    for _ in range(int(solution.stats["num_steps"])):
        y, state = step(y, state)
    np.testing.assert_allclose(hyperlr.metrics(state)["learning_rate"], found, rtol=1e-5)
    assert found > 2e-3
