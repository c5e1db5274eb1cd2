"""auto: no number to set, its first rate, and the end of a run."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import mlp_batches, mlp_loss, mlp_params

import hyperlr
from hyperlr.search import first_rate

MOMENTUM = functools.partial(optax.sgd, momentum=0.9)
STEPS = 150


@functools.cache
def run(inner, learning_rate=None, share=1.0):
    """A small network on minibatches of one function; the state, its record and the loss."""
    tx = hyperlr.auto(inner, learning_rate)
    params = mlp_params(jax.random.key(0))
    target = mlp_params(jax.random.key(9))
    x = mlp_batches(jax.random.key(1), STEPS, batch_size=32)[0]
    y = jax.vmap(lambda x: predicted(target, x))(x)

    def step(carry, batch):
        params, state = carry
        value, grads, extra = hyperlr.value_and_grad(mlp_loss, share=share)(
            params, batch, state=state
        )
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), hyperlr.metrics(state) | {
            "loss": value
        }

    carry = (params, tx.init(params))
    (params, state), record = jax.jit(lambda: jax.lax.scan(step, carry, (x, y)))()
    batch = (x[0], y[0])
    averaged = hyperlr.eval_params(state, params)
    return jax.tree.map(np.asarray, record), float(mlp_loss(averaged, batch))


def trained(tx, params, state, batches, share=1.0):
    """The state after every minibatch of a stack, and the rates."""

    def step(carry, batch):
        params, state = carry
        value_and_grad = hyperlr.value_and_grad(mlp_loss, share=share)
        _, grads, extra = value_and_grad(params, batch, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), hyperlr.metrics(state)[
            "learning_rate"
        ]

    return jax.jit(lambda *carry: jax.lax.scan(step, carry, batches))(params, state)


def predicted(params, x):
    for i, name in enumerate(sorted(params)):
        x = x @ params[name]["w"] + params[name]["b"][None, :]
        x = jnp.tanh(x) if i < len(params) - 1 else x
    return x


@pytest.mark.parametrize("inner", [MOMENTUM, optax.adamw])
def test_it_learns_without_a_number(inner):
    record, final = run(inner, share=0.25)
    rates = record["learning_rate"]
    assert np.isfinite(rates).all()
    assert 0 < rates[0] < 1  # the rate found, not the factor 1 of before
    assert final < 0.2 * record["loss"][0]
    assert record["num_restarts"][-1] == 0


@pytest.mark.parametrize("start", [1e-4, 1e-1])
def test_it_comes_to_one_rate_from_any(start):
    record, final = run(MOMENTUM, start)
    np.testing.assert_allclose(record["learning_rate"][0], start, rtol=1e-6)
    assert final < 0.2 * record["loss"][0]


@pytest.mark.usefixtures("x64")
def test_the_formulas_of_the_docstring_by_hand():
    """Descent on Σ h (w − b)² / 2 with noise b, where no limit holds the tangent; in NumPy."""
    curvature, gamma, power = np.array([1.0, 0.2, 0.03]), 0.05, 8
    noise = np.random.default_rng(0).normal(size=(300, 3))
    tx = hyperlr.auto(optax.sgd, 1e-2, hyper_learning_rate=gamma)
    loss_fn = lambda w, b: jnp.sum(curvature * (w - b) ** 2) / 2

    def step(carry, b):
        w, state = carry
        _, grads, extra = hyperlr.value_and_grad(loss_fn)(w, b, state=state)
        updates, state = tx.update(grads, state, w, **extra)
        return (optax.apply_updates(w, updates), state), hyperlr.metrics(state)["learning_rate"]

    start = jnp.array([1.0, -2.0, 3.0])
    (_, state), found = jax.lax.scan(step, (start, tx.init(start)), noise)
    averaged = hyperlr.eval_params(state, start)

    w, rate, expected, cosines = np.array(start), 1e-2, [], []
    tangent, mean, mean_tangent = np.zeros(3), w.copy(), np.zeros(3)
    moves = 0  # there is none in the first step
    for t, b in enumerate(noise):
        looks = t < 100 or t % 64 < 8
        if looks and t:
            objective = curvature * (mean - b)
            lengths = np.linalg.norm(mean_tangent) * np.linalg.norm(objective)
            cosines.append(mean_tangent @ objective / lengths)
            weight = 0.5 if cosines[-1] > 0 else 1.0
            settled = min(1.0, 10 / (1 + moves / 10))
            rate *= 1 + settled * np.expm1(-gamma * weight * cosines[-1])
            moves += 1
        expected.append(rate)
        discount = 1 - 1 / (1 + t / 10)
        gradient = curvature * (w - b)
        if looks:
            tangent = discount * (1 - rate * curvature) * tangent - rate * gradient
        w = w - rate * gradient
        share = (power + 1) / (t + 1 + power)
        mean = mean + share * (w - mean)
        mean_tangent = mean_tangent + share * (tangent - mean_tangent)
    assert min(cosines) < -0.5
    assert max(cosines) > 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(averaged, mean, rtol=1e-9)


def test_the_first_rate_is_the_smallest_that_does_enough():
    """On w² / 2 from 1, ten steps with the first gradient lead to 1 - 10 η."""
    tx = hyperlr.auto(optax.sgd)
    w = jnp.ones(())
    state = tx.init(w)
    loss_fn = lambda w, batch: w**2 / 2
    assert hyperlr.metrics(state)["learning_rate"] == 1.0  # a factor of what will be found
    _, grads, extra = hyperlr.value_and_grad(loss_fn)(w, None, state=state)
    _, state = tx.update(grads, state, w, **extra)
    ladder = 10.0 ** np.arange(-8, 2.01, 0.25)
    falls = 0.5 - (1 - 10 * ladder) ** 2 / 2
    expected = ladder[np.argmax(falls >= 0.1 * falls.max())]
    np.testing.assert_allclose(hyperlr.metrics(state)["learning_rate"], expected, rtol=1e-5)


def test_where_no_rate_lowers_the_loss_the_smallest_is_taken():
    rising = lambda rate: 1.0 + rate
    np.testing.assert_allclose(first_rate(rising, jnp.float32(1.0)), 1e-8, rtol=1e-5)
    broken = lambda rate: jnp.nan * rate
    np.testing.assert_allclose(first_rate(broken, jnp.float32(1.0)), 1e-8, rtol=1e-5)


def test_tangents_are_held_below_the_way_so_far():
    """Far beyond the edge of stability Z would grow without end; the excess pushes η down."""
    tx = hyperlr.online(
        optax.sgd,
        {"learning_rate": 3.0},
        discount=1.0,
        hyper_optimizer=hyperlr.exponentiated_gradient(0.0, push=0.5),
        relative=True,
        max_tangent=1.0,
    )
    w = jnp.ones(2)
    state, way = tx.init(w), 0.0
    loss_fn = lambda w, batch: jnp.sum(w**2) / 2
    for t in range(8):
        _, grads, extra = hyperlr.value_and_grad(loss_fn)(w, None, state=state)
        updates, state = tx.update(grads, state, w, **extra)
        w = optax.apply_updates(w, updates)
        way = (way if t else 0.0) + float(jnp.linalg.norm(updates))
        norm = float(jnp.linalg.norm(state.tangent["learning_rate"].params))
        assert norm <= way * (1 + 1e-5)
    assert state.bound.excess["learning_rate"] > 0.1


def test_a_run_goes_on_bit_for_bit_between_two_looks():
    """From arrays alone, with a transformation that is built anew, as a new process has them."""
    batches = mlp_batches(jax.random.key(1), 140, batch_size=16)
    params = mlp_params(jax.random.key(0))
    build = lambda: hyperlr.auto(optax.adamw)
    state = build().init(params)
    whole, rates = trained(build(), params, state, batches)
    assert len(set(np.asarray(rates[100:128]).tolist())) == 1  # no look there
    assert rates[127] != rates[128]

    cut = 115
    halfway, _ = trained(build(), params, state, jax.tree.map(lambda x: x[:cut], batches))
    stored = [np.asarray(x) for x in jax.tree.leaves(halfway)]
    template = (mlp_params(jax.random.key(5)), build().init(params))
    restored = jax.tree.unflatten(jax.tree.structure(template), map(jnp.asarray, stored))
    resumed, _ = trained(build(), *restored, jax.tree.map(lambda x: x[cut:], batches))
    chex.assert_trees_all_equal(resumed, whole)


@pytest.mark.usefixtures("x64")
def test_accumulated_microbatches_are_the_batch():
    """The first rate and the objective at the average, too."""
    batches = mlp_batches(jax.random.key(1), 12, batch_size=32)
    params = mlp_params(jax.random.key(0))
    tx = hyperlr.auto(optax.adamw)
    (expected, expected_state), _ = trained(tx, params, tx.init(params), batches)

    def step(carry, batch):
        params, state = carry
        microbatches = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)

        def mean_of(function, params):
            found = jax.lax.map(lambda batch: function(params, batch), microbatches)
            return jax.tree.map(lambda x: jnp.mean(x, axis=0), found)

        grads, extra = hyperlr.linearize_grad(
            functools.partial(mean_of, jax.grad(mlp_loss)), params, state
        )
        value_fn = functools.partial(mean_of, mlp_loss)
        updates, state = tx.update(grads, state, params, value_fn=value_fn, **extra)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, tx.init(params))
    (found, state), _ = jax.jit(lambda: jax.lax.scan(step, carry, batches))()
    rate = hyperlr.metrics(expected_state)["learning_rate"]
    np.testing.assert_allclose(hyperlr.metrics(state)["learning_rate"], rate, rtol=1e-8)
    averages = (hyperlr.eval_params(s, w) for s, w in [(state, found), (expected_state, expected)])
    chex.assert_trees_all_close((found, next(averages)), (expected, next(averages)), rtol=1e-8)


def test_under_vmap_every_lane_is_a_run_of_its_own():
    batches = mlp_batches(jax.random.key(1), 110, batch_size=16)
    keys = jax.random.split(jax.random.key(2))
    tx = hyperlr.auto(MOMENTUM)

    def rates(key):
        params = mlp_params(key)
        return trained(tx, params, tx.init(params), batches)[1]

    both = jax.vmap(rates)(keys)
    assert abs(both[0, -1] / both[1, -1] - 1) > 1e-3
    for lane, key in zip(both, keys, strict=True):
        np.testing.assert_allclose(lane, rates(key), rtol=1e-2)
