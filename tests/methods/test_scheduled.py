"""A learned factor of a schedule, and one learned rate for each group of parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr
from hyperlr.experiments import data
from hyperlr.experiments.networks import mlp

CURVATURE, STEPS, BETA, PEAK, WARMUP = np.array([0.3, 1.0, 3.0]), 20, 1e-2, 0.1, 5


def loss(w):
    return 0.5 * jnp.sum(CURVATURE * (w - 1.0) ** 2)


def test_the_factor_moves_as_far_as_the_schedule_has_come(x64):
    """RTHO by hand: η = m s, B = −s g, and the step of m times s over its peak."""
    schedule = [PEAK * min(t, WARMUP) / WARMUP for t in range(STEPS)]
    tx = hyperlr.rtho(
        hyperlr.scheduled(optax.sgd, optax.linear_schedule(0.0, PEAK, WARMUP)), 1.0, BETA
    )
    params = jnp.zeros(3)
    state = tx.init(params)
    w, z, m, moved = np.zeros(3), np.zeros(3), 1.0, []
    for t in range(STEPS):
        g = CURVATURE * (w - 1.0)
        m -= BETA * (z @ g) * schedule[t] / PEAK if t else 0.0
        z = (z - m * schedule[t] * CURVATURE * z if t else 0.0) - schedule[t] * g
        w = w - m * schedule[t] * g
        updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(hyperlr.metrics(state)["learning_rate"], m, rtol=1e-6)
        moved.append(m)
    np.testing.assert_allclose(params, w, rtol=1e-6)
    assert moved[-1] > 1.001


def test_a_factor_of_one_is_the_schedule():
    schedule = hyperlr.schedules.warmup_cosine(PEAK, WARMUP, STEPS)
    factory = hyperlr.scheduled(optax.adamw, schedule)

    def trained(tx):
        params = jnp.zeros(3)
        state = tx.init(params)
        for _ in range(STEPS):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    np.testing.assert_allclose(trained(factory(1.0)), trained(optax.adamw(schedule)), rtol=1e-6)


def test_the_factor_of_no_schedule_is_an_error():
    with pytest.raises(TypeError, match="schedule must be a function of the step count"):
        hyperlr.scheduled(optax.sgd, 0.1)
    with pytest.raises(TypeError, match="learning_rate"):
        hyperlr.scheduled(lambda momentum: optax.sgd(0.1, momentum), optax.constant_schedule(1.0))


def test_each_group_has_the_rate_that_it_would_learn_by_hand(x64):
    """Two groups of one quadratic that is not separable: HD on each entry's own step."""
    matrix = np.array([[1.0, 0.4], [0.4, 2.0]])

    def value_fn(w):
        both = jnp.stack([w["slow"], w["fast"]])
        return 0.5 * both @ matrix @ both

    rates = {"slow": 0.01, "fast": 0.1}
    tx = hyperlr.online(
        hyperlr.per_group(optax.sgd, {"slow": "slow", "fast": "fast"}),
        rates,
        discount=1.0,
        hyper_optimizer=hyperlr.adaptive_sgd(BETA),
    )
    params = {"slow": jnp.ones(()), "fast": -jnp.ones(())}
    state = tx.init(params)
    w, z, eta = np.array([1.0, -1.0]), np.zeros((2, 2)), np.array([0.01, 0.1])
    for t in range(STEPS):
        g = matrix @ w
        eta = eta - BETA * z @ g if t else eta
        z = (z - z @ matrix * eta[None, :] if t else z) - np.diag(g)
        w = w - eta * g
        updates, state = tx.update(jax.grad(value_fn)(params), state, params, value_fn=value_fn)
        params = optax.apply_updates(params, updates)
    found = hyperlr.metrics(state)
    np.testing.assert_allclose([found["slow"], found["fast"]], eta, rtol=1e-10)
    assert abs(eta[0] - 0.01) > 1e-4


@pytest.mark.slow
def test_a_factor_of_a_warmup_and_a_cosine_ends_as_well_as_a_learned_rate_without(digits):
    """4,000 steps of AdamW on the digits; a warmup must not drive the factor away."""
    steps, rate = 4_000, 1e-3
    inner = functools.partial(optax.adamw, weight_decay=1e-2, eps_root=1e-12)
    schedule = hyperlr.schedules.warmup_cosine(rate, 400, steps)
    rule = hyperlr.exponentiated_gradient(0.02)
    methods = {
        "learned": hyperlr.marthe(inner, rate, discount=0.99, hyper_optimizer=rule),
        "factor": hyperlr.marthe(
            hyperlr.scheduled(inner, schedule), 1.0, discount=0.99, hyper_optimizer=rule
        ),
        "schedule": optax.with_extra_args_support(inner(schedule)),
    }
    params = mlp.init_mlp(jax.random.key(0), (784, 32, 10))
    train, val = (jnp.asarray(x) for x in data.split_indices(digits, 0))

    def mean_loss(params, images, labels):
        logits = mlp.apply_mlp(params, data.as_inputs(jnp.asarray(images)))
        return mlp.cross_entropy(logits, jnp.asarray(labels))

    def of_indices(params, indices):
        return mean_loss(
            params, jnp.asarray(digits.images)[indices], jnp.asarray(digits.labels)[indices]
        )

    def test_loss(tx):
        def step(carry, key):
            params, state = carry
            batch, val_batch = (
                part[jax.random.randint(key, (50,), 0, len(part))] for part in (train, val)
            )
            _, grads, extra = hyperlr.value_and_grad(of_indices)(
                params, batch, state=state, val_batch=val_batch
            )
            updates, state = tx.update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(1), steps)
        (trained, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        return mean_loss(trained, digits.test_images, digits.test_labels)

    losses = {name: float(jax.jit(test_loss, static_argnums=0)(tx)) for name, tx in methods.items()}
    assert losses["factor"] < 1.2 * losses["learned"], losses
    assert losses["factor"] < 1.2 * losses["schedule"], losses
