"""nnx models: dropout keys, running statistics, the tangent of the steps taken, the cost."""

import functools
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hyperlr
import hyperlr.flax

MOMENTUM = functools.partial(optax.sgd, momentum=0.9)
WEIGHT_DECAY = 0.1
MARTHE = hyperlr.marthe(MOMENTUM, 0.05, hyper_learning_rate=1e-2)


class Network(nnx.Module):
    """A layer, batch normalization, dropout, a layer."""

    def __init__(self, rngs):
        dtype = jnp.result_type(float)
        self.first = nnx.Linear(4, 8, rngs=rngs, param_dtype=dtype)
        self.norm = nnx.BatchNorm(8, rngs=rngs, param_dtype=dtype)
        self.norm.mean = nnx.BatchStat(jnp.zeros(8, dtype))
        self.norm.var = nnx.BatchStat(jnp.ones(8, dtype))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs, param_dtype=dtype)

    def __call__(self, x):
        return self.last(self.dropout(jnp.tanh(self.norm(self.first(x)))))


def loss_fn(model, batch):
    x, y = batch
    return jnp.mean((model(x) - y) ** 2)


def batch_of(seed, size=16):
    key_x, key_y = jax.random.split(jax.random.key(seed))
    return jax.random.normal(key_x, (size, 4)) + 0.5, jax.random.normal(key_y, (size, 3))


@functools.partial(nnx.jit, static_argnames=("loss_fn", "key_order"))
def train_step(model, optimizer, batch, val_batch, loss_fn=loss_fn, key_order="before"):
    if key_order == "before":
        value_fn = hyperlr.flax.value_fn(loss_fn, model, batch)
    loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
    if key_order == "after":  # the training pass has gone on to the next dropout key
        value_fn = hyperlr.flax.value_fn(loss_fn, model, batch)
    val_grad = hyperlr.flax.val_grad(loss_fn, model, val_batch)
    optimizer.update(model, grads, value_fn=value_fn, val_grad=val_grad)
    return loss


def train(tx, num_steps=4, learning_rate=None, **options):
    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    if learning_rate is not None:
        optimizer.opt_state.hyperparams["learning_rate"][...] = learning_rate
    for seed in range(num_steps):
        train_step(model, optimizer, batch_of(seed), batch_of(100), **options)
    return model, optimizer


