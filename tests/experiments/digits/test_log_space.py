"""The rule of LRS-OPT: steps in log space, smoothed and of bounded length."""

import jax.numpy as jnp
import numpy as np
import optax

from hyperlr.experiments.digits import log_space


def test_log_space_multiplies():
    rule = log_space.log_space(optax.sgd(0.5))
    schedule, gradient = jnp.array([0.1, 2.0]), jnp.array([3.0, -1.0])
    updates, _ = rule.update(gradient, rule.init(schedule), schedule)
    # d f / d log η = η d f / d η
    expected = np.array([0.1, 2.0]) * np.exp(-0.5 * np.array([0.1 * 3.0, -2.0]))
    np.testing.assert_allclose(optax.apply_updates(schedule, updates), expected, rtol=1e-6)


def test_smoothing_is_a_moving_average():
    values = np.random.default_rng(0).random(9).astype(np.float32)
    padded = np.concatenate([values[:1]] * 2 + [values] + [values[-1:]] * 2)
    expected = [padded[t : t + 5].mean() for t in range(9)]
    np.testing.assert_allclose(log_space.smooth(jnp.asarray(values), 5), expected, rtol=1e-5)
    np.testing.assert_array_equal(log_space.smooth(jnp.asarray(values), 1), values)


def test_rule_goes_no_further_than_its_distance():
    for num_iterations, expected in ((40, 2.0), (4, 1.25)):  # 4 steps of at most a half
        rule = log_space.smoothed_log_adam(2.0, num_iterations, width=1)
        schedule = jnp.array([0.1])
        state = rule.init(schedule)
        for _ in range(num_iterations):
            updates, state = rule.update(jnp.array([-1.0]), state, schedule)
            schedule = optax.apply_updates(schedule, updates)
        np.testing.assert_allclose(np.log(schedule[0] / 0.1), expected, rtol=0.03)


def test_rule_takes_steps_of_the_same_length_whatever_the_units():
    moved = []
    for scale in (1.0, 1e6):
        rule = log_space.smoothed_log_adam(1.0, num_iterations=10, width=1)
        schedule = jnp.array([0.1, 0.2, 0.3])
        updates, _ = rule.update(scale * jnp.array([1.0, -1.0, 2.0]), rule.init(schedule), schedule)
        moved.append(np.log(optax.apply_updates(schedule, updates) / schedule))
    np.testing.assert_allclose(moved[0], [-0.2, 0.2, -0.2], rtol=1e-4)
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-5)
