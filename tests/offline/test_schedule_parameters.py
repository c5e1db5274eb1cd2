"""A schedule's parameter, the peak of a cosine, is a hyperparameter like any other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import mlp_batches, mlp_loss, mlp_params, train

import hyperlr

STEPS = 8
PEAK = 0.1


def inner(peak):
    return optax.sgd(hyperlr.schedules.cosine_annealing(peak, STEPS), momentum=0.9)


@pytest.fixture
def problem(x64):
    params, batches = mlp_params(jax.random.key(0)), mlp_batches(jax.random.key(1), STEPS)
    val_batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(2), 1))
    return params, batches, lambda w: mlp_loss(w, val_batch)


def objective_of_peak(problem):
    """E(w_T) by an ordinary optax loop whose schedule is written out in NumPy's terms."""
    params, batches, objective = problem
    shape = 0.5 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))

    def evaluate(peak):
        w, velocity = params, optax.tree.zeros_like(params)
        for t in range(STEPS):
            batch = jax.tree.map(lambda x, t=t: x[t], batches)
            grads = jax.grad(mlp_loss)(w, batch)
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
            w = jax.tree.map(lambda p, v, t=t: p - peak * shape[t] * v, w, velocity)
        return objective(w)

    return jax.jit(evaluate)


def total_derivative(problem, h=1e-5):
    objective = objective_of_peak(problem)
    return (objective(PEAK + h) - objective(PEAK - h)) / (2 * h)


def test_tangent_of_online_is_the_total_derivative_in_the_peak(problem):
    params, batches, objective = problem
    tx = hyperlr.online(
        inner, {"peak": PEAK}, discount=1.0, hyper_optimizer=hyperlr.adaptive_sgd(0.0)
    )
    w, state, _ = train(tx, params, batches, mlp_loss)
    found = optax.tree.vdot(state.tangent["peak"].params, jax.grad(objective)(w))
    np.testing.assert_allclose(found, total_derivative(problem), rtol=1e-6)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_hypergradient_of_the_schedule_chains_into_the_peak(problem, mode):
    """The whole schedule is optimized; its peak is the one number behind it."""
    params, batches, objective = problem
    steps = jnp.arange(STEPS)
    schedule = lambda peak: jax.vmap(hyperlr.schedules.cosine_annealing(peak, STEPS))(steps)
    momentum = functools.partial(optax.sgd, momentum=0.9)
    value, hypergradient = jax.jit(
        lambda schedule: hyperlr.schedule_hypergradient(
            momentum, params, schedule, batches, mlp_loss, objective, mode=mode
        )
    )(schedule(PEAK))
    (found,) = jax.vjp(schedule, PEAK)[1](hypergradient)
    np.testing.assert_allclose(value, objective_of_peak(problem)(PEAK), rtol=1e-12)
    np.testing.assert_allclose(found, total_derivative(problem), rtol=1e-6)


def test_gradient_through_unroll_is_the_total_derivative_in_the_peak(problem):
    """With the peak as the inner optimizer's hyperparameter, the same at every step."""
    params, batches, objective = problem

    @jax.jit
    @jax.grad
    def gradient(peak):
        schedule = {"peak": jnp.full(STEPS, peak)}
        return objective(hyperlr.unroll(inner, params, schedule, batches, mlp_loss)[0])

    np.testing.assert_allclose(gradient(PEAK), total_derivative(problem), rtol=1e-6)


def test_marthe_learns_the_peak(problem):
    """From a peak far too small the validation loss ends lower than without learning."""
    params, _, objective = problem
    batches = mlp_batches(jax.random.key(3), 50)
    vals = mlp_batches(jax.random.key(4), 50)

    def final(hyper_learning_rate):
        tx = hyperlr.online(
            lambda peak: optax.sgd(hyperlr.schedules.cosine_annealing(peak, 50)),
            {"peak": 0.01},
            hyper_optimizer=hyperlr.adaptive_sgd(hyper_learning_rate),
            bounds={"peak": (0.0, 1.0)},
        )
        w, state, _ = train(tx, params, batches, mlp_loss, vals)
        return objective(w), state.hyperparams["peak"]

    without, still = final(0.0)
    learned, peak = final(1e-3)
    assert still == 0.01
    assert peak > 0.02
    assert learned < without
