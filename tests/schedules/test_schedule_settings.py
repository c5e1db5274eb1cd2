"""The schedules whatever JAX is set to, and what they cost before the first step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr
from hyperlr import schedules

BUILD = {
    "step_decay": lambda rate: schedules.step_decay(rate, 0.5, 3),
    "exponential_decay": lambda rate: schedules.exponential_decay(rate, 0.5),
    "triangular": lambda rate: schedules.triangular(0.1, rate, 3),
    "cosine_annealing": lambda rate: schedules.cosine_annealing(rate, 10),
    "warm_restarts": lambda rate: schedules.warm_restarts(rate, 5),
    "warm_restarts, longer each time": lambda rate: schedules.warm_restarts(rate, 5, 2),
    "warmup_cosine": lambda rate: schedules.warmup_cosine(rate, 2, 10),
    "warmup_stable_decay": lambda rate: schedules.warmup_stable_decay(rate, 2, 3, 4),
    "from_array": lambda rate: schedules.from_array([rate, 0.5 * rate, 0.0], 9),
}
STEPS = (4, np.int64(4), jnp.int32(4), jnp.float32(4), jnp.bfloat16(4))


@pytest.mark.parametrize("name", BUILD)
def test_strict_promotion_of_dtypes_changes_nothing(name):
    expected = BUILD[name](0.3)(4)
    with jax.numpy_dtype_promotion("strict"):
        for rate in (0.3, jnp.float32(0.3)):
            for step in STEPS:
                np.testing.assert_allclose(BUILD[name](rate)(step), expected, rtol=1e-6)
                np.testing.assert_allclose(jax.jit(BUILD[name](rate))(step), expected, rtol=1e-6)
        traced = jax.jit(lambda rate: jax.grad(lambda r: BUILD[name](r)(jnp.int32(4)))(rate))
        if name != "from_array":
            np.testing.assert_allclose(traced(0.3), jax.grad(lambda r: BUILD[name](r)(4))(0.3))
        tx, grads = optax.sgd(BUILD[name](0.3)), jnp.ones(2)
        tx.update(grads, tx.init(grads))


@pytest.mark.usefixtures("debugging")
def test_clean_schedules_do_not_stop_the_search_for_nan():
    for build in BUILD.values():
        for step in (0, 3, 2**31 - 1):
            build(0.3)(step)
            jax.jit(build(0.3))(step)
    slope = jax.jit(jax.grad(lambda warmup, t: schedules.warmup_cosine(0.3, warmup, 9)(t)))
    for warmup in (0.0, 3.0):
        for step in (0, 3, 9):
            slope(warmup, step)


@pytest.mark.parametrize("name", BUILD)
def test_building_one_computes_nothing(name):
    with jax.transfer_guard("disallow_explicit"), jax.log_compiles():
        schedule = BUILD[name](0.3)
    assert schedule(4).dtype == jnp.float32


def test_parameters_in_bfloat16_are_widened():
    """In bfloat16 step 1001 would be 1000, and half a period of 257 would be 256."""
    schedule = schedules.triangular(0.0, 1.0, jnp.bfloat16(258))
    np.testing.assert_allclose(schedule(1001), 31 / 258, rtol=1e-6)
    assert schedule(1001).dtype == jnp.float32


def test_integers_are_numbers():
    assert schedules.warmup_cosine(1, np.int64(2), np.int32(10))(1) == 0.5
    assert schedules.step_decay(1, 2, 3)(7) == 4.0
    np.testing.assert_allclose(schedules.exponential_decay(1, 1)(2), np.exp(-2), rtol=1e-6)


def test_one_trace_serves_every_peak_and_step():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def value(peak, step):
        return schedules.warmup_cosine(peak, 2, 10)(step)

    for peak in (0.0, 0.5, 1.0):
        for step in range(12):
            value(peak, step)


# Optax's schedules, and the form in which their peak can be learned. In optax,
# warmup_cosine_decay_schedule asks in Python whether the peak is 0, for the sake of
# alpha = end_value / peak_value, and sgdr_schedule calls it; the others are as they are.
LEARNABLE = {
    "warmup_cosine_decay": (
        lambda p: optax.warmup_cosine_decay_schedule(0.0, p, 3, 10),
        lambda p: schedules.warmup_cosine(p, 3, 10),
    ),
    "sgdr": (
        lambda p: optax.sgdr_schedule(
            [
                {"init_value": 0.0, "peak_value": p, "warmup_steps": 2, "decay_steps": 4},
                {"init_value": 0.1, "peak_value": p, "warmup_steps": 1, "decay_steps": 5},
            ]
        ),
        lambda p: optax.join_schedules(
            [schedules.warmup_cosine(p, 2, 4), schedules.warmup_cosine(p, 1, 5, 0.1)], [4]
        ),
    ),
    "warmup_exponential": (
        lambda p: optax.warmup_exponential_decay_schedule(0.0, p, 3, 10, 0.9),
        lambda p: optax.warmup_exponential_decay_schedule(0.0, p, 3, 10, 0.9),
    ),
    "cosine_onecycle": (
        lambda p: optax.cosine_onecycle_schedule(10, p),
        lambda p: optax.cosine_onecycle_schedule(10, p),
    ),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", LEARNABLE)
def test_the_peak_of_every_schedule_of_optax_can_be_learned(name, jit, x64):
    """The tangent in the peak is the derivative of a plain run with optax's own schedule."""
    theirs, ours = LEARNABLE[name]
    curvature = jnp.array([0.3, 1.0, 3.0])

    def loss(w):
        return 0.5 * jnp.sum(curvature * (w - 1.0) ** 2)

    def plain(peak):
        tx, w = optax.sgd(theirs(peak), momentum=0.9), jnp.zeros(3)
        state = tx.init(w)
        for _ in range(8):
            updates, state = tx.update(curvature * (w - 1.0), state, w)
            w = optax.apply_updates(w, updates)
        return w

    _, expected = jax.jvp(plain, (0.1,), (1.0,))
    tx = hyperlr.rtho(lambda learning_rate: optax.sgd(ours(learning_rate), momentum=0.9), 0.1, 0.0)

    def step(w, state):
        updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
        return optax.apply_updates(w, updates), state

    step = jax.jit(step) if jit else step
    w = jnp.zeros(3)
    state = tx.init(w)
    for _ in range(8):
        w, state = step(w, state)
    found = state.tangent["learning_rate"].params
    np.testing.assert_allclose(found, expected, rtol=1e-6)
