"""Hypergradients of whole schedules."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import INNER, mlp_loss
from problems.schedules import assert_trees_close, mlp_problem

import hyperlr


def plain_loop(inner, params, schedule, batches, loss_fn=mlp_loss):
    """T steps of optax as anyone would write them: no scan, no chunks, nothing of the library."""
    state = inner(**{name: values[0] for name, values in schedule.items()}).init(params)
    losses = []
    for t in range(len(next(iter(schedule.values())))):
        tx = inner(**{name: values[t] for name, values in schedule.items()})
        batch = jax.tree.map(lambda x: x[t], batches)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    return params, jnp.stack(losses)


def compiled(inner, params, batches, objective, **options):
    """The hypergradient as a jitted function of the schedule."""
    return jax.jit(
        lambda schedule: hyperlr.schedule_hypergradient(
            inner, params, schedule, batches, mlp_loss, objective, **options
        )
    )


def assert_central_differences(found, objective_of, schedule, steps):
    """``found`` against (f(η + h) − f(η − h)) / 2h at some steps of every array of a dict."""
    h = 1e-5
    for name, t in itertools.product(schedule, steps):
        up, down = (objective_of(schedule | {name: schedule[name].at[t].add(s)}) for s in (h, -h))
        np.testing.assert_allclose(
            found[name][t], (up - down) / (2 * h), rtol=1e-6, atol=1e-10, err_msg=f"{name} {t}"
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "chain"])
def test_both_modes_are_the_gradient_of_a_plain_loop(name):
    params, batches, objective, schedule = mlp_problem(7)
    inner = INNER[name]

    def final_value(schedule):
        final, losses = plain_loop(inner, params, {"learning_rate": schedule}, batches)
        return objective(final), (final, losses)

    (value, trained), expected = jax.value_and_grad(final_value, has_aux=True)(schedule)
    assert np.abs(expected).min() > 1e-6
    for options in ({}, {"checkpointing": "none"}, {"mode": "forward"}):
        found = compiled(inner, params, batches, objective, **options)(schedule)
        assert_trees_close(found, (value, expected), rtol=1e-10, atol=1e-13)
    unroll = jax.jit(
        functools.partial(hyperlr.unroll, inner, params, loss_fn=mlp_loss, checkpointing="none")
    )
    assert_trees_close(unroll(schedule, batches), trained, rtol=1e-12, atol=1e-14)
    assert_central_differences(
        {"learning_rate": expected},
        lambda schedule: objective(unroll(schedule["learning_rate"], batches)[0]),
        {"learning_rate": schedule},
        (0, 3, 6),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_steps", [1, 2, 8, 13])
def test_any_number_of_steps_whether_chunks_divide_it_or_not(num_steps):
    params, batches, objective, schedule = mlp_problem(num_steps)
    found, expected = (
        compiled(INNER["chain"], params, batches, objective, checkpointing=checkpointing)(schedule)
        for checkpointing in ("chunk", "none")
    )
    assert_trees_close(found, expected, rtol=1e-10, atol=1e-13)
    found, expected = (
        hyperlr.unroll(optax.sgd, params, schedule, batches, mlp_loss, checkpointing=checkpointing)
        for checkpointing in ("chunk", "none")
    )
    assert_trees_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_every_hyperparameter_of_a_dict_has_its_hypergradient():
    params, batches, objective, rates = mlp_problem(7)

    def inner(learning_rate, momentum, weight_decay):
        return optax.chain(
            optax.clip_by_global_norm(0.5),
            optax.add_decayed_weights(weight_decay),
            optax.sgd(learning_rate, momentum=momentum),
        )

    schedule = {
        "weight_decay": jnp.full(7, 0.01),
        "learning_rate": rates,
        "momentum": jnp.linspace(0.5, 0.9, 7),
    }
    reverse = compiled(inner, params, batches, objective)
    forward = compiled(inner, params, batches, objective, mode="forward")
    value, found = reverse(schedule)
    assert_trees_close(forward(schedule), (value, found), rtol=1e-10, atol=1e-13)
    assert_central_differences(found, lambda s: reverse(s)[0], schedule, (0, 3, 6))
    assert found["momentum"][0] == 0  # no past yet
    mixed = schedule | {"weight_decay": schedule["weight_decay"].astype(jnp.float32)}
    for hypergradient in (reverse, forward):
        found_mixed = hypergradient(mixed)[1]
        assert found_mixed["weight_decay"].dtype == jnp.float32
        assert found_mixed["momentum"].dtype == jnp.float64
        assert_trees_close(found_mixed, found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_bfloat16_params_and_schedule_keep_their_types(mode):
    params, batches, _, schedule = mlp_problem(7, jnp.bfloat16)
    batches = jax.tree.map(lambda x: x.astype(jnp.bfloat16), batches)
    objective = functools.partial(mlp_loss, batch=jax.tree.map(lambda x: x[0], batches))
    inner = INNER["momentum"]
    final, _ = hyperlr.unroll(inner, params, schedule, batches, mlp_loss)
    assert jax.tree.map(jnp.result_type, final) == jax.tree.map(jnp.result_type, params)
    hypergradient = compiled(inner, params, batches, objective, mode=mode)
    _, found = hypergradient(schedule.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    assert np.isfinite(found.astype(np.float32)).all()


def test_hyperparameters_reach_the_optimizer_as_traced_scalars_of_float32():
    seen = []

    def inner(learning_rate):
        seen.append((learning_rate.shape, learning_rate.dtype, learning_rate.weak_type))
        return optax.sgd(learning_rate)

    params, batches, _, schedule = mlp_problem(3)
    hyperlr.unroll(inner, params, schedule.astype(jnp.bfloat16), batches, mlp_loss)
    assert set(seen) == {((), jnp.dtype("float32"), False)}


def test_batches_may_be_indices_and_an_optimizer_may_use_the_value():
    params, (x, y), objective, schedule = mlp_problem(5)
    data = (x.reshape(-1, 4), y.reshape(-1, 3))
    indices = jnp.arange(30).reshape(5, 6)

    def indexed_loss(params, index):
        return mlp_loss(params, jax.tree.map(lambda a: a[index], data))

    def inner(learning_rate):
        return optax.chain(optax.polyak_sgd(0.1), optax.sgd(learning_rate))

    found = hyperlr.schedule_hypergradient(
        inner, params, schedule, indices, indexed_loss, objective
    )
    expected = hyperlr.schedule_hypergradient(
        inner, params, schedule, (x, y), mlp_loss, objective, checkpointing="none"
    )
    assert_trees_close(found, expected, rtol=1e-4, atol=1e-7)


def chained(inner):
    return lambda learning_rate, momentum: optax.chain(
        optax.identity(), inner(learning_rate, momentum=momentum)
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("wrap", [lambda inner: inner, chained])
def test_an_injected_factory_is_the_factory(wrap):
    """``optax.inject_hyperparams`` reads its hyperparameters from its state, as they first were."""
    params, batches, objective, schedule = mlp_problem(5)
    momentum = functools.partial(optax.sgd, momentum=0.9)
    value, expected = compiled(momentum, params, batches, objective)(schedule)
    injected = wrap(optax.inject_hyperparams(optax.sgd))
    for mode in ("reverse", "forward"):
        found = compiled(
            lambda learning_rate: injected(learning_rate, momentum=0.9),
            params,
            batches,
            objective,
            mode=mode,
        )(schedule)
        assert_trees_close(found, (value, expected), rtol=1e-6)


def test_vmap_over_schedules_and_weights():
    params, batches, objective, schedule = mlp_problem(7)
    schedules = jnp.stack([schedule, 2 * schedule])
    lanes = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), params)

    def hypergradient(params, schedule):
        return hyperlr.schedule_hypergradient(
            INNER["momentum"], params, schedule, batches, mlp_loss, objective
        )

    found = jax.jit(jax.vmap(hypergradient))(lanes, schedules)
    for i in range(2):
        expected = hypergradient(jax.tree.map(lambda x: x[i], lanes), schedules[i])
        assert_trees_close(jax.tree.map(lambda x: x[i], found), expected, rtol=1e-4, atol=1e-6)
