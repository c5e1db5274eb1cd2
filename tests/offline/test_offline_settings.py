"""The offline half whatever JAX is set to: the search for NaN and ∞, strict promotion, integers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.schedules import run, toy

import hyperlr


@pytest.mark.usefixtures("debugging")
def test_a_clean_search_does_not_stop_the_search_for_nan():
    for num_iterations, callback in ((2, None), (2, print), (0, None)):
        options = {"num_iterations": num_iterations, "optimizer": hyperlr.lrs_opt(0.01)}
        jax.block_until_ready(run(callback, **options))
    jax.block_until_ready(jax.jit(lambda s: run(schedule=s, **options))(toy().schedule))


def problem(dtype):
    """A quadratic in two arrays of one dtype, with a state of the model."""
    params = {"w": jnp.linspace(-1, 1, 3, dtype=dtype), "b": jnp.ones((), dtype)}
    batches = jnp.linspace(0, 1, 12, dtype=dtype).reshape(4, 3)

    def loss_fn(params, mean, batch):
        loss = jnp.sum((params["w"] - batch) ** 2) + params["b"] ** 2
        return loss.astype(jnp.float32), mean / 2 + batch / 2

    def objective_fn(params, mean):
        return jnp.sum((params["w"] - mean) ** 2).astype(jnp.float32)

    return params, batches, loss_fn, objective_fn, {"model_state": jnp.zeros(3, dtype)}


@pytest.mark.parametrize(
    ("inner", "dtype", "schedule_dtype"),
    [
        (functools.partial(optax.sgd, momentum=0.9), jnp.float32, jnp.bfloat16),
        (optax.sgd, jnp.bfloat16, jnp.float32),
        (hyperlr.optimizers.adamw, jnp.bfloat16, jnp.bfloat16),
    ],
    ids=["momentum", "sgd", "adamw"],
)
def test_strict_promotion_of_dtypes_changes_nothing(inner, dtype, schedule_dtype):
    params, batches, loss_fn, objective_fn, state = problem(dtype)

    def results():
        schedule = jnp.full(4, 0.1, schedule_dtype)
        final = hyperlr.unroll(inner, params, schedule, batches, loss_fn, **state)
        both = [
            hyperlr.schedule_hypergradient(
                inner, params, schedule, batches, loss_fn, objective_fn, mode=mode, **state
            )
            for mode in ("reverse", "forward")
        ]
        found = hyperlr.optimize_schedule(
            inner,
            params,
            schedule,
            lambda key: batches,
            loss_fn,
            objective_fn,
            optimizer=hyperlr.lrs_opt(0.01),
            num_iterations=2,
            key=jax.random.key(0),
            **state,
        )
        return final, both, found

    expected = results()
    with jax.numpy_dtype_promotion("strict"):
        found = results()
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    chex.assert_trees_all_equal(found, expected)


def test_integers_are_numbers():
    tx = hyperlr.lrs_opt(1)
    schedule = jnp.array([2.0, 1.0])
    updates, _ = tx.update(jnp.array([0.5, 3.0]), tx.init(schedule), schedule)
    np.testing.assert_array_equal(updates, [-0.5, -1.0])
    result = run(num_iterations=np.int64(2), checkpoint_every=np.int32(1))
    assert result.values.shape == (2,)


def test_building_a_rule_computes_nothing():
    with jax.transfer_guard("disallow_explicit"):
        hyperlr.lrs_opt(0.1)
