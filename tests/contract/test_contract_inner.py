"""What MARTHE and LRS-OPT differentiate through: every factory of hyperlr.optimizers, and more."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.types import types

import hyperlr
from hyperlr import curvature, optimizers, schedules

STEPS = 10
HORIZON = 3  # of the schedules of LRS-OPT
DTYPES = [jnp.bfloat16, jnp.float32, jnp.float64]

FACTORIES = {
    "adadelta": optimizers.adadelta,
    "adagrad": optimizers.adagrad,
    "adam": optimizers.adam,
    "adam_max": optimizers.adam_max,
    "adamax": optimizers.adamax,
    "adamw": optimizers.adamw,
    "nadam": optimizers.nadam,
    "rmsprop": optimizers.rmsprop,
}
OTHERS = {
    "scheduled": lambda learning_rate: optax.sgd(
        schedules.cosine_annealing(learning_rate, STEPS), momentum=0.9
    ),
    "limited": lambda learning_rate: curvature.limit_learning_rate(
        optax.sgd(learning_rate, momentum=0.9), 0.9, every=2
    ),
}


def chained(transformation, learning_rate):
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        transformation(),
        optax.scale_by_learning_rate(learning_rate),
    )


CHAINED = {
    name: functools.partial(chained, getattr(optimizers, name))
    for name in optimizers.__all__
    if name.startswith("scale_by_")
}
# Its weights are those of features in their first axis.
CHAINED["scale_by_sparsity"] = functools.partial(
    chained,
    lambda: optax.masked(
        optimizers.scale_by_sparsity(), {"w": True, "b": False, "unused": False, "none": None}
    ),
)
# AdaDelta's steps are too short for bfloat16 at a rate at which the others move.
RATES = {"adadelta": 5.0, "scale_by_adadelta": 5.0}
# Factories in every dtype; a chain differs from its factory in the clipping alone.
CASES = [(name, dtype) for name in (*FACTORIES, *OTHERS) for dtype in DTYPES] + [
    (name, jnp.float32) for name in CHAINED
]
INNER = FACTORIES | OTHERS | CHAINED
# A weight without a gradient would decay all the same.
INNER["adamw"] = functools.partial(
    optimizers.adamw, mask={"w": True, "b": True, "unused": False, "none": None}
)


def test_every_public_factory_is_in_the_table():
    transformations = {
        name
        for name in optimizers.__all__
        if not isinstance(getattr(optimizers, name), type) and name != "sparsity_factor"
    }
    assert transformations == FACTORIES.keys() | CHAINED.keys()
    assert all(getattr(optimizers, name) is factory for name, factory in FACTORIES.items())


def make_params(dtype):
    weights = np.linspace(-1, 1, 6).reshape(2, 3)
    params = {"w": weights, "b": np.array(0.3), "unused": np.ones(2), "none": None}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), params)


def loss(params, inputs):
    """No part of it depends on "unused", whose gradient is always zero."""
    dtype = params["w"].dtype
    hidden = jnp.tanh(inputs.astype(dtype) @ params["w"]) + params["b"]
    return jnp.mean((hidden - 0.5) ** 2).astype(jnp.float32)


def batches(num):
    """[num, 4, 2]; the second feature is sparse."""
    dense = jnp.sin(jnp.arange(num * 4.0)).reshape(num, 4, 1)
    return jnp.concatenate([dense, jnp.where(dense > 0.8, dense, 0.0)], axis=2)


def run_online(tx, dtype):
    """The parameters and states of STEPS steps, from one trace."""
    params = make_params(dtype)
    state, traces = tx.init(params), []

    @jax.jit
    def step(params, state, inputs):
        traces.append(1)
        value_fn = functools.partial(loss, inputs=inputs)
        grads = jax.grad(value_fn)(params)
        updates, state = tx.update(grads, state, params, value_fn=value_fn, inputs=inputs)
        return optax.apply_updates(params, updates), state

    before = types((params, state))
    for inputs in batches(STEPS):
        params, state = step(params, state, inputs)
        assert types((params, state)) == before
    assert len(traces) == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state)))
    np.testing.assert_array_equal(params["unused"].astype(jnp.float32), 1.0)
    assert np.any(params["w"] != make_params(dtype)["w"])
    return state


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_inner_optimizer_of_marthe(name, dtype, request):
    if dtype == jnp.float64:
        request.getfixturevalue("x64")
    rate = RATES.get(name, 0.01)
    tx = hyperlr.marthe(INNER[name], rate, hyper_learning_rate=1e-2, meta_learning_rate=1e-6)
    state = run_online(tx, dtype)
    assert abs(hyperlr.metrics(state)["learning_rate"] / rate - 1) > 1e-6
    tangent = state.tangent["learning_rate"].params
    assert np.any(tangent["w"] != 0)
    np.testing.assert_array_equal(tangent["unused"].astype(jnp.float32), 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_limit_around_marthe(dtype, request):
    if dtype == jnp.float64:
        request.getfixturevalue("x64")
    marthe = hyperlr.marthe(optax.sgd, 0.01, hyper_learning_rate=1e-3)
    state = run_online(curvature.limit_learning_rate(marthe, 0.5, every=2), dtype)
    assert hyperlr.metrics(state)["learning_rate"] != np.float32(0.01)
    assert np.isfinite(state.max_learning_rate)


@pytest.mark.parametrize(
    ("name", "dtype"), [case for case in CASES if case[0] != "scale_by_sparsity"]
)
def test_inner_optimizer_of_lrs_opt(name, dtype, request):
    if dtype == jnp.float64:
        request.getfixturevalue("x64")
    tx, params, traces = hyperlr.lrs_opt(1e-3), make_params(dtype), []

    @jax.jit
    def outer_step(schedule, state, batches):
        traces.append(1)
        _, hypergradient = hyperlr.schedule_hypergradient(
            INNER[name], params, schedule, batches, loss, lambda w: loss(w, batches[0])
        )
        updates, state = tx.update(hypergradient, state, schedule)
        return optax.apply_updates(schedule, updates), state, hypergradient

    initial = schedule = jnp.asarray(np.full(HORIZON, RATES.get(name, 0.01)))
    state = tx.init(schedule)
    before = types((schedule, state))
    for fresh in batches(STEPS * HORIZON).reshape(STEPS, HORIZON, 4, 2):
        schedule, state, hypergradient = outer_step(schedule, state, fresh)
        assert types((schedule, state)) == before
        assert np.isfinite(hypergradient).all()
        assert np.all(hypergradient != 0)
    assert len(traces) == 1
    assert np.all(schedule != initial)
    assert np.all(schedule >= 0)


def test_scaling_by_sparsity_needs_the_inputs_that_lrs_opt_has_not():
    with pytest.raises(ValueError, match="scale_by_sparsity needs inputs"):
        hyperlr.unroll(
            INNER["scale_by_sparsity"],
            make_params(jnp.float32),
            jnp.full(HORIZON, 0.01),
            batches(HORIZON),
            loss,
        )
