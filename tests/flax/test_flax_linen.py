"""linen: ``hyperlr.flax.TrainState`` is Flax's own, and hands extra arguments on."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state

import hyperlr
import hyperlr.flax

MOMENTUM = functools.partial(optax.sgd, momentum=0.9)


class Network(nn.Module):
    """A layer, batch normalization, dropout, a layer."""

    @nn.compact
    def __call__(self, x, train):
        dtype = jnp.result_type(float)
        x = nn.Dense(8, param_dtype=dtype)(x)
        x = nn.BatchNorm(use_running_average=not train, dtype=dtype, param_dtype=dtype)(x)
        x = nn.Dropout(0.5, deterministic=not train)(jnp.tanh(x))
        return nn.Dense(3, param_dtype=dtype)(x)


class OurState(hyperlr.flax.TrainState):
    batch_stats: dict


class FlaxState(train_state.TrainState):
    batch_stats: dict


MODEL = Network()


def create(state_class, tx):
    variables = MODEL.init(jax.random.key(0), jnp.ones((2, 4)), train=False)
    stats = jax.tree.map(lambda x: x.astype(jnp.result_type(float)), variables["batch_stats"])
    state = state_class.create(
        apply_fn=MODEL.apply, params=variables["params"], batch_stats=stats, tx=tx
    )
    return state.replace(step=jnp.zeros((), jnp.int32))  # an int would make for a second trace


def batch_of(seed, size=16):
    key_x, key_y = jax.random.split(jax.random.key(seed))
    return jax.random.normal(key_x, (size, 4)) + 0.5, jax.random.normal(key_y, (size, 3))


@functools.partial(jax.jit, static_argnames="other_key")
def train_step(state, batch, val_batch, key, other_key=False):
    """One step; Flax's own state gets the gradients alone."""

    def loss_fn(params, key=key):
        output, changed = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch[0], train=True, rngs={"dropout": key}, mutable=["batch_stats"],
        )  # fmt: skip
        return jnp.mean((output - batch[1]) ** 2), changed["batch_stats"]

    def objective(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        return jnp.mean((state.apply_fn(variables, val_batch[0], train=False) - val_batch[1]) ** 2)

    (_, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    if not isinstance(state, hyperlr.flax.TrainState):
        return state.apply_gradients(grads=grads, batch_stats=stats)
    key_again = jax.random.fold_in(key, 1) if other_key else key
    return state.apply_gradients(
        grads=grads,
        batch_stats=stats,
        value_fn=lambda params: loss_fn(params, key_again)[0],
        val_grad=jax.grad(objective)(state.params),
    )


def train(state, num_steps=4, **options):
    for seed in range(num_steps):
        state = train_step(state, batch_of(seed), batch_of(100), jax.random.key(seed), **options)
    return state


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_with_a_plain_optimizer_it_is_flaxs_own():
    tx = MOMENTUM(0.05)
    ours, flaxs = train(create(OurState, tx)), train(create(FlaxState, tx))
    assert isinstance(ours, train_state.TrainState)
    for name in ("step", "params", "opt_state", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(ours, name), getattr(flaxs, name))
    assert ours.tx is tx
    assert jax.tree.structure(ours) == jax.tree.structure(create(OurState, tx))


def test_one_trace_and_a_validation_batch_that_moves_the_rate_and_no_statistics():
    tx = hyperlr.marthe(MOMENTUM, 0.05, hyper_learning_rate=1e-2)
    traces = train_step._cache_size()
    ends = []
    for val_seed in (100, 101):
        state = create(OurState, tx)
        for seed in range(2):
            batches = batch_of(seed), batch_of(val_seed)
            state = train_step(state, *batches, jax.random.key(seed))
            ends.append(state)
    assert train_step._cache_size() == traces + 1
    jax.tree.map(np.testing.assert_array_equal, ends[0].batch_stats, ends[2].batch_stats)
    jax.tree.map(np.testing.assert_array_equal, ends[1].batch_stats, ends[3].batch_stats)
    rates = [float(hyperlr.metrics(end.opt_state)["learning_rate"]) for end in ends]
    assert rates[0] == rates[2] == np.float32(0.05)
    assert rates[1] != rates[3]


@pytest.fixture
def differences(x64):
    """dw/dη by central differences, of training at constant η with the same dropout keys."""
    ends = []
    for h in (1e-5, -1e-5):
        state = create(OurState, optax.inject_hyperparams(MOMENTUM)(0.05 + h))
        ends.append(flat(train(state).params))
    return (ends[0] - ends[1]) / 2e-5


def test_tangent_is_the_jacobian_of_the_steps_that_were_taken(differences):
    state = create(OurState, hyperlr.rtho(MOMENTUM, 0.05, 0.0))
    tangents = [
        flat(train(state, other_key=other).opt_state.tangent["learning_rate"].params)
        for other in (False, True)
    ]
    np.testing.assert_allclose(tangents[0], differences, rtol=1e-6, atol=1e-8)
    # With another dropout key in the Hessian-vector product it would not be.
    assert np.linalg.norm(tangents[1] - differences) > 0.05 * np.linalg.norm(differences)


def test_float8_scales_are_overwritten_and_the_transformation_never_sees_them():
    params = {"params": {"w": jnp.ones(2)}, OVERWRITE_WITH_GRADIENT: {"scale": jnp.ones(())}}
    tx = hyperlr.marthe(optax.sgd, 0.1, hyper_learning_rate=1e-2)
    state = hyperlr.flax.TrainState.create(apply_fn=None, params=params, tx=tx)

    def loss_fn(params):
        return jnp.sum((params["params"]["w"] * params[OVERWRITE_WITH_GRADIENT]["scale"]) ** 2)

    for scale in (2.0, 3.0):
        grads = jax.grad(loss_fn)(state.params)
        val_grad = grads
        grads = grads | {OVERWRITE_WITH_GRADIENT: {"scale": jnp.asarray(scale)}}
        state = state.apply_gradients(grads=grads, value_fn=loss_fn, val_grad=val_grad)
    assert state.params[OVERWRITE_WITH_GRADIENT]["scale"] == 3.0
    # w: 1 - 0.1 · 2 · 1 = 0.8, and Z = -2; then the scale is 2, ∇E = 2 · 0.8 · 4, on both weights.
    expected = -2 * (2 * 0.8 * 4) * 2
    found = hyperlr.metrics(state.opt_state)["hypergradient"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Z = μ (1 - η · 2 · 2²) (-2) - ∇L, with the scale in L's second derivative.
    scalars = hyperlr.metrics(state.opt_state)
    second = scalars["discount"] * (1 - scalars["learning_rate"] * 8) * -2 - 2 * 0.8 * 4
    tangent = state.opt_state.tangent["learning_rate"].params["w"]
    np.testing.assert_allclose(tangent, np.full(2, second), rtol=1e-6)
