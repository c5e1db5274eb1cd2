"""The angle between tangent and gradient, against numbers computed by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr

TARGET = jnp.array([1.0, -2.0, 0.5])
CURVATURES = jnp.array([1.0, 0.3, 0.1])


def loss(params):
    return 0.5 * jnp.sum(CURVATURES * (params - TARGET) ** 2)


def trained(tx, params, num_steps):
    state = tx.init(params)
    for _ in range(num_steps):
        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
    return params, state


def test_it_is_the_angle_between_the_derivative_of_the_weights_and_the_gradient(x64):
    start, rate, num_steps = jnp.zeros(3), 0.2, 7

    def weights(rate):
        w = start
        for _ in range(num_steps):
            w = w - rate * jax.grad(loss)(w)
        return w

    tx = hyperlr.rtho(optax.sgd, rate, 0.0)
    params, state = trained(tx, start, num_steps)
    e = jax.grad(loss)(params)
    z = np.asarray((weights(rate + 1e-6) - weights(rate - 1e-6)) / 2e-6)
    seen = hyperlr.alignment(state, e)
    np.testing.assert_allclose(seen["tangent_norm"], np.linalg.norm(z), rtol=1e-6)
    np.testing.assert_allclose(seen["objective_norm"], np.linalg.norm(e), rtol=1e-12)
    cosine = z @ np.asarray(e) / np.linalg.norm(z) / np.linalg.norm(e)
    np.testing.assert_allclose(seen["cosine"], cosine, rtol=1e-6)


def test_it_is_what_the_update_after_it_computes():
    tx = hyperlr.guard(hyperlr.rtho(optax.sgd, 0.2, 1e-4))
    params, state = trained(tx, jnp.zeros(3), 5)
    grads = jax.grad(loss)(params)
    seen = hyperlr.alignment(state, grads)
    _, state = tx.update(grads, state, params, value_fn=loss)
    product = seen["cosine"] * seen["tangent_norm"] * seen["objective_norm"]
    np.testing.assert_allclose(product, hyperlr.metrics(state)["hypergradient"], rtol=1e-5)


def test_of_an_average_it_is_that_of_the_averages():
    rule = hyperlr.exponentiated_gradient(0.0)
    make = functools.partial(
        hyperlr.online, optax.sgd, {"learning_rate": 0.2}, discount=1.0, hyper_optimizer=rule
    )
    params, state = trained(make(average=0.0), jnp.zeros(3), 4)
    tangents = [
        trained(make(), jnp.zeros(3), n)[1].tangent["learning_rate"].params for n in range(1, 5)
    ]
    mean = np.mean(np.asarray(tangents), axis=0)
    seen = hyperlr.alignment(state, jax.grad(loss)(params))
    np.testing.assert_allclose(seen["tangent_norm"], np.linalg.norm(mean), rtol=1e-5)


def test_what_is_masked_does_not_count():
    tx = hyperlr.rtho(optax.sgd, 0.2, 1e-4)
    masked = optax.masked(tx, {"trained": True, "frozen": False})
    params = {"trained": jnp.zeros(3), "frozen": jnp.ones(2)}
    state = masked.init(params)
    grads = {"trained": jnp.ones(3), "frozen": jnp.full(2, jnp.nan)}
    of_loss = lambda params: jnp.sum(params["trained"])
    _, extra = hyperlr.linearize_grad(jax.grad(of_loss), params, state)
    _, state = masked.update(grads, state, params, **extra)
    seen = hyperlr.alignment(state, grads)
    np.testing.assert_allclose(seen["objective_norm"], np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(seen["cosine"], -1.0, rtol=1e-6)


def test_at_first_there_is_no_angle_and_several_hyperparameters_have_one_each():
    tx = hyperlr.online(
        optax.sgd,
        {"learning_rate": 0.01, "momentum": 0.5},
        hyper_optimizer=hyperlr.adaptive_sgd(1e-3),
    )
    seen = jax.jit(hyperlr.alignment)(tx.init(jnp.zeros(3)), jnp.ones(3))
    assert seen.keys() == {
        "objective_norm",
        "tangent_norm/learning_rate",
        "tangent_norm/momentum",
        "cosine/learning_rate",
        "cosine/momentum",
    }
    assert seen["cosine/momentum"] == 0.0


def test_it_needs_one_method():
    tx = hyperlr.rtho(optax.sgd, 0.2, 1e-4)
    with pytest.raises(ValueError, match="contains 0 methods"):
        hyperlr.alignment(optax.sgd(0.1).init(jnp.ones(3)), jnp.ones(3))
    with pytest.raises(ValueError, match="contains 2 methods"):
        hyperlr.alignment(optax.chain(tx, tx).init(jnp.ones(3)), jnp.ones(3))
