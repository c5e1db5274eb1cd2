"""What the adaptive optimizers share: hyperparameters, dtypes, trees, lanes and errors."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.optimizers import EPS_INSIDE, NAMES, OTHER_HYPERPARAMS, START, run

from hyperlr import optimizers


@pytest.mark.parametrize("name", NAMES)
def test_derivative_in_every_hyperparameter(name, x64):
    factory, others = getattr(optimizers, name), OTHER_HYPERPARAMS[name]

    def objective(hyperparams):
        return jnp.sum(jnp.sin(run(factory(**hyperparams), jnp.asarray(START), 8)[-1]))

    objective_jit = jax.jit(objective)
    # Large ones, so that they matter.
    large = {"eps": 0.01, "eps_root": 0.02, "weight_decay": 0.1}
    others = others | {key: large[key] for key in others if key in large}
    hyperparams = {"learning_rate": 0.1, **others}
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
        params = jnp.ones(1, dtype)
        _, state = tx.update(jnp.full(1, 64.0, dtype), tx.init(params), params)

        def step(state, _):
            updates, state = tx.update(jnp.full(1, 0.5, dtype), state, params)
            return state, updates

        return jax.lax.scan(step, state, None, length=200)[1][-1].astype(jnp.float32)

    np.testing.assert_allclose(last_update(jnp.bfloat16), last_update(jnp.float32), rtol=1e-2)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        (name, params)
        for name in NAMES
        for params in ({}, None, {"a": None}, {"a": jnp.zeros((0, 2))}, 1.5)
        if name != "adamw" or params is not None  # which means that there are none
    ],
)
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


# What each hyperparameter may not be.
WRONG = {
    **dict.fromkeys(("rho", "decay", "b1", "b2"), (1.0, 1, -0.1)),
    "eps": (-1.0,),
    "eps_root": (0.0, -1.0, 0),
}


@pytest.mark.parametrize("name", NAMES)
def test_static_mistakes_are_named(name):
    factories = [functools.partial(getattr(optimizers, name), 0.1)]
    if name != "adamw":
        factories.append(getattr(optimizers, f"scale_by_{name}"))
    for key in OTHER_HYPERPARAMS[name].keys() - {"weight_decay"}:
        wrong = (0.0, *WRONG[key]) if key == "eps" and name in EPS_INSIDE else WRONG[key]
        for factory in factories:
            for value in wrong:
                with pytest.raises(ValueError, match=f"^{key} must"):
                    factory(**{key: value})
            with pytest.raises(TypeError, match=f"^{key} must be a number, .*inject_hyperparams"):
                factory(**{key: lambda step: 0.5})


@pytest.mark.parametrize("name", NAMES)
def test_integers_are_numbers(name):
    start = jnp.asarray(START, jnp.float32)
    np.testing.assert_array_equal(
        run(getattr(optimizers, name)(1), start, 2), run(getattr(optimizers, name)(1.0), start, 2)
    )
    optimizers.adamw(1, 0, 0, 0, 1, weight_decay=0)


@pytest.mark.parametrize("name", NAMES)
def test_building_one_computes_nothing(name):
    with jax.transfer_guard("disallow_explicit"):
        getattr(optimizers, name)(0.1, **OTHER_HYPERPARAMS[name])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", NAMES)
def test_strict_promotion_of_dtypes_changes_nothing(name, dtype):
    """Also where optax's own, with its integer count, does not pass."""
    params = jnp.asarray(START, dtype)
    tx = getattr(optimizers, name)(0.1)

    def two_steps(params, tx):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params, state, params)
        return updates

    expected = two_steps(params, tx)
    with jax.numpy_dtype_promotion("strict"):
        for rate in (0.1, jnp.float32(0.1)):
            found = two_steps(params, getattr(optimizers, name)(rate))
            np.testing.assert_allclose(
                found.astype(jnp.float32), expected.astype(jnp.float32), rtol=1e-6
            )
        jax.jit(lambda rate: two_steps(params, getattr(optimizers, name)(rate)))(0.1)


@pytest.mark.usefixtures("debugging")
def test_dead_parameters_do_not_stop_the_search_for_nan():
    params = jnp.ones(3)
    for name in NAMES:
        tx = getattr(optimizers, name)(0.1)

        def step(grads, state, tx=tx):
            return tx.update(grads, state, params)

        compiled = jax.jit(step)
        slope = jax.jit(jax.grad(lambda g, s, step=step: jnp.sum(step(g, s)[0])))
        state = tx.init(params)
        for grads in (jnp.zeros(3), jnp.array([0.0, 1.0, -1.0])):
            slope(grads, state)
            _, after = compiled(grads, state)
            chex.assert_trees_all_close(step(grads, state)[1], after, rtol=1e-5)
            state = after
    optimizers.sparsity_factor(jnp.array([[0.0, 1.0], [0.0, 2.0]]))


def test_weights_in_bfloat16_decay_in_float32():
    params = jnp.linspace(0.5, 2.0, 200).astype(jnp.bfloat16)
    tx = optimizers.adamw(0.7, weight_decay=0.3)
    updates, _ = tx.update(jnp.zeros_like(params), tx.init(params), params)
    expected = (-0.7 * (0.3 * params.astype(jnp.float32))).astype(jnp.bfloat16)
    chex.assert_trees_all_equal(updates, expected)
