"""Small problems and loops shared by the tests."""

import functools
import itertools

import jax
import jax.numpy as jnp
import optax

import hyperlr

# Every inner optimizer whose tangents are tested. Adam and RMSprop have ε inside the root, since
# √v has no derivative at v = 0.
INNER = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "nesterov": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
    "adam": functools.partial(optax.adam, eps_root=1e-8),
    "adamw": functools.partial(optax.adamw, eps_root=1e-8, weight_decay=1e-2),
    "rmsprop": functools.partial(optax.rmsprop, eps_in_sqrt=True, initial_scale=0.1),
    "chain": lambda learning_rate: optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.add_decayed_weights(1e-2),
        optax.sgd(learning_rate, momentum=0.9),
    ),
}


def mlp_params(key, sizes=(4, 5, 3), dtype=None):
    """Weights of a small tanh network."""
    keys = jax.random.split(key, len(sizes))
    return {
        f"layer_{i}": {
            "w": jax.random.normal(keys[i], (m, n), dtype or jnp.result_type(float)) / m**0.5,
            "b": jnp.zeros(n, dtype or jnp.result_type(float)),
        }
        for i, (m, n) in enumerate(itertools.pairwise(sizes))
    }


def mlp_loss(params, batch):
    """Mean squared error of the small tanh network."""
    x, y = batch
    for i, name in enumerate(sorted(params)):
        x = x @ params[name]["w"] + params[name]["b"][None, :]
        x = jnp.tanh(x) if i < len(params) - 1 else x
    return jnp.mean((x - y) ** 2)


def mlp_batches(key, num, batch_size=6, sizes=(4, 5, 3)):
    """A stack of random regression minibatches, leading axis ``num``."""
    key_x, key_y = jax.random.split(key)
    return (
        jax.random.normal(key_x, (num, batch_size, sizes[0])),
        jax.random.normal(key_y, (num, batch_size, sizes[-1])),
    )


def train(tx, params, batches, loss, val_batches=None):
    """Runs ``tx`` over the stacked ``batches`` in one scan; returns (params, state, record)."""

    def step(carry, batch):
        params, state = carry
        train_batch, val_batch = batch
        value_fn = functools.partial(loss, batch=train_batch)
        grads = jax.grad(value_fn)(params)
        extra = {} if val_batches is None else {"val_grad": jax.grad(loss)(params, val_batch)}
        updates, state = tx.update(grads, state, params, value_fn=value_fn, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), hyperlr.metrics(state) | {"params": params}

    xs = (batches, batches if val_batches is None else val_batches)
    (params, state), record = jax.jit(
        lambda params, state: jax.lax.scan(step, (params, state), xs)
    )(params, tx.init(params))
    return params, state, record


NETWORK_SIZES = (784, 500, 500, 500, 10)


def network_loss(params, batch):
    """Cross-entropy of the paper's ReLU network, 784-500-500-500-10."""
    x, labels = batch
    for i, layer in enumerate(params):
        x = x @ layer["w"] + layer["b"][None, :]
        x = jax.nn.relu(x) if i < len(params) - 1 else x
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x, labels))
