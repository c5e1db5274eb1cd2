"""Mixed precision: what is learned stays float32, and moves by steps that bfloat16 would lose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import mlp_batches, mlp_loss, mlp_params, train

import hyperlr

STEPS = 12
MOMENTUM = functools.partial(optax.sgd, momentum=0.9)

ONLINE = {
    "hd": lambda: hyperlr.hd(MOMENTUM, 0.25, 1e-5),
    "marthe": lambda: hyperlr.marthe(MOMENTUM, 0.25, hyper_learning_rate=1e-5, discount=0.9),
}


def compute_in_bfloat16(params, batch):
    """The usual mixed precision: float32 parameters, bfloat16 arithmetic, float32 loss."""
    params, batch = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, batch))
    return mlp_loss(params, batch).astype(jnp.float32)


def in_dtype(params_dtype):
    """Parameters, minibatches and loss of a run with parameters of this dtype."""
    params = jax.tree.map(lambda x: x.astype(params_dtype), mlp_params(jax.random.key(0)))
    return params, mlp_batches(jax.random.key(1), STEPS), compute_in_bfloat16


@pytest.mark.parametrize("params_dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ONLINE)
def test_online_rates_move_by_less_than_bfloat16_resolves(name, params_dtype):
    params, batches, loss = in_dtype(params_dtype)
    trained, state, record = train(ONLINE[name](), params, batches, loss)
    rates = np.asarray(record["learning_rate"])
    assert rates.dtype == np.float32
    assert {x.dtype for x in jax.tree.leaves(trained)} == {jnp.dtype(params_dtype)}
    tangents = jax.tree.leaves(state.tangent["learning_rate"].params)
    assert {x.dtype for x in tangents} == {jnp.dtype(jnp.float32)}
    spacing = float(jnp.finfo(jnp.bfloat16).eps) * 0.25
    steps = np.abs(np.diff(rates[1:]))
    assert np.all((steps > 0) & (steps < spacing / 2))
    # The hypergradients are those of full precision, to what bfloat16 arithmetic leaves of them.
    exact = train(ONLINE[name](), mlp_params(jax.random.key(0)), batches, mlp_loss)[2]
    found, expected = (np.asarray(r["hypergradient"])[1:] for r in (record, exact))
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("params_dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_schedules_move_by_less_than_bfloat16_resolves(params_dtype):
    params, batches, loss = in_dtype(params_dtype)
    val = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(2), 1))
    schedule = jnp.full(STEPS, 0.25)

    def run(params, loss):
        objective = functools.partial(loss, batch=val)
        return hyperlr.schedule_hypergradient(MOMENTUM, params, schedule, batches, loss, objective)[
            1
        ]

    found = jax.jit(functools.partial(run, loss=loss))(params)
    assert found.dtype == jnp.float32
    expected = run(mlp_params(jax.random.key(0)), mlp_loss)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    tx = hyperlr.lrs_opt(1e-3 / float(jnp.max(jnp.abs(found))))
    updates, _ = tx.update(found, tx.init(schedule), schedule)
    moved = np.asarray(optax.apply_updates(schedule, updates)) - 0.25
    assert np.all((moved != 0) & (np.abs(moved) < float(jnp.finfo(jnp.bfloat16).eps) * 0.25))
