"""The averaged iterate: its tangent is exact, and the objective is taken at the average."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import INNER, mlp_batches, mlp_loss, mlp_params

import hyperlr

pytestmark = pytest.mark.usefixtures("x64")
STEPS, POWER, RATE = 7, 3.0, 0.05


def trained(factory, rate, batches):
    """Plain optax, and the average of the iterates by its definition."""
    tx, params = factory(rate), mlp_params(jax.random.key(0))

    def step(carry, batch):
        params, state, mean, t = carry
        updates, state = tx.update(jax.grad(mlp_loss)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        c = (POWER + 1) / (t + 1 + POWER)
        mean = jax.tree.map(lambda m, w: m + c * (w - m), mean, params)
        return (params, state, mean, t + 1), None

    carry = (params, tx.init(params), params, jnp.zeros(()))
    return jax.lax.scan(step, carry, batches)[0][2]


def last_hypergradient(factory, average, batches, val_batch):
    """Δη after these batches, and the state and the parameters that it was taken at."""
    tx = hyperlr.online(
        factory,
        {"learning_rate": RATE},
        discount=1.0,
        hyper_optimizer=hyperlr.adaptive_sgd(0.0),
        average=average,
    )
    params = mlp_params(jax.random.key(0))

    def step(carry, batch):
        params, state = carry
        _, grads, extra = hyperlr.value_and_grad(mlp_loss)(
            params, batch, state=state, val_batch=val_batch
        )
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), hyperlr.metrics(state)

    # The last step only looks at what the ones before it made.
    more = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), batches)
    (_, _), record = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), more))()
    before = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), batches)[0])()
    return record["hypergradient"][-1], before


@pytest.mark.parametrize("inner", INNER)
def test_hypergradients_at_the_average_are_central_differences(inner):
    factory = INNER[inner]
    batches = mlp_batches(jax.random.key(1), STEPS)
    val_batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(2), 1))
    found, before = last_hypergradient(factory, POWER, batches, val_batch)

    final = jax.jit(lambda rate: mlp_loss(trained(factory, rate, batches), val_batch))
    h = 1e-6
    expected = (final(RATE + h) - final(RATE - h)) / (2 * h)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    chex.assert_trees_all_close(
        hyperlr.eval_params(before[1], before[0]), trained(factory, RATE, batches), rtol=1e-9
    )


def with_ema(learning_rate):
    """SGD that keeps an exponential moving average of the parameters in its own state."""

    def init(params):
        return optax.sgd(learning_rate, momentum=0.9).init(params), params

    def update(grads, state, params):
        updates, sgd_state = optax.sgd(learning_rate, momentum=0.9).update(grads, state[0], params)
        moved = optax.apply_updates(params, updates)
        return updates, (sgd_state, optax.incremental_update(moved, state[1], 0.2))

    return optax.GradientTransformation(init, update)


def schedule_free(learning_rate):
    adam = hyperlr.optimizers.adam(learning_rate, b1=0.0)
    return optax.contrib.schedule_free(adam, learning_rate, b1=0.9)


KEPT = {
    "ema": (with_ema, lambda state, params: state[1]),
    "schedule-free": (schedule_free, optax.contrib.schedule_free_eval_params),
}


@pytest.mark.parametrize("inner", KEPT)
def test_an_average_that_the_inner_optimizer_keeps_serves_as_well(inner):
    factory, evaluated = KEPT[inner]
    batches = mlp_batches(jax.random.key(1), STEPS)
    val_batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(2), 1))
    found, (params, state) = last_hypergradient(factory, evaluated, batches, val_batch)

    def trained(rate):
        tx, params = factory(rate), mlp_params(jax.random.key(0))

        def step(carry, batch):
            params, state = carry
            updates, state = tx.update(jax.grad(mlp_loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
        return evaluated(state, params)

    final = jax.jit(lambda rate: mlp_loss(trained(rate), val_batch))
    h = 1e-6
    expected = (final(RATE + h) - final(RATE - h)) / (2 * h)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    chex.assert_trees_all_close(hyperlr.eval_params(state, params), trained(RATE), rtol=1e-9)


@pytest.mark.parametrize("every", [1, 2])
def test_with_a_loss_alone_the_objective_is_at_the_average_too(x64, every):
    """As loops have it that know nothing of averages, such as those of Optimistix."""
    batches, start = mlp_batches(jax.random.key(1), 8), mlp_params(jax.random.key(0))
    tx = hyperlr.auto(functools.partial(optax.sgd, momentum=0.9), 0.01, every=every)

    def run(derivatives):
        def step(carry, batch):
            params, state = carry
            grads, extra = derivatives(params, state, batch)
            updates, state = tx.update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), hyperlr.metrics(state)

        return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), batches)[1])(start)

    def with_value_fn(params, state, batch):
        value_fn = functools.partial(mlp_loss, batch=batch)
        return jax.grad(value_fn)(params), {"value_fn": value_fn}

    def with_extra(params, state, batch):
        return hyperlr.value_and_grad(mlp_loss)(params, batch, state=state)[1:]

    found, expected = run(with_value_fn), run(with_extra)
    assert abs(expected["learning_rate"][-1] / 0.01 - 1) > 0.05
    chex.assert_trees_all_close(found, expected, rtol=1e-9)


def test_an_average_needs_an_objective_there():
    tx = hyperlr.online(
        optax.sgd,
        {"learning_rate": 0.1},
        discount=0.0,
        hyper_optimizer=optax.sgd(0.1),
        average=8,
    )
    params = jnp.ones(2)
    with pytest.raises(ValueError, match="val_grad is missing"):
        tx.update(params, tx.init(params), params)


def test_the_average_is_found_in_any_wrapper_and_kept_in_float32():
    params = {"w": jnp.ones(3, jnp.bfloat16), "frozen": jnp.ones(2, jnp.bfloat16)}
    tx = hyperlr.online(
        functools.partial(optax.sgd, momentum=0.9),
        {"learning_rate": 0.1},
        hyper_optimizer=hyperlr.exponentiated_gradient(0.1),
        average=1.0,
    )
    labels = {"w": "train", "frozen": "freeze"}
    wrapped = optax.partition({"train": tx, "freeze": optax.set_to_zero()}, labels)
    state = wrapped.init(params)
    loss_fn = lambda p, batch: jnp.sum(p["w"] ** 2) + jnp.sum(p["frozen"])
    for _ in range(2):
        _, grads, extra = hyperlr.value_and_grad(loss_fn)(params, None, state=state)
        updates, state = wrapped.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    averaged = hyperlr.eval_params(state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(averaged, params)
    assert np.all(np.asarray(averaged["w"], float) > np.asarray(params["w"], float))
    np.testing.assert_array_equal(averaged["frozen"], params["frozen"])
    assert {x.dtype for x in jax.tree.leaves(optax.tree.get(state, "average").params)} == {
        jnp.dtype(jnp.float32)
    }


def test_an_average_with_a_nan_in_it_begins_anew():
    """As restored from a run that went wrong; the finite part of w̄ is kept."""
    tx = hyperlr.online(
        optax.sgd,
        {"learning_rate": 0.1},
        discount=0.9,
        hyper_optimizer=hyperlr.exponentiated_gradient(0.1),
        average=8.0,
    )
    loss_fn = lambda w, batch: jnp.sum((w - 1.0) ** 2)

    def step(w, state):
        _, grads, extra = hyperlr.value_and_grad(loss_fn)(w, None, state=state)
        updates, state = tx.update(grads, state, w, **extra)
        return optax.apply_updates(w, updates), state

    w = jnp.zeros(3)
    state = tx.init(w)
    for _ in range(4):
        w, state = step(w, state)
    spoiled = state.average._replace(
        params=state.average.params.at[0].set(jnp.nan),
        tangent=jax.tree.map(lambda z: jnp.nan * z, state.average.tangent),
    )
    before, rate = state.average.params, hyperlr.metrics(state)["learning_rate"]
    state = state._replace(average=spoiled)
    w_then = w
    w, state = step(w, state)
    assert hyperlr.metrics(state)["num_restarts"] == 1
    assert hyperlr.metrics(state)["learning_rate"] == rate
    c = 9 / (4 + 9)
    expected = before.at[0].set(w_then[0])
    np.testing.assert_allclose(state.average.params, expected + c * (w - expected), rtol=1e-6)
    z = state.tangent["learning_rate"].params
    np.testing.assert_allclose(state.average.tangent["learning_rate"], c * z, rtol=1e-6)
    for _ in range(3):
        w, state = step(w, state)
    assert hyperlr.metrics(state)["num_restarts"] == 1
    assert hyperlr.metrics(state)["learning_rate"] > rate
