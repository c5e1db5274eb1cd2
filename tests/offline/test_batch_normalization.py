"""The schedule of a Flax network with batch normalization and dropout, against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr

linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")

T = 3
SCHEDULE = np.array([0.3, 0.2, 0.4])
DTYPE = jnp.float64

pytestmark = pytest.mark.usefixtures("x64")


def data():
    """Minibatches [T, 6, 2], far from normalized, and a validation batch."""
    key_x, key_val = jax.random.split(jax.random.key(0))
    batches = 2.0 + jax.random.normal(key_x, (T, 6, 2))
    return batches, 2.0 + jax.random.normal(key_val, (12, 2))


def mean_error(prediction, x):
    return jnp.mean((prediction - jnp.sin(x[:, :1])) ** 2)


def descend(params, grads, rate):
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)


def assert_is_hypergradient(found, final):
    """The value and the gradient of ``final``, a plain loop, by central differences."""
    value, hypergradient = found
    h, final = 1e-6, jax.jit(final)
    np.testing.assert_allclose(value, final(SCHEDULE), rtol=1e-12)
    expected = [(final(SCHEDULE + h * e) - final(SCHEDULE - h * e)) / (2 * h) for e in np.eye(T)]
    assert np.abs(expected).min() > 1e-4
    np.testing.assert_allclose(hypergradient, expected, rtol=1e-6)


class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(3, param_dtype=DTYPE)(x)
        x = linen.BatchNorm(not train, momentum=0.7, dtype=DTYPE, param_dtype=DTYPE)(x)
        x = linen.Dropout(0.3, deterministic=not train)(jnp.tanh(x))
        return linen.Dense(1, param_dtype=DTYPE)(x)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_linen_with_running_statistics_and_a_dropout_key_in_the_state(mode):
    batches, val_batch = data()
    network = LinenNetwork()
    variables = network.init(jax.random.key(1), val_batch, train=False)
    stats = jax.tree.map(lambda x: x.astype(DTYPE), variables["batch_stats"])
    start = {"batch_stats": stats, "key": jax.random.key(2)}

    def loss_fn(params, state, x):
        key, dropout_key = jax.random.split(state["key"])
        prediction, moved = network.apply(
            {"params": params, "batch_stats": state["batch_stats"]},
            x,
            train=True,
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        return mean_error(prediction, x), {"batch_stats": moved["batch_stats"], "key": key}

    def objective_fn(params, state):
        variables = {"params": params, "batch_stats": state["batch_stats"]}
        return mean_error(network.apply(variables, val_batch, train=False), val_batch)

    def final(schedule):
        params, state = variables["params"], start
        for rate, x in zip(schedule, batches, strict=True):
            grads, state = jax.grad(loss_fn, has_aux=True)(params, state, x)
            params = descend(params, grads, rate)
        return objective_fn(params, state)

    found = jax.jit(
        lambda schedule: hyperlr.schedule_hypergradient(
            optax.sgd,
            variables["params"],
            schedule,
            batches,
            loss_fn,
            objective_fn,
            model_state=start,
            mode=mode,
        )
    )(SCHEDULE)
    assert_is_hypergradient(found, final)


class NnxNetwork(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 3, param_dtype=DTYPE, rngs=rngs)
        self.norm = nnx.BatchNorm(3, dtype=DTYPE, param_dtype=DTYPE, rngs=rngs)
        # Flax's own are of float32 whatever param_dtype is.
        self.norm.mean = nnx.BatchStat(jnp.zeros(3, DTYPE))
        self.norm.var = nnx.BatchStat(jnp.ones(3, DTYPE))
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(3, 1, param_dtype=DTYPE, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(jnp.tanh(self.norm(self.first(x)))))


def test_nnx_with_the_statistics_of_the_validation_batch():
    """nnx itself stops derivatives at its running statistics, so E is normalized by its batch."""
    batches, val_batch = data()

    def loss_on(model, x):
        return mean_error(model(x), x)

    def objective(model):
        model.eval()
        model.set_attributes(use_running_average=False, raise_if_not_found=False)
        return loss_on(model, val_batch)

    def final(schedule):
        """As in Flax's documentation: the model is an object, and changes in place."""
        model = NnxNetwork(nnx.Rngs(0))
        for rate, x in zip(schedule, batches, strict=True):
            grads = nnx.grad(loss_on)(model, x)
            nnx.update(model, descend(nnx.state(model, nnx.Param), grads, rate))
        return objective(model)

    graph, params, rest = nnx.split(NnxNetwork(nnx.Rngs(0)), nnx.Param, ...)

    def merged(params, rest):  # of new variables, since nnx changes them in place
        return nnx.merge(graph, *jax.tree.map(lambda x: x, (params, rest)))

    def loss_fn(params, rest, x):
        model = merged(params, rest)
        loss = loss_on(model, x)
        return loss, nnx.state(model, nnx.Not(nnx.Param))

    found = jax.jit(
        lambda schedule: hyperlr.schedule_hypergradient(
            optax.sgd,
            params,
            schedule,
            batches,
            loss_fn,
            lambda params, rest: objective(merged(params, rest)),
            model_state=rest,
        )
    )(SCHEDULE)
    assert_is_hypergradient(found, final)
    _, _, moved = hyperlr.unroll(optax.sgd, params, SCHEDULE, batches, loss_fn, model_state=rest)
    (mean,) = jax.tree.leaves(moved["norm"]["mean"])
    assert mean.dtype == DTYPE
    assert np.abs(mean).min() > 0.001