def arrays_of(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def flat(tree):
    return np.concatenate([x.ravel() for x in arrays_of(tree)])


def everything_but_params(model):
    rest = nnx.state(model, nnx.Not(nnx.Param))
    return [
        np.asarray(jax.random.key_data(x))
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        else np.asarray(x)
        for x in jax.tree.leaves(rest)
    ]


# The tangent


def test_tangent_is_the_jacobian_of_the_steps_that_were_taken(x64):
    plain = optax.with_extra_args_support(optax.inject_hyperparams(MOMENTUM)(0.05))
    ends = [
        flat(nnx.state(train(plain, learning_rate=0.05 + h)[0], nnx.Param)) for h in (1e-5, -1e-5)
    ]
    differences = (ends[0] - ends[1]) / 2e-5
    tx = hyperlr.rtho(MOMENTUM, 0.05, 0.0)
    tangents = {}
    for key_order in ("before", "after"):
        _, optimizer = train(tx, key_order=key_order)
        tangents[key_order] = flat(optimizer.opt_state.tangent["learning_rate"].params)
    np.testing.assert_allclose(tangents["before"], differences, rtol=1e-6, atol=1e-8)
    # With another dropout key in the Hessian-vector product it would not be.
    error = np.linalg.norm(tangents["after"] - differences)
    assert error > 0.05 * np.linalg.norm(differences)


# What is read and what is written


def test_another_validation_batch_changes_the_rate_and_neither_statistics_nor_keys():
    plain = Network(nnx.Rngs(0))
    loss_fn(plain, batch_of(0))  # the forward pass of training, and nothing else
    assert np.abs(plain.norm.mean[...]).max() > 0  # they have moved
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    runs = []
    for val_seed in (100, 101):
        model = Network(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, MARTHE, wrt=nnx.Param)
        train_step(model, optimizer, batch_of(0), batch_of(val_seed))
        after_one_step = everything_but_params(model)
        jax.tree.map(close, after_one_step, everything_but_params(plain))
        # The rate moves for the first time in this step, after its training pass.
        train_step(model, optimizer, batch_of(1), batch_of(val_seed))
        assert not model.norm.use_running_average
        assert not model.dropout.deterministic
        runs.append((everything_but_params(model), hyperlr.flax.metrics(optimizer)))
    jax.tree.map(np.testing.assert_array_equal, runs[0][0], runs[1][0])
    assert runs[0][1]["learning_rate"] != runs[1][1]["learning_rate"]


def test_val_grad_reads_running_statistics_or_by_choice_the_batchs_own():
    model, batch = Network(nnx.Rngs(0)), batch_of(0)
    other = nnx.clone(model)
    other.norm.mean[...] = other.norm.mean[...] + 1.0

    def objective(params, model=model):
        """By hand, without dropout: normalized by the running statistics."""
        x, y = batch
        h = x @ params["first"]["kernel"][...] + params["first"]["bias"][...][None, :]
        h = (h - model.norm.mean[...][None, :]) / jnp.sqrt(model.norm.var[...][None, :] + 1e-5)
        h = h * params["norm"]["scale"][...][None, :] + params["norm"]["bias"][...][None, :]
        h = jnp.tanh(h) @ params["last"]["kernel"][...] + params["last"]["bias"][...][None, :]
        return jnp.mean((h - y) ** 2)

    for m in (model, other):
        expected = jax.grad(objective)(nnx.state(m, nnx.Param), m)
        found = hyperlr.flax.val_grad(loss_fn, m, batch)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
                     arrays_of(found), arrays_of(expected))  # fmt: skip
    own = [hyperlr.flax.val_grad(loss_fn, m, batch, batch_statistics=True) for m in (model, other)]
    jax.tree.map(np.testing.assert_array_equal, *map(arrays_of, own))
    assert not np.allclose(arrays_of(own[0])[0], arrays_of(expected)[0])


def test_regularization_in_the_loss_or_in_the_optimizer_is_the_same_but_not_in_the_objective():
    def penalized(model, batch):
        squares = jax.tree.map(lambda w: jnp.sum(w**2), nnx.state(model, nnx.Param))
        return loss_fn(model, batch) + WEIGHT_DECAY / 2 * sum(jax.tree.leaves(squares))

    def decayed(learning_rate):
        return optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(learning_rate))

    @functools.partial(nnx.jit, static_argnames=("training", "objective"))
    def step(model, optimizer, batch, val_batch, training, objective):
        value_fn = hyperlr.flax.value_fn(training, model, batch)
        grads = nnx.grad(training)(model, batch)
        val_grad = hyperlr.flax.val_grad(objective, model, val_batch)
        optimizer.update(model, grads, value_fn=value_fn, val_grad=val_grad)

    rates = {}
    for name, inner, training, objective in (
        ("in the loss", optax.sgd, penalized, loss_fn),
        ("in the optimizer", decayed, loss_fn, loss_fn),
        ("in the objective", optax.sgd, penalized, penalized),
    ):
        model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        tx = hyperlr.marthe(inner, 0.05, hyper_learning_rate=1e-2)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for seed in range(5):
            step(model, optimizer, batch_of(seed), batch_of(100), training, objective)
        rates[name] = float(hyperlr.flax.metrics(optimizer)["learning_rate"])
    np.testing.assert_allclose(rates["in the loss"], rates["in the optimizer"], rtol=1e-5)
    assert abs(rates["in the objective"] - rates["in the loss"]) > 1e-3 * rates["in the loss"]


# Signatures


