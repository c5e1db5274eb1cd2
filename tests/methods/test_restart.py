"""Which hyperparameters are rates, and what of a state a return to good parameters keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr
from hyperlr._trees import is_float

PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.ones(3)}


def learned(inner, names, **options):
    return hyperlr.online(
        inner, dict.fromkeys(names, 0.1), hyper_optimizer=hyperlr.adaptive_sgd(1e-3), **options
    )


@pytest.mark.parametrize(
    ("inner", "names", "rates"),
    [
        (optax.sgd, ["learning_rate"], {"learning_rate"}),
        (lambda lr, m: optax.sgd(lr, momentum=m), ["lr", "m"], {"lr"}),
        (lambda lr, m: optax.sgd(lr, momentum=m, nesterov=True), ["lr", "m"], {"lr"}),
        (
            lambda step, decay, b1, b2, eps: optax.adamw(
                step, b1=b1, b2=b2, eps=eps, weight_decay=decay
            ),
            ["step", "decay", "b1", "b2", "eps"],
            {"step"},
        ),
        (lambda alpha, decay: optax.rmsprop(alpha, decay=decay), ["alpha", "decay"], {"alpha"}),
        (
            lambda a: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(a)),
            ["a"],
            {"a"},
        ),
        (lambda decay: optax.adamw(0.1, weight_decay=decay), ["decay"], set()),
        (hyperlr.per_group(optax.sgd, {"w": "x", "b": "y"}), ["x", "y"], {"x", "y"}),
    ],
)
def test_a_rate_is_what_the_update_is_proportional_to(inner, names, rates):
    assert set(learned(inner, names).init(PARAMS).settings.rates) == rates


def taken_back(tx, num_steps):
    """The state after so many steps on a bowl, a loss of NaN, and the return."""
    state, params = tx.init(PARAMS), PARAMS

    def loss(params):
        return sum(jnp.sum(w**2) for w in jax.tree.leaves(params))

    @jax.jit
    def step(params, state, value):
        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=loss)
        return optax.apply_updates(params, updates), state

    for t in range(num_steps):
        if t == 10:
            good = params, state
        params, state = step(params, state, loss(params))
    for _ in range(2):
        params, state = step(params, state, jnp.nan)
    jax.tree.map(np.testing.assert_array_equal, params, good[0])
    return state, good[1]


def test_the_count_of_a_schedule_is_kept_and_momenta_start_anew():
    schedule = optax.linear_schedule(1e-2, 0.0, 100)
    tx = hyperlr.guard(optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(schedule)))
    state, _ = taken_back(tx, 14)
    adam, scheduled = state.inner_state
    assert scheduled.count == 10
    assert adam.count == 0
    assert not any(np.any(x) for x in jax.tree.leaves((adam.mu, adam.nu)))


def test_an_average_comes_back_and_its_tangent_starts_anew():
    tx = hyperlr.guard(learned(optax.sgd, ["learning_rate"], average=3.0, max_tangent=1.0))
    state, good = taken_back(tx, 14)
    found, kept = state.inner_state, good.inner_state
    jax.tree.map(np.testing.assert_array_equal, found.average.params, kept.average.params)
    assert found.average.step_count == kept.average.step_count == 10
    for tree in (found.tangent, found.average.tangent, found.bound):
        assert not any(np.any(x) for x in jax.tree.leaves(tree))


def test_the_first_rate_is_not_looked_for_again():
    """Even where nothing but the parameters of the start is known to be good."""
    tx = hyperlr.auto(functools.partial(optax.sgd, momentum=0.5))
    params, state = PARAMS, tx.init(PARAMS)
    loss = lambda params: sum(jnp.sum(w**2) for w in jax.tree.leaves(params))
    for value in (None, None, jnp.nan):
        grads = jax.grad(loss)(params)
        value = loss(params) if value is None else value
        updates, state = tx.update(grads, state, params, value=value, value_fn=loss)
        if state.num_steps == 1:
            first = hyperlr.metrics(state)["learning_rate"]
        params = optax.apply_updates(params, updates)
    assert state.num_rollbacks == 1
    assert not state.inner_state.awaits_rate
    assert 0 < first < 1
    np.testing.assert_allclose(hyperlr.metrics(state)["learning_rate"], 0.3 * first, rtol=1e-6)


def test_an_optimizer_that_keeps_parameters_begins_from_the_good_ones():
    tx = hyperlr.guard(optax.contrib.schedule_free_sgd(0.05))
    state, _ = taken_back(tx, 14)
    z = state.inner_state.z
    floats = [x for x in jax.tree.leaves(z) if is_float(x)]
    jax.tree.map(np.testing.assert_array_equal, floats, jax.tree.leaves(state.good_params))
