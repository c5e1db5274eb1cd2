"""LRS-OPT: the rule, and the optimization of a schedule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import INNER
from problems.optimizers import by_logarithms
from problems.schedules import assert_trees_close, run, toy

import hyperlr
from hyperlr import offline


def test_lrs_opt_is_projected_descent():
    tx = hyperlr.lrs_opt(0.5)
    schedule = jnp.array([1.0, 1.0, 0.25, 0.0])
    hypergradient = jnp.array([0.5, 3.0, -1.0, 1.0])
    updates, _ = tx.update(hypergradient, tx.init(schedule), schedule)
    np.testing.assert_array_equal(updates, [-0.25, -1.0, 0.5, 0.0])
    moved = optax.apply_updates(schedule, updates)
    np.testing.assert_array_equal(moved, [0.75, 0.0, 0.75, 0.0])


def test_lrs_opt_projects_learning_rates_alone():
    tx = hyperlr.lrs_opt(1.0)
    schedule = {"learning_rate": jnp.array([0.1]), "shift": jnp.array([0.1])}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, schedule), tx.init(schedule), schedule)
    moved = optax.apply_updates(schedule, updates)
    np.testing.assert_allclose(moved["learning_rate"], 0.0)
    np.testing.assert_allclose(moved["shift"], -0.9)


@pytest.mark.usefixtures("x64")
def test_lrs_opt_never_ends_below_zero_by_rounding():
    key_x, key_g = jax.random.split(jax.random.key(0))
    schedule = jax.random.uniform(key_x, (10_000,), jnp.float32)
    gradient = schedule * (1 + 1e-6 * jax.random.normal(key_g, (10_000,)).astype(jnp.float32))
    updates, _ = hyperlr.lrs_opt(1.0).update(gradient, optax.EmptyState(), schedule)
    assert optax.apply_updates(schedule, updates).min() >= 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("optimizer", [hyperlr.lrs_opt(0.003), optax.adam(0.05)])
def test_optimize_schedule_is_the_loop_that_one_would_write(optimizer):
    params, schedule, sample_batches, loss_fn, objective = toy()
    evaluated, state, values = [], optimizer.init(schedule), []
    for i in range(6):
        batches = sample_batches(jax.random.fold_in(jax.random.key(0), i))
        value, hypergradient = hyperlr.schedule_hypergradient(
            INNER["momentum"], params, schedule, batches, loss_fn, objective
        )
        updates, state = optimizer.update(hypergradient, state, schedule)
        evaluated.append(schedule)
        values.append(value)
        schedule = jnp.maximum(optax.apply_updates(schedule, updates), 0)
    best = evaluated[np.argmin(values)]
    records = []
    for callback in (None, records.append):
        result = run(callback, optimizer=optimizer)
        np.testing.assert_allclose(result.schedule, best, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(result.state.schedule, schedule, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(result.values, values, rtol=1e-12)
        assert result.value == result.values.min()
        assert_trees_close(result.state.optimizer_state, state, rtol=1e-10, atol=1e-14)
        assert result.num_skipped == 0
        assert result.state.iteration == 6
    assert (result.state.schedule == 0).any() or not isinstance(state, optax.EmptyState)
    assert [r.iteration for r in records] == list(range(6))
    np.testing.assert_array_equal([r.value for r in records], result.values)
    np.testing.assert_array_equal(
        [r.hypergradient_norm for r in records], result.hypergradient_norms
    )
    assert_trees_close([r.schedule for r in records], evaluated, rtol=1e-12, atol=1e-14)
    assert not any(r.skipped for r in records)


def test_the_value_falls_from_the_schedule_of_an_online_method():
    params, _, sample_batches, loss_fn, objective = toy(20)
    batches = sample_batches(jax.random.key(1))
    tx = hyperlr.marthe(optax.sgd, 0.01, hyper_learning_rate=1e-4)

    def step(carry, batch):
        w, state = carry
        value_fn = functools.partial(loss_fn, x=batch)
        updates, state = tx.update(jax.grad(value_fn)(w), state, w, value_fn=value_fn)
        learning_rate = hyperlr.metrics(state)["learning_rate"]
        return (optax.apply_updates(w, updates), state), learning_rate

    (w, _), found = jax.lax.scan(step, (params, tx.init(params)), batches)
    result = run(
        num_steps=20,
        schedule=found,
        sample_batches=lambda key: batches,
        inner=optax.sgd,
        optimizer=optax.adam(0.01),
        num_iterations=15,
    )
    np.testing.assert_allclose(result.values[0], objective(w), rtol=1e-5)
    assert result.values[-1] < 0.9 * result.values[0]


def test_vmap_over_seeds_and_jit():
    keys = jax.random.split(jax.random.key(7), 3)
    found = jax.jit(jax.vmap(lambda key: run(key=key)))(keys)
    assert found.values.shape == (3, 6)
    for i, key in enumerate(keys):
        expected = run(key=key)
        np.testing.assert_allclose(found.schedule[i], expected.schedule, rtol=1e-5)
        np.testing.assert_allclose(found.values[i], expected.values, rtol=1e-5)
    assert not np.allclose(found.schedule[0], found.schedule[1], rtol=1e-3)


def test_outer_step_is_one_trace_and_keeps_its_types():
    params, schedule, *functions = toy()
    optimizer = optax.chain(optax.adam(0.02), optax.contrib.reduce_on_plateau())
    traces = []

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        traces.append(1)
        return offline.outer_step(
            optax.sgd, params, state, *functions, optimizer=optimizer, key=jax.random.key(0)
        )

    def types(state):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)

    state = offline.init_outer_state({"learning_rate": schedule}, optimizer)
    for _ in range(4):
        before = types(state)
        state, _ = step(state)
        assert types(state) == before
    assert len(traces) == 1


def test_a_callback_does_not_compile_the_step_again():
    traced = []

    def sample_batches(key):
        traced.append(1)
        return toy().sample_batches(key)

    run(lambda record: None, sample_batches=sample_batches)
    assert len(traced) == 1


def wrong_in(iterations, what):
    """Replaces parts of the toy, so that E, or ∇f alone, is NaN in some iterations of seed 0."""
    keys = jnp.stack([jax.random.fold_in(jax.random.key(0), i) for i in iterations])
    data = jax.random.key_data(keys)

    def sample_batches(key):
        wrong = jnp.any(jnp.all(data == jax.random.key_data(key)[None, :], axis=1))
        return toy().sample_batches(key), jnp.full((5,), wrong)

    def loss_fn(w, batch):
        x, wrong = batch
        if what == "value":
            return toy().loss_fn(w, x) * jnp.where(wrong, jnp.nan, 1.0)
        # Without a gradient in one variable the update has no derivative there, but a value.
        return toy().loss_fn(w * jnp.where(wrong, jnp.array([1.0, 1.0, 0.0]), 1.0), x)

    inner = INNER["momentum"] if what == "value" else by_logarithms
    return {"inner": inner, "sample_batches": sample_batches, "loss_fn": loss_fn}


@pytest.mark.parametrize("with_callback", [False, True])
@pytest.mark.parametrize("what", ["value", "gradient"])
def test_what_is_not_finite_is_skipped_counted_and_reported(what, with_callback):
    records = []
    callback = records.append if with_callback else None
    with pytest.warns(RuntimeWarning, match="2 of 5 outer iterations were skipped"):
        result = run(callback, num_iterations=5, **wrong_in((1, 3), what))
    assert result.num_skipped == 2
    assert np.isfinite(result.schedule).all()
    assert result.value == np.nanmin(result.values)
    assert result.state.iteration == 5
    assert result.state.optimizer_state[0].count == 3
    np.testing.assert_array_equal(np.isfinite(result.hypergradient_norms), [1, 0, 1, 0, 1])
    expected = [1, 0, 1, 0, 1] if what == "value" else [1, 1, 1, 1, 1]
    np.testing.assert_array_equal(np.isfinite(result.values), expected)
    if with_callback:
        assert [r.skipped for r in records] == [False, True, False, True, False]
        assert [r.num_skipped for r in records] == [0, 1, 1, 2, 2]
        np.testing.assert_array_equal(records[1].schedule, records[2].schedule)
        assert not np.array_equal(records[2].schedule, records[3].schedule)


def test_an_optimizer_that_hides_nan_does_not_get_to_see_it():
    optimizer = optax.chain(optax.zero_nans(), optax.sgd(1e-3))
    with pytest.warns(RuntimeWarning, match="2 of 5 outer iterations were skipped"):
        run(num_iterations=5, optimizer=optimizer, **wrong_in((1, 3), "gradient"))


def test_a_schedule_that_would_overflow_is_not_taken():
    with pytest.warns(RuntimeWarning, match="3 of 3 outer iterations were skipped"):
        result = run(num_iterations=3, optimizer=optax.scale(-float("inf")))
    np.testing.assert_array_equal(result.schedule, toy().schedule)
    assert np.isfinite(result.hypergradient_norms).all()


@pytest.mark.parametrize("with_callback", [False, True])
def test_the_best_schedule_is_kept_and_the_last_one_is_in_the_state(with_callback):
    """The last but one of six values is the least."""
    records = []
    callback = records.append if with_callback else None
    result = run(callback, inner=optax.sgd, optimizer=optax.sgd(0.02), num_steps=3)
    best = int(np.argmin(result.values))
    assert best == 4
    assert result.value == result.values[best] < result.values[0]
    assert not np.array_equal(result.schedule, result.state.schedule)
    found = hyperlr.schedule_hypergradient(
        optax.sgd,
        toy(3).params,
        result.schedule,
        toy(3).sample_batches(jax.random.fold_in(jax.random.key(0), best)),
        toy(3).loss_fn,
        toy(3).objective_fn,
    )[0]
    np.testing.assert_allclose(result.value, found, rtol=1e-6)
    if with_callback:
        np.testing.assert_array_equal(result.schedule, records[best].schedule)


def test_without_a_finite_value_the_first_schedule_comes_back():
    with pytest.warns(RuntimeWarning, match="3 of 3"):
        result = run(num_iterations=3, objective_fn=lambda w: jnp.nan * w[0])
    np.testing.assert_array_equal(result.schedule, toy().schedule)
    assert result.value == jnp.finfo(jnp.float32).max


@pytest.mark.parametrize("answer", [True, np.True_, jnp.array(True)])
def test_a_callback_that_returns_true_ends_the_run(answer):
    whole = run(lambda record: None)
    result = run(lambda record: answer if record.iteration == 2 else None)
    assert result.state.iteration == 3
    np.testing.assert_array_equal(result.values, whole.values[:3])
    assert result.value == whole.values[:3].min()


@pytest.mark.parametrize("answer", [False, 17, "yes", [1], np.False_, jnp.array(1.0), np.zeros(2)])
def test_nothing_else_that_a_callback_returns_ends_it(answer):
    assert run(lambda record: answer, num_iterations=2).state.iteration == 2


def test_no_warning_and_no_failure_where_the_count_is_traced():
    options = wrong_in((1,), "value")
    assert jax.jit(lambda key: run(key=key, **options).num_skipped)(jax.random.key(0)) == 1
