"""Every method's step can be lowered for accelerators that are not here."""

import functools

import jax
import optax
import pytest
from jax import export
from problems.networks import mlp_batches, mlp_loss, mlp_params

import hyperlr

PLATFORMS = ["cuda", "rocm", "tpu"]
ADAM = functools.partial(optax.adam, eps_root=1e-12)
THREE = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.99}

METHODS = {
    "hd": hyperlr.hd(ADAM, 1e-3, 1e-6),
    "rtho": hyperlr.rtho(ADAM, 1e-3, 1e-6, every=4),
    "marthe": hyperlr.marthe(ADAM, 1e-3, meta_learning_rate=1e-9),
    "online": hyperlr.online(ADAM, THREE, hyper_optimizer=hyperlr.adaptive_sgd(1e-6), average=8.0),
    "auto": hyperlr.auto(ADAM),
    "guard": hyperlr.guard(hyperlr.hd(ADAM, 1e-3, 1e-6)),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_step(method):
    tx = METHODS[method]

    def step(params, state, batch):
        value, grads, extra = hyperlr.value_and_grad(mlp_loss)(params, batch, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state, value

    params = mlp_params(jax.random.key(0))
    batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(1), 1))
    lowered = export.export(jax.jit(step), platforms=PLATFORMS)(params, tx.init(params), batch)
    assert lowered.platforms == tuple(PLATFORMS)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_the_hypergradient_of_a_schedule(mode):
    params = mlp_params(jax.random.key(0))
    batches = mlp_batches(jax.random.key(1), 4)
    last = jax.tree.map(lambda x: x[-1], batches)

    def hypergradient(params, schedule, batches):
        objective = functools.partial(mlp_loss, batch=last)
        return hyperlr.schedule_hypergradient(
            ADAM, params, schedule, batches, mlp_loss, objective, mode=mode
        )

    schedule = jax.numpy.full(4, 1e-3)
    lowered = export.export(jax.jit(hypergradient), platforms=PLATFORMS)(params, schedule, batches)
    assert lowered.platforms == tuple(PLATFORMS)