def test_auxiliary_output_keywords_rngs_and_loss_hyperparameters():
    model, batch = Network(nnx.Rngs(0)), batch_of(0)
    rngs = nnx.Rngs(7)

    def full(model, batch, rngs, weights=None, scale=1.0):
        noise = jax.random.normal(rngs.noise(), ())
        weight = 1.0 if weights is None else weights["weight"]
        return weight * scale * loss_fn(model, batch) + noise, "auxiliary"

    value_fn = hyperlr.flax.value_fn(full, model, batch, rngs, scale=2.0, has_aux=True)
    params = nnx.state(model, nnx.Param)
    first, again = value_fn(params), value_fn(params)
    assert first == again  # no evaluation moves the keys of another
    weighted = value_fn(params, {"weight": 3.0})
    value, _ = full(model, batch, rngs, scale=2.0)  # and this moves them
    assert first == value  # the keys at the time of the call
    noise = jax.random.normal(nnx.Rngs(7).noise(), ())
    np.testing.assert_allclose(weighted - noise, 3 * (value - noise), rtol=1e-5)
    grad = hyperlr.flax.val_grad(full, model, batch, rngs, scale=2.0, has_aux=True)
    expected = hyperlr.flax.val_grad(loss_fn, model, batch)
    np.testing.assert_allclose(grad["last"]["bias"][...], 2 * expected["last"]["bias"][...], 1e-5)


def test_only_the_filtered_parameters_are_differentiated():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    kernels = nnx.All(nnx.Param, nnx.PathContains("kernel"))
    optimizer = nnx.Optimizer(model, MARTHE, wrt=kernels)
    bias = np.asarray(model.bias[...])

    @nnx.jit
    def step(model, optimizer, batch, val_batch):
        value_fn = hyperlr.flax.value_fn(loss_fn, model, batch, wrt=kernels)
        grads = nnx.grad(loss_fn, argnums=nnx.DiffState(0, kernels))(model, batch)
        val_grad = hyperlr.flax.val_grad(loss_fn, model, val_batch, wrt=kernels)
        optimizer.update(model, grads, value_fn=value_fn, val_grad=val_grad)

    for seed in range(3):
        step(model, optimizer, batch_of(seed), batch_of(100))
    assert hyperlr.flax.metrics(optimizer)["learning_rate"] != np.float32(0.05)
    np.testing.assert_array_equal(model.bias[...], bias)


def test_without_flax_the_error_names_the_extra():
    code = "import sys; sys.modules['flax'] = None; import hyperlr; import hyperlr.flax"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "hyperlr[flax]"' in done.stderr.splitlines()[-1]


# The cost


class Mlp(nnx.Module):
    """The network of tests/test_cost.py, with dropout and batch normalization by choice."""

    def __init__(self, rngs, regularized):
        sizes = (784, 500, 500, 500, 10)
        self.layers = nnx.List(nnx.Linear(m, n, rngs=rngs) for m, n in itertools.pairwise(sizes))
        self.norm = nnx.BatchNorm(500, rngs=rngs) if regularized else None
        self.dropout = nnx.Dropout(0.5, rngs=rngs) if regularized else None

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        if self.norm is not None:
            x = self.dropout(self.norm(x))
        return self.layers[-1](x)


def cross_entropy(model, batch):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(batch[0]), batch[1]))


def flops(tx, *, regularized, plain=False):
    """FLOPs of one compiled step of nnx training with batches of 100."""
    model = Mlp(nnx.Rngs(0), regularized)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def plain_step(model, optimizer, batch, val_batch):
        optimizer.update(model, nnx.grad(cross_entropy)(model, batch))

    ours = nnx.jit(functools.partial(train_step.__wrapped__, loss_fn=cross_entropy))
    step = plain_step if plain else ours
    batch = (jnp.ones((100, 784)), jnp.zeros(100, jnp.int32))
    compiled = step.lower(model, optimizer, batch, (batch[0] + 1, batch[1])).compile()
    return compiled.cost_analysis()["flops"]


# In units of a gradient: gradient 1, validation gradient 1, Hessian-vector product 1.66, and a
# little elementwise work. A gradient computed twice would add 1.
@pytest.mark.parametrize("regularized", [False, True], ids=["mlp", "dropout and batch norm"])
def test_no_gradient_is_computed_twice(regularized):
    tx = hyperlr.marthe(optax.sgd, 0.01, meta_learning_rate=1e-6)
    plain = flops(optax.sgd(0.01), regularized=regularized, plain=True)
    assert 3.6 < flops(tx, regularized=regularized) / plain < 3.7
