"""Every optimizer of optax and of optax.contrib as the inner one, with a weight that is dead.

The gradient of a dead weight is always 0. Where a root of it is taken, the derivative is 0 · ∞ as
JAX has it, and in many optimizers it goes on from there into every weight. Expected are central
differences of plain optax runs in float64.
"""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from problems.optimizers import by_logarithms

import hyperlr

STEPS, RATE = 6, 0.02
CURVATURE = jnp.array([0.3, 1.0, 3.0])
START = {
    "dead": jnp.ones(2),
    "matrix": jnp.linspace(0.2, 1.0, 4).reshape(2, 2),
    "vector": jnp.array([0.1, -0.2, 0.3]),
}
# Not functions of the learning rate alone, or not differentiable by design.
LEFT_OUT = {
    "cocob": "bets a fraction that depends on the rate through a maximum with kinks",
    "dpsgd": "adds noise, and has required settings",
    "lbfgs": "searches along a line",
    "noisy_sgd": "adds noise of which the rate sets the size",
    "optimistic_adam": "is the old name of optimistic_adam_v2",
    "rprop": "takes the rate for its first step sizes alone, which is an error at init",
    "sophia": "estimates the curvature at random points, of a function that it asks for",
}


def factories():
    """Every alias whose first argument is the learning rate, and some in other settings."""
    found = {
        name: function
        for module in (optax, contrib)
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and next(iter(inspect.signature(function).parameters), "") == "learning_rate"
        and "GradientTransformation" in str(function.__annotations__.get("return"))
        and not name.startswith(("_", "scale_by"))
        and name not in LEFT_OUT
    }
    return found | {
        "by logarithms": by_logarithms,
        "sgd, momentum": functools.partial(optax.sgd, momentum=0.9),
        "sgd, nesterov": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
        "nadam": optax.nadam,
        "nadamw": optax.nadamw,
        "mechanize(sgd)": lambda rate: contrib.mechanize(optax.sgd(rate)),
        "schedule_free(sgd)": lambda rate: contrib.schedule_free(optax.sgd(rate), rate),
    }


def loss_fn(params, batch=None):
    square = 0.5 * jnp.sum(CURVATURE * (params["vector"] - 1.0) ** 2)
    return square + 0.1 * jnp.sum(jnp.cos(params["matrix"]))


def flat(tree):
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])


def trained(factory, rate):
    """The parameters after every step of plain optax."""
    tx, params = optax.with_extra_args_support(factory(rate)), cast(START)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
        return (params, state), flat(params)

    return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[1]


def tangents(factory):
    """Z after every step."""
    tx, params = hyperlr.rtho(lambda learning_rate: factory(learning_rate), RATE, 0.0), cast(START)

    def step(carry, _):
        params, state = carry
        _, grads, extra = hyperlr.value_and_grad(loss_fn)(params, None, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), flat(state.tangent["learning_rate"].params)

    return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[1]


def cast(params):
    return jax.tree.map(lambda x: x.astype(jnp.float64), params)


@pytest.mark.filterwarnings("ignore:the update of inner follows the gradients in jumps")
@pytest.mark.parametrize("name", factories())
def test_tangents_are_central_differences(name, x64):
    factory, h = factories()[name], 1e-6

    @jax.jit
    def both():
        above, below = trained(factory, RATE + h), trained(factory, RATE - h)
        return (above - below) / (2 * h), tangents(factory)

    expected, found = map(np.asarray, both())
    for t in (0, STEPS - 1):
        error = np.linalg.norm(found[t] - expected[t])
        assert error < 1e-3 * np.linalg.norm(expected[t]) + 1e-9


# Backwards, lamb divides by the norm of an update that is 0, before it looks at it.
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *itertools.product(["adamw", "madgrad", "momo_adam", "muon"], ["forward", "reverse"]),
        ("lamb", "forward"),
    ],
)
def test_schedules_see_through_dead_weights_too(name, mode, x64):
    factory, h = factories()[name], 1e-6
    batches, schedule = jnp.zeros(STEPS), jnp.full(STEPS, RATE)

    @jax.jit
    def both():
        def objective(params):
            return jnp.sum(jnp.sin(flat(params)))

        above, below = (jnp.sum(jnp.sin(trained(factory, RATE + d)[-1])) for d in (h, -h))
        found = hyperlr.schedule_hypergradient(
            factory, cast(START), schedule, batches, loss_fn, objective, mode=mode
        )[1]
        return (above - below) / (2 * h), jnp.sum(found)

    expected, found = both()
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_adamw_as_people_type_it_trains_and_learns():
    """With dead weights, whose tangents would be NaN."""
    tx = hyperlr.marthe(optax.adamw, 1e-3, hyper_learning_rate=1e-3)
    params = START

    @jax.jit
    def step(params, state):
        _, grads, extra = hyperlr.value_and_grad(loss_fn)(params, None, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(50):
        params, state = step(params, state)
    assert loss_fn(params) < 0.5 * loss_fn(START)
    found = hyperlr.metrics(state)
    assert found["learning_rate"] > 2e-3
    assert found["num_restarts"] == 0
