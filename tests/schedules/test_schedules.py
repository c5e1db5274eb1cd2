"""The schedules: at their breakpoints, far beyond their end, and their derivatives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperlr import schedules

FAR = 2**31 - 1
LONG = 10**6

# Every schedule as a function of the parameters that may be traced, with their values. No number of
# steps is whole, so that no step falls on a corner, where central differences say nothing.
CASES = {
    "step_decay": (
        schedules.step_decay,
        {"init_value": 0.8, "decay_factor": 0.7, "interval": 6.37},
    ),
    "exponential_decay": (
        schedules.exponential_decay,
        {"init_value": 0.8, "decay_rate": 0.05},
    ),
    "triangular": (
        schedules.triangular,
        {"min_value": 0.1, "max_value": 0.9, "half_period": 7.3},
    ),
    "cosine_annealing": (
        schedules.cosine_annealing,
        {"peak_value": 0.8, "num_steps": 20.4, "end_value": 0.1},
    ),
    "warm_restarts": (
        lambda peak_value, end_value: schedules.warm_restarts(peak_value, 6, 2.264, end_value),
        {"peak_value": 0.8, "end_value": 0.1},
    ),
    "warmup_cosine": (
        schedules.warmup_cosine,
        {
            "peak_value": 0.8,
            "warmup_steps": 6.5,
            "num_steps": 21.5,
            "init_value": 0.2,
            "end_value": 0.1,
        },
    ),
    "warmup_stable_decay": (
        schedules.warmup_stable_decay,
        {
            "peak_value": 0.8,
            "warmup_steps": 4.5,
            "stable_steps": 9.7,
            "decay_steps": 8.6,
            "init_value": 0.2,
            "end_value": 0.1,
        },
    ),
}


def numpy_step_decay(t, init_value, decay_factor, interval):
    return init_value * decay_factor ** math.floor(t / interval)


def numpy_exponential_decay(t, init_value, decay_rate):
    return init_value * math.exp(-decay_rate * t)


def numpy_triangular(t, min_value, max_value, half_period):
    rise = 1 - abs(t / half_period - 2 * math.floor(t / (2 * half_period)) - 1)
    return min_value + (max_value - min_value) * max(0.0, rise)


def numpy_cosine_annealing(t, peak_value, end_value, num_steps):
    t = min(t, num_steps)
    return end_value + (peak_value - end_value) / 2 * (1 + math.cos(t / num_steps * math.pi))


def numpy_warm_restarts(t, peak_value, end_value):
    start, period, total = 0, 6.0, 6.0
    while t >= round(total):
        start, period = round(total), period * 2.264
        total += period
    return numpy_cosine_annealing(t - start, peak_value, end_value, round(total) - start)


def numpy_warmup_cosine(t, peak_value, warmup_steps, num_steps, init_value, end_value):
    if t < warmup_steps:
        return init_value + (peak_value - init_value) * t / warmup_steps
    falling = num_steps - warmup_steps
    return numpy_cosine_annealing(t - warmup_steps, peak_value, end_value, falling)


def numpy_warmup_stable_decay(
    t, peak_value, warmup_steps, stable_steps, decay_steps, init_value, end_value
):
    corners = np.cumsum([0, warmup_steps, stable_steps, decay_steps])
    return float(np.interp(t, corners, [init_value, peak_value, peak_value, end_value]))


@pytest.mark.parametrize("name", CASES)
def test_values_follow_the_formulas(name, x64):
    factory, values = CASES[name]
    formula = globals()[f"numpy_{name}"]
    steps = [*range(120), 1000, 10**6]
    expected = [formula(t, **values) for t in steps]
    actual = jax.jit(jax.vmap(factory(**values)))(jnp.asarray(steps, jnp.int32))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)
    eager = [factory(**values)(t) for t in steps[:30]]  # Python integers
    np.testing.assert_allclose(eager, expected[:30], rtol=1e-6)
    fractions = factory(**values)(jnp.asarray([0.5, 3.25]))
    np.testing.assert_allclose(fractions, [formula(t, **values) for t in (0.5, 3.25)], rtol=1e-6)


def test_every_schedule_is_tested():
    of_arrays = {"from_array", "load_array", "save_array"}
    assert set(schedules.__all__) - of_arrays == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_central_differences(name, x64):
    factory, values = CASES[name]
    steps = jnp.asarray([0, 1, 3, 6, 7, 12, 19, 20, 21, 40, 500], jnp.int32)

    @jax.jit
    def evaluate(values):
        return factory(**values)(steps)

    values = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), values)
    slopes = jax.jacrev(evaluate)(values)
    forward = jax.jacfwd(evaluate)(values)
    for key in values:
        h = 1e-6
        above = evaluate({**values, key: values[key] + h})
        below = evaluate({**values, key: values[key] - h})
        expected = (above - below) / (2 * h)
        np.testing.assert_allclose(slopes[key], expected, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(forward[key], slopes[key], rtol=1e-12, atol=1e-15)
        assert jnp.any(slopes[key] != 0) or key == "interval"


@pytest.mark.parametrize("name", CASES)
def test_last_step_of_a_count_is_finite(name):
    factory, values = CASES[name]
    schedule = jax.jit(factory(**values))
    low, high = min(values["min_value"] if name == "triangular" else 0.0, 0.1), 0.9
    for step in (FAR - 1, FAR):
        assert low - 1e-6 <= schedule(jnp.int32(step)) <= high
        slope = jax.grad(lambda v: factory(**v)(jnp.int32(step)))(values)
        assert all(jnp.isfinite(x) for x in jax.tree.leaves(slope))


@pytest.mark.parametrize("name", CASES)
def test_batched_parameters(name):
    factory, values = CASES[name]
    batch = jax.tree.map(lambda x: jnp.asarray([x, 1.1 * x]), values)
    together = jax.jit(jax.vmap(lambda v: factory(**v)(3)))(batch)
    apart = [factory(**jax.tree.map(lambda x, k=k: x[k], batch))(3) for k in range(2)]
    np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_step_decay_steps_exactly_at_its_breakpoints():
    schedule = jax.jit(schedules.step_decay(1.0, 0.5, interval=3))
    values = [float(schedule(t)) for t in (0, 2, 3, 5, 6)]
    assert values == [1.0, 1.0, 0.5, 0.5, 0.25]
    # Where t / interval, rounded to float32, would already be the next whole number.
    schedule = jax.jit(schedules.step_decay(1.0, -1.0, interval=LONG))
    assert float(schedule(jnp.int32(2001 * LONG - 1))) == 1.0
    assert float(schedule(jnp.int32(2001 * LONG))) == -1.0


def test_triangular_comes_back():
    """As printed in the lecture notes it would rise once and stay at the minimum."""
    schedule = jax.jit(schedules.triangular(0.25, 0.75, half_period=4))
    for cycle in (0, 1, 10, 10**8):
        values = [float(schedule(jnp.int32(8 * cycle + t))) for t in (0, 2, 4, 6, 8)]
        assert values == [0.25, 0.5, 0.75, 0.5, 0.25]


def test_cosine_annealing_is_held_and_may_have_peak_zero():
    schedule = schedules.cosine_annealing(0.5, 10, end_value=0.125)
    values = [float(schedule(t)) for t in (0, 5, 10, 11, FAR)]
    np.testing.assert_allclose(values, [0.5, 0.3125, 0.125, 0.125, 0.125], rtol=1e-6)
    slope = jax.grad(lambda peak: schedules.cosine_annealing(peak, 10, 0.1)(5))(0.0)
    np.testing.assert_allclose(slope, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("first_period", "period_factor", "restarts"),
    [
        (10, 2.264, [10, 33, 84, 200]),  # those of the paper's comparison with SGDR
        (10, 2, [10, 30, 70, 150, 310]),
        (10, 1, [10, 20, 30, 40]),
        (1, 1.5, [1, 3, 5, 8, 13]),  # 1, 2.5, 4.75, 8.125, 13.1875 before rounding
    ],
)
def test_warm_restarts_begin_exactly_at_the_peak(first_period, period_factor, restarts):
    schedule = jax.jit(schedules.warm_restarts(0.5, first_period, period_factor, end_value=0.1))
    steps = np.arange(restarts[-1] + 1)
    values = np.array([float(schedule(jnp.int32(t))) for t in steps])
    np.testing.assert_array_equal(np.flatnonzero(values == 0.5), [0, *restarts])
    inside = np.setdiff1d(steps[1:], restarts)
    assert np.all(values[inside] < values[inside - 1])


def test_warm_restarts_far_from_zero():
    schedule = jax.jit(schedules.warm_restarts(1.0, 1, 2.0))
    restart = 2**30 - 1
    assert float(schedule(jnp.int32(restart))) == 1.0
    assert float(schedule(jnp.int32(restart - 1))) < 1e-6
    np.testing.assert_allclose(schedule(jnp.int32(restart + 2**29)), 0.5, rtol=1e-5)
    constant = jax.jit(schedules.warm_restarts(1.0, 3))
    values = [float(constant(jnp.int32(3 * 100 * LONG + t))) for t in range(4)]
    np.testing.assert_allclose(values, [1.0, 0.75, 0.25, 1.0], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("end_value", [0.0, 0.1])
def test_warmup_cosine_is_that_of_optax(warmup, end_value, x64):
    steps = jnp.arange(13)
    for init_value, peak_value in ((0.0, 0.5), (0.2, 0.5), (0.5, 0.2)):
        ours = schedules.warmup_cosine(peak_value, warmup, 10, init_value, end_value)
        theirs = optax.warmup_cosine_decay_schedule(init_value, peak_value, warmup, 10, end_value)
        np.testing.assert_allclose(ours(steps), theirs(steps), rtol=1e-6, atol=1e-8)
        assert ours(warmup) == peak_value
        assert ours(10) == ours(FAR) == end_value


def test_warmup_cosine_may_have_peak_zero_and_traced_lengths_of_zero():
    def value(warmup, num_steps, step):
        return jax.jit(lambda w, n: schedules.warmup_cosine(0.5, w, n)(step))(warmup, num_steps)

    assert [value(0, 1, t) for t in (0, 1, 2)] == [0.5, 0.0, 0.0]
    slope = jax.grad(lambda peak: schedules.warmup_cosine(peak, 2, 10, 0.3, 0.1)(6))(0.0)
    np.testing.assert_allclose(slope, 0.5, rtol=1e-6)
    slopes = jax.grad(lambda w: schedules.warmup_cosine(0.5, w, 10.0)(4))(0.0)
    assert jnp.isfinite(slopes)


def test_corners_have_the_mean_of_both_slopes_in_a_number_of_steps(x64):
    """As central differences have it."""

    def value(warmup):
        return schedules.warmup_stable_decay(0.5, warmup, 3.0, 4.0)(6)

    difference = (value(6.0 + 1e-6) - value(6.0 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(value)(6.0), difference, rtol=1e-5)


def test_warmup_stable_decay_without_warmup_or_plateau():
    schedule = schedules.warmup_stable_decay(1.0, 0, 0, 4)
    values = [float(schedule(t)) for t in (0, 1, 4, 5, FAR)]
    assert values == [1.0, 0.75, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: schedules.step_decay(0.1, 0.5, 0), "interval"),
        (lambda: schedules.triangular(0.1, 0.5, 0), "half_period"),
        (lambda: schedules.cosine_annealing(0.1, 0), "num_steps"),
        (lambda: schedules.warm_restarts(0.1, 0), "first_period"),
        (lambda: schedules.warm_restarts(0.1, 10, 0.5), "period_factor"),
        (lambda: schedules.warm_restarts(0.1, 10, 1.0000001), "period_factor"),
        (lambda: schedules.warmup_cosine(0.1, -1, 10), "warmup_steps"),
        (lambda: schedules.warmup_cosine(0.1, 0, 0), "num_steps"),
        (lambda: schedules.warmup_stable_decay(0.1, -1, 1, 1), "warmup_steps"),
        (lambda: schedules.warmup_stable_decay(0.1, 1, -1, 1), "stable_steps"),
        (lambda: schedules.warmup_stable_decay(0.1, 1, 1, 0), "decay_steps"),
    ],
)
def test_static_mistakes_are_named(build, name):
    with pytest.raises(ValueError, match=f"^{name} must be at least"):
        build()


def test_warmup_cosine_that_would_not_fall():
    with pytest.raises(ValueError, match="num_steps must be more than warmup_steps, got 5 and 5"):
        schedules.warmup_cosine(0.1, 5, 5)


def test_the_restarts_are_static():
    build = lambda period, factor: schedules.warm_restarts(0.1, period, factor)(3)
    with pytest.raises(TypeError, match="first_period must be static"):
        jax.jit(build)(10, 2.0)
    with pytest.raises(TypeError, match="period_factor must be static"):
        jax.jit(lambda factor: build(10, factor))(2.0)


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_in_place_of_a_number_is_named(name):
    factory, values = CASES[name]
    for key in values:
        with pytest.raises(TypeError, match=f"^{key} must be a number, got .*multiply two sched"):
            factory(**{**values, key: optax.constant_schedule(0.1)})


def test_hypergradient_of_the_peak_of_a_cosine(x64):
    """The peak as a hyperparameter, through twenty steps of training."""

    def final_loss(peak):
        tx = optax.sgd(schedules.cosine_annealing(peak, 20), momentum=0.9)
        curvature = jnp.array([1.0, 0.1])

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(curvature * params, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.array([1.0, -1.0])
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), None, length=20)
        return 0.5 * jnp.sum(curvature * params**2)

    loss, h = jax.jit(final_loss), 1e-6
    expected = (loss(0.1 + h) - loss(0.1 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(final_loss)(0.1), expected, rtol=1e-7)
    np.testing.assert_allclose(jax.jvp(final_loss, (0.1,), (1.0,))[1], expected, rtol=1e-7)
