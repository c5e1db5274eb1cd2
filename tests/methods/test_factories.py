"""The factory of the inner optimizer: what is in place of ``optax.sgd`` learns, or is an error."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr

CURVATURE = np.array([0.5, 1.0, 2.0])


def loss(w, batch=1.0):
    return 0.5 * jnp.sum(CURVATURE * (w - batch) ** 2)


def learned(factory, **numbers):
    options = {"learning_rate": 0.01, "hyper_learning_rate": 1e-3} | numbers
    tx = hyperlr.marthe(factory, **options)
    w = jnp.zeros(3)
    state = tx.init(w)
    for _ in range(8):
        updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
        w = optax.apply_updates(w, updates)
    return float(hyperlr.metrics(state)["learning_rate"])


INJECTED = {
    "alone": optax.inject_hyperparams(optax.sgd),
    "in a chain": lambda learning_rate: optax.chain(
        optax.identity(), optax.inject_hyperparams(optax.sgd)(learning_rate)
    ),
    "partial": functools.partial(optax.inject_hyperparams(optax.sgd), momentum=0.0),
}


@pytest.mark.parametrize("name", INJECTED)
def test_an_injected_factory_learns_as_the_plain_one(name, x64):
    plain = learned(optax.sgd)
    assert plain > 0.02
    np.testing.assert_allclose(learned(INJECTED[name]), plain, rtol=1e-12)


@pytest.mark.parametrize("name", INJECTED)
def test_a_schedule_of_an_injected_factory(name, x64):
    schedule = np.full(5, 0.1)

    def final_loss(schedule):
        w = np.zeros(3)
        for rate in schedule:
            w = w - rate * CURVATURE * (w - 1.0)
        return 0.5 * np.sum(CURVATURE * (w - 1.0) ** 2)

    h = 1e-6
    shifts = h * np.eye(5)
    expected = [(final_loss(schedule + s) - final_loss(schedule - s)) / (2 * h) for s in shifts]
    _, found = hyperlr.schedule_hypergradient(
        INJECTED[name], jnp.zeros(3), jnp.asarray(schedule), jnp.ones(5), loss, loss
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "factory",
    [
        lambda learning_rate: optax.sgd(0.1),
        lambda learning_rate: optax.chain(optax.sgd(0.1), optax.set_to_zero()),
        lambda learning_rate: optax.inject_hyperparams(optax.sgd)(0.1),
        lambda learning_rate: optax.sgd(float(np.asarray(0.1)), momentum=0.9),
    ],
)
def test_a_factory_that_ignores_its_rate_is_an_error(factory):
    w = jnp.zeros(3)
    with pytest.raises(ValueError, match="does not depend on learning_rate"):
        hyperlr.marthe(factory, 0.1, hyper_learning_rate=1e-3).init(w)
    with pytest.raises(ValueError, match="does not depend on learning_rate"):
        hyperlr.schedule_hypergradient(factory, w, jnp.full(3, 0.1), jnp.ones(3), loss, loss)


def test_a_hyperparameter_that_only_some_settings_use_is_an_error():
    """Without momentum there is no Nesterov, and nothing of b1 in a plain SGD."""

    def factory(learning_rate, b1):
        return optax.sgd(learning_rate)

    tx = hyperlr.online(
        factory,
        {"learning_rate": 0.1, "b1": 0.9},
        discount=0.9,
        hyper_optimizer=hyperlr.adaptive_sgd(1e-3),
    )
    with pytest.raises(ValueError, match="does not depend on b1"):
        tx.init(jnp.zeros(3))


def test_integers_are_numbers():
    assert learned(optax.sgd, discount=1) == learned(optax.sgd, discount=1.0)
    assert learned(optax.sgd, learning_rate=1) == learned(optax.sgd, learning_rate=1.0)
    assert learned(optax.sgd, hyper_learning_rate=1) == learned(optax.sgd, hyper_learning_rate=1.0)
    hyperlr.guard(hyperlr.hd(optax.sgd, 1, 1), explosion=2, cut=1)
    hyperlr.auto(optax.sgd, 1, hyper_learning_rate=1, average=8)


def test_a_schedule_in_place_of_a_rate_shows_what_to_write():
    schedule = optax.cosine_decay_schedule(0.1, 100)
    with pytest.raises(TypeError, match=r"hyperlr\.scheduled\("):
        hyperlr.marthe(optax.sgd, schedule, hyper_learning_rate=1e-3)


@pytest.mark.parametrize("inner", [optax.lion, optax.sign_sgd])
def test_an_update_that_jumps_is_warned_of_where_it_costs_in_vain(inner):
    w = jnp.zeros(3)
    with pytest.warns(UserWarning, match=r"in jumps alone.*use that"):
        hyperlr.marthe(inner, 0.1, hyper_learning_rate=1e-3).init(w)
    hyperlr.hd(inner, 0.1, 1e-3).init(w)  # no product, and no warning, which would be an error
