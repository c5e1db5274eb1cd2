"""every=k: the tangent and the rate move at every k-th step, and plain steps lie between."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.reference import gradient, hessian, make_batches

import hyperlr

STEPS, SIZE, EVERY, RATE, BETA = 11, 4, 3, 0.1, 1e-2


def by_hand(batches):
    """SGD whose Z is held between the steps that move it, in NumPy."""
    w, z, eta, rates, slopes = np.ones(SIZE), np.zeros(SIZE), RATE, [], []
    for t, batch in enumerate(batches):
        g, slope = gradient(w, batch), 0.0
        if t % EVERY == 0:
            slope = z @ g if t else 0.0
            eta = eta - BETA * slope if t else eta
            z = (z - eta * hessian(w, batch) @ z if t else 0.0) - g
        w = w - eta * g
        rates.append(eta)
        slopes.append(slope)
    return rates, slopes, w


def test_the_trajectory_is_that_of_the_loop_by_hand(x64):
    batches = make_batches(STEPS, SIZE, seed=0)
    tx = hyperlr.rtho(optax.sgd, RATE, BETA, every=EVERY)

    def loss_fn(w, batch):
        matrix, vector = batch
        return 0.5 * w @ matrix @ w + 0.25 * jnp.sum(w**4) - vector @ w

    @jax.jit
    def step(w, state, batch):
        _, grads, extra = hyperlr.value_and_grad(loss_fn)(w, batch, state=state)
        updates, state = tx.update(grads, state, w, **extra)
        return optax.apply_updates(w, updates), state

    w = jnp.ones(SIZE)
    state, rates, slopes = tx.init(w), [], []
    for t, batch in enumerate(batches):
        w, state = step(w, state, tuple(batch))
        rates.append(float(hyperlr.metrics(state)["learning_rate"]))
        if t % EVERY == 0:
            slopes.append(float(hyperlr.metrics(state)["hypergradient"]))
    expected_rates, expected_slopes, expected = by_hand(batches)
    np.testing.assert_allclose(rates, expected_rates, rtol=1e-10)
    np.testing.assert_allclose(slopes, expected_slopes[::EVERY], rtol=1e-10)
    np.testing.assert_allclose(w, expected, rtol=1e-10)
    assert len(set(rates)) == 4


def test_the_product_is_not_computed_between():
    """Counted as the program runs, not from its text."""
    computed = []

    def record(vector):
        computed.append(1)
        return vector

    @jax.custom_jvp
    def watched(grads):
        return grads

    @watched.defjvp
    def _(primals, tangents):
        [grads], [grads_dot] = primals, tangents
        shape = jax.ShapeDtypeStruct(grads_dot.shape, grads_dot.dtype)
        return grads, jax.pure_callback(record, shape, grads_dot)

    def gradient(w):
        return watched(jax.grad(lambda w: jnp.sum(w**4))(w))

    tx = hyperlr.rtho(optax.sgd, 1e-2, 1e-4, every=4)

    @jax.jit
    def step(w, state):
        grads, extra = hyperlr.linearize_grad(gradient, w, state)
        updates, state = tx.update(grads, state, w, **extra)
        return optax.apply_updates(w, updates), state

    w = jnp.ones(3)
    state = tx.init(w)
    for _ in range(8):
        w, state = step(w, state)
    jax.block_until_ready(w)
    assert len(computed) == 2
