"""Arguments that the offline half cannot use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import mlp_loss
from problems.schedules import mlp_problem, run, toy

import hyperlr


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        ([0.1, 0.2], TypeError, r"schedule must be a floating-point array, got \[0.1, 0.2\]"),
        (
            optax.cosine_decay_schedule(0.1, 3),
            TypeError,
            r"schedule must be an array, got a function .* jax.vmap\(schedule\)\(jnp.arange\(T\)\)",
        ),
        ({"momentum": lambda step: 0.9}, TypeError, r"schedule\['momentum'\] must be an array"),
        (jnp.arange(3), TypeError, "schedule must be a floating-point array"),
        (jnp.ones(()), ValueError, r"schedule must have shape \[T\] with T ≥ 1, got \(\)"),
        (jnp.ones(0), ValueError, r"schedule must have shape \[T\] with T ≥ 1, got \(0,\)"),
        ({}, ValueError, "schedule is an empty dict"),
        (
            {"learning_rate": jnp.ones((3, 1))},
            ValueError,
            r"schedule\['learning_rate'\] must have shape \[T\]",
        ),
        (
            {"learning_rate": jnp.ones(3), "momentum": jnp.ones(2)},
            ValueError,
            "different lengths",
        ),
        ({"rate": jnp.ones(3)}, TypeError, "inner cannot be called"),
        (jnp.ones(4), ValueError, r"batches\[0\] has shape \(3, 6, 4\), but .* T = 4 steps"),
    ],
)
def test_schedules_that_cannot_be_used(schedule, error, message):
    params, batches, objective, _ = mlp_problem(3)
    with pytest.raises(error, match=message):
        hyperlr.unroll(optax.sgd, params, schedule, batches, mlp_loss)
    with pytest.raises(error, match=message):
        hyperlr.optimize_schedule(
            optax.sgd,
            params,
            schedule,
            lambda key: batches,
            mlp_loss,
            objective,
            optimizer=optax.sgd(0.1),
            num_iterations=1,
            key=jax.random.key(0),
        )


def test_other_arguments_that_cannot_be_used(tmp_path):
    params, batches, objective, schedule = mlp_problem(3)
    unroll = functools.partial(hyperlr.unroll, optax.sgd, params, schedule, batches)
    with pytest.raises(ValueError, match="checkpointing must be one of none, chunk, got 'all'"):
        unroll(mlp_loss, checkpointing="all")
    with pytest.raises(TypeError, match="loss_fn must return a scalar"):
        unroll(lambda w, batch: (mlp_loss(w, batch), w))
    with pytest.raises(TypeError, match="inner must be a factory"):
        hyperlr.unroll(optax.sgd(0.1), params, schedule, batches, mlp_loss)
    with pytest.raises(TypeError, match="complex"):
        hyperlr.unroll(optax.sgd, jnp.ones(2) * 1j, schedule, batches, mlp_loss)
    hypergradient = functools.partial(
        hyperlr.schedule_hypergradient, optax.sgd, params, schedule, batches, mlp_loss
    )
    with pytest.raises(ValueError, match="mode must be one of reverse, forward"):
        hypergradient(objective, mode="backward")
    with pytest.raises(TypeError, match="objective_fn must return a scalar"):
        hypergradient(lambda w: w)
    with pytest.raises(
        TypeError, match=r"hyper_learning_rate must be .* take optax\.sgd\(schedule"
    ):
        hyperlr.lrs_opt(optax.constant_schedule(0.1))
    with pytest.raises(TypeError, match="hyper_learning_rate must be a"):
        hyperlr.lrs_opt("0.1")
    with pytest.raises(TypeError, match="hyper_learning_rate must be a"):
        hyperlr.lrs_opt(True)
    with pytest.raises(ValueError, match="hyper_learning_rate must lie in"):
        hyperlr.lrs_opt(-1.0)
    with pytest.raises(ValueError, match="params is missing"):
        hyperlr.lrs_opt(0.1).update(schedule, optax.EmptyState())
    with pytest.raises(TypeError, match="optimizer must be an optax transformation"):
        run(optimizer=optax.sgd)
    with pytest.raises(TypeError, match=r"num_iterations must be an integer, got 2\.0"):
        run(num_iterations=2.0)
    with pytest.raises(ValueError, match="num_iterations must be at least 0"):
        run(num_iterations=-1)
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1"):
        run(checkpoint_dir=tmp_path, checkpoint_every=0)
    with pytest.raises(ValueError, match="callback and checkpoint_dir need numbers"):
        jax.jit(lambda s: run(print, schedule=s))(jnp.full(5, 0.1))


@pytest.mark.parametrize(
    ("inner", "name"),
    [
        (lambda learning_rate: optax.sgd(0.1), "learning_rate"),
        (lambda learning_rate, momentum: optax.sgd(learning_rate), "momentum"),
    ],
)
def test_a_hyperparameter_without_effect_is_an_error(inner, name):
    params, batches, objective, schedule = mlp_problem(3)
    schedule = {"learning_rate": schedule} | {name: schedule}
    message = f"the update of inner does not depend on {name}"
    with pytest.raises(ValueError, match=message):
        hyperlr.unroll(inner, params, schedule, batches, mlp_loss)
    with pytest.raises(ValueError, match=message):
        hyperlr.schedule_hypergradient(inner, params, schedule, batches, mlp_loss, objective)


def test_no_iterations_leave_the_schedule():
    for callback in (None, print):
        result = run(callback, num_iterations=np.int64(0))
        np.testing.assert_array_equal(result.schedule, toy().schedule)
        assert result.values.shape == result.hypergradient_norms.shape == (0,)
