"""Problems of learning a schedule that compile in no time."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hyperlr
from problems.networks import INNER, mlp_batches, mlp_loss, mlp_params


def mlp_problem(num_steps, dtype=None):
    params = mlp_params(jax.random.key(0), dtype=dtype)
    batches = mlp_batches(jax.random.key(1), num_steps)
    val_batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(2), 1))
    schedule = jnp.linspace(0.02, 0.08, num_steps)
    return params, batches, functools.partial(mlp_loss, batch=val_batch), schedule


class Toy(NamedTuple):
    """A problem that compiles in no time: a noisy quartic in three variables."""

    params: Any
    schedule: Any
    sample_batches: Any
    loss_fn: Any
    objective_fn: Any


def toy(num_steps=5):
    return Toy(
        params=jnp.array([1.0, -0.5, 2.0]),
        schedule=jnp.linspace(0.02, 0.08, num_steps),
        sample_batches=lambda key: jax.random.normal(key, (num_steps, 3)),
        loss_fn=lambda w, x: jnp.sum((w - 0.1 * x) ** 2 + 0.1 * w**4),
        objective_fn=lambda w: jnp.sum((w - 0.2) ** 2),
    )


def run(callback=None, *, num_iterations=6, seed=0, optimizer=None, num_steps=5, **options):
    """Optimizes the toy's schedule; keywords pass through, or replace what the toy has."""
    problem = toy(num_steps)
    changes = {name: options.pop(name) for name in Toy._fields if name in options}
    return hyperlr.optimize_schedule(
        options.pop("inner", INNER["momentum"]),
        *problem._replace(**changes),
        optimizer=optimizer or optax.adam(0.02),
        num_iterations=num_iterations,
        key=options.pop("key", jax.random.key(seed)),
        callback=callback,
        **options,
    )


def assert_trees_close(found, expected, **tolerances):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerances), found, expected)
