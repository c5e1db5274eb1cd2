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


def test_equinoxs_own_loop():
    """As its documentation trains: gradients of the whole module, the arrays of it to optax.

    ``None`` stands for what is not an array, and for the gradient of an array of integers.
    """

    class Model(eqx.Module):
        linear: eqx.nn.MLP
        table: jax.Array  # integers, which are arrays, and have no gradient

        def __call__(self, x):
            return self.linear(x[self.table])

    mlp = eqx.nn.MLP(2, 1, width_size=8, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    model = Model(mlp, jnp.array([1, 0]))
    x = jax.random.normal(jax.random.key(1), (32, 2))
    tx = hyperlr.marthe(optax.adamw, 1e-3, hyper_learning_rate=1e-4)
    state = tx.init(eqx.filter(model, eqx.is_array))

    def loss(model, x):
        return jnp.mean((jax.vmap(model)(x) - jnp.sin(x[:, :1])) ** 2)

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(loss)(model, x)
        params, static = eqx.partition(model, eqx.is_array)
        updates, state = tx.update(
            grads, state, params, value_fn=lambda params: loss(eqx.combine(params, static), x)
        )
        return eqx.apply_updates(model, updates), state

    before = float(loss(model, x))
    for _ in range(50):
        model, state = step(model, state)
    assert loss(model, x) < before / 2
    assert hyperlr.metrics(state)["learning_rate"] > 2e-3
    np.testing.assert_array_equal(model.table, [1, 0])


def test_complex_parameters_by_the_remedy_that_the_error_names():
    """Real and imaginary parts move as a complex weight does in plain optax, and η is learned."""
    target = jnp.array([1.0 + 2.0j, -0.5j])

    def loss(w, batch=None):
        return jnp.sum(jnp.abs(w - target) ** 2)

    def of_parts(parts, batch=None):
        return loss(parts["real"] + 1j * parts["imag"])

    with pytest.raises(TypeError, match=r"put them together in the loss, w = real \+ 1j \* imag"):
        hyperlr.rtho(optax.sgd, 0.01, 1e-3).init(target)
    for beta in (0.0, 1e-3):
        tx = hyperlr.rtho(optax.sgd, 0.01, beta)
        parts = {"real": jnp.zeros(2), "imag": jnp.zeros(2)}
        state = tx.init(parts)
        for _ in range(30):
            _, grads, extra = hyperlr.value_and_grad(of_parts)(parts, None, state=state)
            updates, state = tx.update(grads, state, parts, **extra)
            parts = optax.apply_updates(parts, updates)
        if beta == 0.0:
            w = jnp.zeros_like(target)
            for _ in range(30):
                w = w - 0.01 * jnp.conj(jax.grad(loss)(w))
            np.testing.assert_allclose(parts["real"] + 1j * parts["imag"], w, rtol=1e-5)
    assert hyperlr.metrics(state)["learning_rate"] > 0.02


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
