"""Special cases that must coincide, and what dtypes keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import INNER, mlp_batches, mlp_loss, mlp_params, train

import hyperlr


def run(tx, steps=12):
    batches = mlp_batches(jax.random.key(1), steps)
    val = mlp_batches(jax.random.key(2), steps)
    return train(tx, mlp_params(jax.random.key(0)), batches, mlp_loss, val)


def assert_same(actual, expected, rtol=1e-10):
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-13)
    jax.tree.map(compare, actual, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", INNER)
def test_without_hyper_steps_training_is_the_inner_optimizer(name):
    params, state, _ = run(hyperlr.rtho(INNER[name], 0.05, 0.0))
    tx = INNER[name](0.05)

    def step(carry, batch):
        w, inner_state = carry
        updates, inner_state = tx.update(jax.grad(mlp_loss)(w, batch), inner_state, w)
        return (optax.apply_updates(w, updates), inner_state), None

    w = mlp_params(jax.random.key(0))
    batches = mlp_batches(jax.random.key(1), 12)
    (w, inner_state), _ = jax.jit(functools.partial(jax.lax.scan, step))((w, tx.init(w)), batches)
    assert_same((params, state.inner_state), (w, inner_state))


@pytest.mark.usefixtures("x64")
def test_marthe_without_discounting_is_rtho_and_without_memory_hd():
    momentum = INNER["momentum"]
    *_, hd = run(hyperlr.hd(momentum, 0.05, 1e-2))
    *_, rtho = run(hyperlr.rtho(momentum, 0.05, 1e-2))
    fixed = functools.partial(hyperlr.marthe, momentum, 0.05, hyper_learning_rate=1e-2)
    assert_same(run(fixed(discount=0.0))[2], hd)
    assert_same(run(fixed(discount=1.0))[2], rtho)
    # A traced discount takes the general path, with the Hessian-vector product, even at 0.
    traced = jax.jit(lambda mu: run(fixed(discount=mu))[2])
    assert_same(traced(0.0), hd)
    assert_same(traced(1.0), rtho)
    assert not np.allclose(hd["learning_rate"], rtho["learning_rate"])


@pytest.mark.usefixtures("x64")
def test_validation_gradient_defaults_to_the_training_one():
    tx = hyperlr.marthe(INNER["sgd"], 0.05, meta_learning_rate=1e-3)
    params = mlp_params(jax.random.key(0))
    batches = mlp_batches(jax.random.key(1), 12)
    *_, default = train(tx, params, batches, mlp_loss)
    *_, explicit = train(tx, params, batches, mlp_loss, batches)
    assert_same(default, explicit)


def test_hyperparameters_have_tangents_of_their_own():
    """Two at once give the hypergradients that each gives alone."""

    def one(name, value):
        fixed = {"learning_rate": 0.05, "momentum": 0.5}
        inner = functools.partial(optax.sgd, **{n: v for n, v in fixed.items() if n != name})
        rule = hyperlr.adaptive_sgd(0.0)
        tx = hyperlr.online(inner, {name: value}, discount=0.9, hyper_optimizer=rule)
        return run(tx)[2]["hypergradient"]

    tx = hyperlr.online(
        optax.sgd,
        {"learning_rate": 0.05, "momentum": 0.5},
        discount=0.9,
        hyper_optimizer=hyperlr.adaptive_sgd(0.0),
    )
    *_, both = run(tx)
    for name, value in {"learning_rate": 0.05, "momentum": 0.5}.items():
        np.testing.assert_allclose(
            both[f"hypergradient/{name}"], one(name, value), rtol=2e-4, atol=1e-6
        )


def test_bounds_are_kept():
    rule = optax.sgd(10.0)
    tx = hyperlr.online(
        optax.sgd,
        {"learning_rate": 0.05, "momentum": 0.5},
        hyper_optimizer=rule,
        bounds={"momentum": (0.4, 0.6), "learning_rate": (0.01, 0.06)},
    )
    *_, record = run(tx)
    for name, (lower, upper) in {"learning_rate": (0.01, 0.06), "momentum": (0.4, 0.6)}.items():
        values = record[name]
        lower, upper = np.float32(lower), np.float32(upper)
        assert np.all((values >= lower) & (values <= upper))
        assert np.any((values == lower) | (values == upper))


def test_learning_rate_stops_at_zero_and_can_leave_it():
    """E = Σ e·w with e that changes sign: HD on SGD, Δη = −⟨g, e⟩."""
    tx = hyperlr.hd(optax.sgd, 0.1, 1.0)
    w = jnp.ones(2)
    state = tx.init(w)
    rates = []
    for sign in (1.0, -1.0, -1.0, 1.0):
        _, state = tx.update(jnp.ones(2), state, w, val_grad=sign * jnp.ones(2))
        rates.append(float(hyperlr.metrics(state)["learning_rate"]))
    np.testing.assert_allclose(rates, [0.1, 0.0, 0.0, 2.0], rtol=1e-6)


def test_first_update_leaves_hyperparameters_and_their_optimizer_alone():
    rule = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0, momentum=0.9))
    tx = hyperlr.online(optax.sgd, {"learning_rate": 0.1}, discount=0.0, hyper_optimizer=rule)
    w = jnp.ones(2)
    initial = tx.init(w)
    _, state = tx.update(w, initial, w)
    assert state.hyperparams == initial.hyperparams
    jax.tree.map(np.testing.assert_array_equal, state.hyper_state, initial.hyper_state)
    _, state = tx.update(w, state, w)
    assert state.hyperparams != initial.hyperparams


def test_scale_free_rule_does_not_see_units():
    """Loss times a and parameters times b, with η_0 to match: the same schedule, scaled."""
    loss_scale, params_scale = 1e3, 1e-2
    batches = mlp_batches(jax.random.key(1), 12)
    params = mlp_params(jax.random.key(0))

    def schedule(rate, a, b):
        rule = hyperlr.exponentiated_gradient(0.2)
        tx = hyperlr.marthe(optax.sgd, rate, discount=0.99, hyper_optimizer=rule)
        scaled = jax.tree.map(lambda x: b * x, params)
        loss = lambda p, batch: a * mlp_loss(jax.tree.map(lambda x: x / b, p), batch)
        return train(tx, scaled, batches, loss)[2]["learning_rate"]

    plain = schedule(0.01, 1.0, 1.0)
    rescaled = schedule(0.01 * params_scale**2 / loss_scale, loss_scale, params_scale)
    np.testing.assert_allclose(rescaled / params_scale**2 * loss_scale, plain, rtol=1e-4)
    assert plain[-1] > 2 * plain[0]


def test_scale_free_rule_survives_extreme_norms():
    """‖Z‖‖e‖ overflows or underflows float32 here, while the cosine is an ordinary number."""
    rule = hyperlr.exponentiated_gradient(0.2)
    rate = {"learning_rate": jnp.array(0.5)}
    state = rule.init(rate)
    for size in (1e-25, 1.0, 1e25):
        steps, _ = rule.update(
            {"learning_rate": jnp.array(-size)},
            state,
            rate,
            tangent_norm={"learning_rate": jnp.array(size)},
            objective_norm=jnp.array(1.0),
        )
        np.testing.assert_allclose(steps["learning_rate"], 0.5 * np.expm1(0.2), rtol=1e-6)
    for norm in (0.0, 1.0):
        steps, _ = rule.update(
            {"learning_rate": jnp.array(0.0)},
            state,
            rate,
            tangent_norm={"learning_rate": jnp.array(norm)},
            objective_norm=jnp.array(0.0),
        )
        assert steps["learning_rate"] == 0.0


def test_bfloat16_parameters_do_not_coarsen_what_is_learned():
    """Steps of η far below bfloat16's spacing add up, and inner products do not saturate."""
    size, steps = 4099, 6  # 4099 is no bfloat16 number
    w = jnp.ones(size, jnp.bfloat16)
    tx = hyperlr.hd(optax.sgd, 1.0, 1e-8)
    state = tx.init(w)
    for _ in range(steps):
        updates, state = tx.update(jnp.ones_like(w), state, w)
    scalars = hyperlr.metrics(state)
    assert updates.dtype == jnp.bfloat16
    # A bfloat16 sum of ones stops at 256; η moves by 4.1e-5 a step, and bfloat16 by 7.8e-3 at 1.
    assert float(scalars["hypergradient"]) == -size
    np.testing.assert_allclose(scalars["learning_rate"], 1 + (steps - 1) * size * 1e-8, rtol=1e-6)


def test_integer_state_and_none_pass_through():
    inner = lambda learning_rate: optax.chain(
        optax.trace(0.9), optax.scale_by_schedule(lambda n: 1.0 / (1 + n)), optax.sgd(learning_rate)
    )
    tx = hyperlr.rtho(inner, 0.1, 1e-3)
    params = {"w": jnp.ones(2), "none": None}
    state = tx.init(params)
    loss = lambda p: jnp.sum(p["w"] ** 2)
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
    assert updates["none"] is None
    assert state.inner_state[1].count == 3
    assert state.tangent["learning_rate"].inner_state[1].count is None


def test_metrics_of_several_states_are_told_apart():
    tx = optax.partition(
        {"a": hyperlr.hd(optax.sgd, 0.1, 1e-3), "b": hyperlr.hd(optax.sgd, 0.2, 1e-3)},
        {"x": "a", "y": "b"},
    )
    found = hyperlr.metrics(tx.init({"x": jnp.ones(1), "y": jnp.ones(1)}))
    rates = {key: float(x) for key, x in found.items() if key.endswith("/learning_rate")}
    assert sorted(rates.values()) == pytest.approx([0.1, 0.2])
    assert len(found) == 12
