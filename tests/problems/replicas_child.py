"""A process with four devices: training replicated by hand, whose replicas must stay one device.

Prints, for each way to average over the devices, the learned rates of all replicas and how far
their weights are apart; and the rate of one device with the whole batch.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import hyperlr

STEPS, DEVICES = 20, 4
X = jax.random.normal(jax.random.key(0), (16, 3))
Y = jnp.sin(X @ jnp.array([1.0, 2.0, -1.0])) * (1 + jnp.arange(16) / 4)
PARAMS = {"a": 0.3 * jnp.eye(3), "v": jnp.ones(3)}


def loss(w, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ w["a"]) @ w["v"] - y) ** 2)


def averaged(w, batch):
    return jax.lax.pmean(loss(w, batch), "d")


def through_grad_fn(w, batch, state):
    """The mean over the devices inside the gradient."""
    return hyperlr.linearize_grad(lambda w: jax.lax.pmean(jax.grad(loss)(w, batch), "d"), w, state)


def through_loss(w, batch, state):
    """The mean over the devices inside the loss."""
    _, grads, extra = hyperlr.value_and_grad(averaged)(w, batch, state=state)
    return grads, extra


def through_extra(w, batch, state):
    """The mean over the devices of the gradient and of all that goes with it."""
    _, grads, extra = hyperlr.value_and_grad(loss)(w, batch, state=state)
    return jax.lax.pmean((grads, extra), "d")


def step(tx, way, w, state, batch):
    grads, extra = way(w, batch, state)
    updates, state = tx.update(grads, state, w, **extra)
    return optax.apply_updates(w, updates), state


def by_pmap(tx, way):
    stepped = jax.pmap(functools.partial(step, tx, way), axis_name="d")
    w, state = jax.tree.map(lambda x: jnp.stack([x] * DEVICES), (PARAMS, tx.init(PARAMS)))
    batch = (X.reshape(DEVICES, -1, 3), Y.reshape(DEVICES, -1))
    for _ in range(STEPS):
        w, state = stepped(w, state, batch)
    rates = np.asarray(hyperlr.metrics(state)["learning_rate"])
    return rates, max(float(np.ptp(np.asarray(x), axis=0).max()) for x in jax.tree.leaves(w))


def by_shard_map(tx, way, check_vma):
    mesh = jax.make_mesh((DEVICES,), ("d",))
    replicated, divided = PartitionSpec(), PartitionSpec("d")
    stepped = jax.jit(
        jax.shard_map(
            functools.partial(step, tx, way),
            mesh=mesh,
            in_specs=(replicated, replicated, divided),
            out_specs=(replicated, replicated),
            check_vma=check_vma,
        )
    )
    w, state = jax.device_put((PARAMS, tx.init(PARAMS)), NamedSharding(mesh, replicated))
    batch = jax.device_put((X, Y), NamedSharding(mesh, divided))
    for _ in range(STEPS):
        w, state = stepped(w, state, batch)
    shards = [np.asarray(s.data) for s in w["a"].addressable_shards]
    rate = hyperlr.metrics(state)["learning_rate"]
    rates = np.array([float(s.data) for s in rate.addressable_shards])
    return rates, float(np.ptp(shards, axis=0).max())


def main():
    momentum = functools.partial(optax.sgd, momentum=0.9)
    tx = hyperlr.marthe(momentum, 0.02, hyper_learning_rate=1e-4)

    def one_device(w, batch, state):
        _, grads, extra = hyperlr.value_and_grad(loss)(w, batch, state=state)
        return grads, extra

    def alone(tx):
        w, state = PARAMS, tx.init(PARAMS)
        for _ in range(STEPS):
            w, state = step(tx, one_device, w, state, (X, Y))
        return hyperlr.metrics(state)

    diverges = hyperlr.guard(hyperlr.hd(momentum, 10.0, 1e-4))
    report = {
        "one device": float(alone(tx)["learning_rate"]),
        "one device, taken back": float(alone(diverges)["learning_rate"]),
        "rollbacks": int(alone(diverges)["num_rollbacks"]),
    }
    guarded = hyperlr.guard(tx)
    runs = {
        "pmap, grad_fn": lambda: by_pmap(tx, through_grad_fn),
        "pmap, extra": lambda: by_pmap(tx, through_extra),
        "shard_map unchecked, grad_fn": lambda: by_shard_map(tx, through_grad_fn, False),
        "shard_map unchecked, extra": lambda: by_shard_map(tx, through_extra, False),
        "shard_map checked, loss": lambda: by_shard_map(tx, through_loss, True),
        "guard, pmap": lambda: by_pmap(guarded, through_extra),
        "guard, shard_map unchecked": lambda: by_shard_map(guarded, through_extra, False),
        "guard, shard_map checked": lambda: by_shard_map(guarded, through_loss, True),
        "taken back, pmap": lambda: by_pmap(diverges, through_extra),
        "taken back, shard_map unchecked": lambda: by_shard_map(diverges, through_extra, False),
        "taken back, shard_map checked": lambda: by_shard_map(diverges, through_loss, True),
    }
    for name, run in runs.items():
        rates, drift = run()
        report[name] = {"rates": rates.tolist(), "drift": drift}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
