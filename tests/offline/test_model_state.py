"""Running statistics through a whole run: unroll, hypergradients and the search of a schedule."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import INNER
from problems.schedules import assert_trees_close

import hyperlr

T = 5  # chunks of two steps, and one left over
KEYS = jax.random.split(jax.random.key(0), 4)
SCHEDULE = np.linspace(0.05, 0.3, T)


def problem():
    """A normalized network: its parameters, statistics and data, in the default dtype."""
    return (
        {"a": 0.5 * jax.random.normal(KEYS[0], (3, 4)), "b": jnp.linspace(-0.5, 0.5, 4)},
        {"mean": jnp.zeros(4), "var": jnp.ones(4), "steps": jnp.int32(0)},
        3.0 + 2.0 * jax.random.normal(KEYS[1], (T, 8, 3)),
    )


def network(w, mean, var, x):
    hidden = jnp.tanh((x @ w["a"] - mean[None]) / jnp.sqrt(var + 1e-5)[None])
    return jnp.mean((hidden @ w["b"] - jnp.sin(x[:, 0])) ** 2)


def loss_fn(w, stats, x):
    """Normalizes by the minibatch, and moves the running statistics and their counter."""
    h = x @ w["a"]
    moved = {
        "mean": 0.7 * stats["mean"] + 0.3 * h.mean(0),
        "var": 0.7 * stats["var"] + 0.3 * h.var(0),
        "steps": stats["steps"] + 1,
    }
    return network(w, h.mean(0), h.var(0), x), moved


def objective_fn(w, stats):
    x = 3.0 + 2.0 * jax.random.normal(KEYS[2], (16, 3))
    return network(w, stats["mean"], stats["var"], x)


def plain_loop(inner, schedule, loss_fn=loss_fn):
    """As anyone would write it: no scan, nothing of the library."""
    w, stats, batches = problem()
    state, losses = inner(schedule[0]).init(w), []
    for rate, x in zip(schedule, batches, strict=True):
        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(w, stats, x)
        updates, state = inner(rate).update(grads, state, w)
        w = optax.apply_updates(w, updates)
        losses.append(loss)
    return w, jnp.stack(losses), stats


@pytest.mark.usefixtures("x64")
def test_value_and_hypergradient_are_those_of_a_plain_loop():
    inner, (w, stats, batches) = INNER["adam"], problem()

    @jax.jit
    def final(schedule):
        trained = plain_loop(inner, schedule)
        return objective_fn(trained[0], trained[2]), trained

    value, expected = final(SCHEDULE)
    h = 1e-6
    differences = np.array(
        [(final(SCHEDULE + h * e)[0] - final(SCHEDULE - h * e)[0]) / (2 * h) for e in np.eye(T)]
    )
    for options in ({}, {"checkpointing": "none"}, {"mode": "forward"}):
        found = jax.jit(
            lambda schedule, options=options: hyperlr.schedule_hypergradient(
                inner, w, schedule, batches, loss_fn, objective_fn, model_state=stats, **options
            )
        )(SCHEDULE)
        np.testing.assert_allclose(found[0], value, rtol=1e-12)
        np.testing.assert_allclose(found[1], differences, rtol=1e-6, atol=1e-9)
    for checkpointing in ("chunk", "none"):
        found = hyperlr.unroll(
            inner,
            w,
            jnp.asarray(SCHEDULE),
            batches,
            loss_fn,
            model_state=stats,
            checkpointing=checkpointing,
        )
        assert found[2]["steps"] == T
        chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
        assert_trees_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_the_last_statistics_count_and_not_only_through_the_weights():
    """What E is at the first statistics, and its gradient without what goes through them."""
    w, stats, batches = problem()

    def hypergradient(objective_fn):
        return hyperlr.schedule_hypergradient(
            optax.sgd,
            w,
            SCHEDULE,
            batches,
            loss_fn,
            objective_fn,
            model_state=stats,
            checkpointing="none",
        )

    value, found = hypergradient(objective_fn)
    first, _ = hypergradient(lambda w, _: objective_fn(w, stats))
    same, stopped = hypergradient(lambda w, s: objective_fn(w, jax.lax.stop_gradient(s)))
    assert abs(first / value - 1) > 0.01
    np.testing.assert_allclose(same, value, rtol=1e-12)
    assert np.abs(stopped - found).max() > 0.01 * np.abs(found).max()


def test_optimize_schedule_starts_every_iteration_from_the_same_statistics():
    w, stats, batches = problem()
    options = {"optimizer": optax.sgd(0.1), "key": jax.random.key(1), "model_state": stats}
    result = hyperlr.optimize_schedule(
        INNER["sgd"],
        w,
        jnp.asarray(SCHEDULE, jnp.float32),
        lambda key: batches[jax.random.permutation(key, T)],
        loss_fn,
        objective_fn,
        num_iterations=3,
        **options,
    )
    schedule = jnp.asarray(SCHEDULE, jnp.float32)
    hypergradient_of = jax.jit(
        lambda schedule, batches: hyperlr.schedule_hypergradient(
            INNER["sgd"], w, schedule, batches, loss_fn, objective_fn, model_state=stats
        )
    )
    for i in range(3):
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(1), i), T)
        value, hypergradient = hypergradient_of(schedule, batches[order])
        np.testing.assert_allclose(result.values[i], value, rtol=1e-5)
        schedule = jnp.maximum(schedule - 0.1 * hypergradient, 0)
    np.testing.assert_allclose(result.state.schedule, schedule, rtol=1e-4)


def test_an_optimizer_that_uses_the_loss_sees_that_of_its_own_step():
    """``value`` and ``value_fn`` are those of the statistics that the step begins with."""
    w, _, batches = problem()
    seen = []

    def inner(learning_rate):
        def update(updates, state, params, *, value, value_fn, **others):
            jax.debug.callback(lambda *pair: seen.append(pair), value, value_fn(params))
            return optax.tree.scale(learning_rate, updates), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    def lagging_loss(w, count, x):
        return network(w, x.mean(0) @ w["a"], jnp.ones(4), x) + count, count + 1

    _, losses, count = hyperlr.unroll(
        inner, w, jnp.ones(T), batches, lagging_loss, model_state=jnp.float32(0.0)
    )
    jax.effects_barrier()
    assert count == T
    np.testing.assert_allclose([value for value, _ in seen], losses, rtol=1e-6)
    np.testing.assert_allclose([again for _, again in seen], losses, rtol=1e-6)


def test_the_types_of_the_state_stay():
    w, stats, batches = problem()
    stats = {**stats, "mean": stats["mean"].astype(jnp.bfloat16), "key": jax.random.key(3)}

    def loss(w, stats, x):
        value, moved = loss_fn(w, {**stats, "mean": stats["mean"].astype(jnp.float32)}, x)
        return value, {**moved, "key": jax.random.split(stats["key"])[0]}

    *_, found = hyperlr.unroll(
        optax.sgd, w, jnp.asarray(SCHEDULE), batches, loss, model_state=stats
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(found, stats)
    found = hyperlr.schedule_hypergradient(
        optax.sgd,
        w,
        jnp.asarray(SCHEDULE),
        batches,
        loss,
        lambda w, s: objective_fn(w, {**s, "mean": s["mean"].astype(jnp.float32)}),
        model_state=stats,
    )
    chex.assert_tree_all_finite(found)


def test_an_empty_state_is_a_state():
    w, _, batches = problem()
    found = hyperlr.unroll(
        optax.sgd,
        w,
        jnp.asarray(SCHEDULE),
        batches,
        lambda w, state, x: (jnp.sum(w["b"] ** 2), state),
        model_state={},
    )
    assert found[2] == {}


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda w, s, x: loss_fn(w, s, x)[0], TypeError, "must return a pair, the loss and the"),
        (lambda w, s, x: (s, loss_fn(w, s, x)[0]), TypeError, "loss_fn must return a scalar"),
        (
            lambda w, s, x: (loss_fn(w, s, x)[0], {"mean": s["mean"]}),
            ValueError,
            "the model_state that loss_fn returns must have the tree structure",
        ),
        (
            lambda w, s, x: (loss_fn(w, s, x)[0], {**s, "var": s["var"][:2]}),
            ValueError,
            r"the model_state that loss_fn returns\['var'\] has shape \(2,\)",
        ),
    ],
)
def test_losses_that_cannot_be_used(loss, error, message):
    w, stats, batches = problem()
    with pytest.raises(error, match=message):
        hyperlr.unroll(optax.sgd, w, jnp.asarray(SCHEDULE), batches, loss, model_state=stats)


def test_without_model_state_a_pair_is_an_error_that_names_it():
    w, stats, batches = problem()
    with pytest.raises(TypeError, match="pass model_state= with its first value"):
        hyperlr.unroll(
            optax.sgd, w, jnp.asarray(SCHEDULE), batches, lambda w, x: loss_fn(w, stats, x)
        )
