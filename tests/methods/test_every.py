"""every=k: the tangent and the rate move at every k-th step, and plain steps lie between."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
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


@pytest.mark.parametrize(("hvp", "count"), [("forward_over_reverse", 2), ("finite_difference", 4)])
def test_a_loss_that_is_handed_on_is_not_evaluated_between(hvp, count):
    """Not even the part of the product that no tangent is in, which a compiler could take out."""
    evaluated = []

    def record(w):
        evaluated.append(1)
        return w

    @jax.custom_jvp
    def watched(w):
        return jax.pure_callback(record, jax.ShapeDtypeStruct(w.shape, w.dtype), w)

    @watched.defjvp
    def _(primals, tangents):
        return watched(*primals), tangents[0]

    tx = hyperlr.rtho(optax.sgd, 1e-2, 1e-4, every=4, hvp=hvp)

    @jax.jit
    def step(w, state):
        value_fn = lambda w: jnp.sum(watched(w) ** 4)
        updates, state = tx.update(4 * w**3, state, w, value_fn=value_fn)
        return optax.apply_updates(w, updates), state

    w = jnp.ones(3)
    state = tx.init(w)
    for _ in range(8):
        w, state = step(w, state)
    jax.block_until_ready(w)
    assert len(evaluated) == count


def test_a_function_says_when():
    """The same trajectory as by a number; the first step always moves."""
    batches = make_batches(STEPS, SIZE, seed=0)
    stack = jax.tree.map(lambda *x: jnp.stack(x), *batches)

    def loss_fn(w, batch):
        matrix, vector = batch
        return 0.5 * w @ matrix @ w + 0.25 * jnp.sum(w**4) - vector @ w

    def run(every):
        tx = hyperlr.rtho(optax.sgd, RATE, BETA, every=every)

        def step(carry, batch):
            w, state = carry
            _, grads, extra = hyperlr.value_and_grad(loss_fn)(w, batch, state=state)
            updates, state = tx.update(grads, state, w, **extra)
            return (optax.apply_updates(w, updates), state), hyperlr.metrics(state)

        w = jnp.ones(SIZE)
        return jax.lax.scan(step, (w, tx.init(w)), tuple(stack))[1]["learning_rate"]

    by_number = run(EVERY)
    assert len(set(by_number.tolist())) == 4
    np.testing.assert_array_equal(run(lambda t: t % EVERY == 0), by_number)
    np.testing.assert_array_equal(run(lambda t: (t > 0) & (t % EVERY == 0)), by_number)


def test_an_average_of_the_inner_optimizer_moves_in_plain_steps_too(x64):
    """η learned at an exponential average of the weights, by hand; Z̄ is held with Z."""
    batches = make_batches(STEPS, SIZE, seed=0)
    decay = 0.8

    def averaging(learning_rate):
        def init(w):
            return w

        def update(grads, average, w):
            step = -learning_rate * grads
            return step, decay * average + (1 - decay) * (w + step)

        return optax.GradientTransformation(init, update)

    tx = hyperlr.online(
        averaging,
        {"learning_rate": RATE},
        discount=1.0,
        hyper_optimizer=optax.sgd(BETA),
        average=lambda inner_state, params: inner_state,
        every=EVERY,
    )

    def loss_fn(w, batch):
        matrix, vector = batch
        return 0.5 * w @ matrix @ w + 0.25 * jnp.sum(w**4) - vector @ w

    w = jnp.ones(SIZE)
    state, rates, averages = tx.init(w), [], []
    for batch in batches:
        _, grads, extra = hyperlr.value_and_grad(loss_fn)(w, tuple(batch), state=state)
        updates, state = tx.update(grads, state, w, **extra)
        w = optax.apply_updates(w, updates)
        rates.append(float(hyperlr.metrics(state)["learning_rate"]))
        averages.append(np.asarray(hyperlr.eval_params(state, w)))

    w, mean, eta = np.ones(SIZE), np.ones(SIZE), RATE
    z, mean_z = np.zeros(SIZE), np.zeros(SIZE)
    for t, batch in enumerate(batches):
        g = gradient(w, batch)
        if t % EVERY == 0:
            if t:
                eta -= BETA * (mean_z @ gradient(mean, batch))
            z = (z - eta * hessian(w, batch) @ z if t else 0.0) - g
            mean_z = (decay * mean_z if t else 0.0) + (1 - decay) * z
        w = w - eta * g
        mean = decay * mean + (1 - decay) * w
        np.testing.assert_allclose(rates[t], eta, rtol=1e-10)
        np.testing.assert_allclose(averages[t], mean, rtol=1e-10)
    assert abs(eta - RATE) > 1e-3
