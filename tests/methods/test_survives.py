"""What goes wrong in a derivative does not touch the training: η stays, and Z starts anew."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr

CURVATURE, STEPS, RATE, BETA, BAD = np.array([0.3, 1.0, 3.0]), 30, 0.02, 1e-4, 12


def loss(w):
    return 0.5 * jnp.sum(CURVATURE * (w - 1.0) ** 2)


def by_hand(discount, bad_steps):
    """SGD and Z in NumPy; in a bad step η stays, and Z starts anew from B."""
    w, z, eta, rates = np.zeros(3), np.zeros(3), RATE, []
    for t in range(STEPS):
        g = CURVATURE * (w - 1.0)
        mu = 0.0 if t in bad_steps or t == 0 else discount
        eta -= 0.0 if t in bad_steps else BETA * z @ g
        z = mu * (z - eta * CURVATURE * z) - g
        w = w - eta * g
        rates.append(eta)
    return rates, w


def learned(tx, bad_steps, spoil):
    """The rates, the weights and the state of a run in which ``spoil`` makes the val_grad bad."""
    w = jnp.zeros(3)
    state = tx.init(w)

    @jax.jit
    def step(w, state, is_bad):
        grads = jax.grad(loss)(w)
        val_grad = jnp.where(is_bad, spoil, grads)
        updates, state = tx.update(grads, state, w, value_fn=loss, val_grad=val_grad)
        return optax.apply_updates(w, updates), state

    rates = []
    for t in range(STEPS):
        w, state = step(w, state, t in bad_steps)
        rates.append(float(hyperlr.metrics(state)["learning_rate"]))
    return rates, w, state


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_one_bad_validation_batch_is_passed_over(discount, spoil, x64):
    tx = hyperlr.marthe(optax.sgd, RATE, hyper_learning_rate=BETA, discount=discount)
    rates, w, state = learned(tx, (BAD,), spoil)
    expected_rates, expected = by_hand(discount, (BAD,))
    np.testing.assert_allclose(rates, expected_rates, rtol=1e-10)
    np.testing.assert_allclose(w, expected, rtol=1e-10)
    assert hyperlr.metrics(state)["num_restarts"] == 1
    assert rates[-1] > rates[BAD] > RATE


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.apply_if_finite(tx, 5)])
def test_it_costs_little_where_the_rules_adapt(wrap):
    tx = wrap(hyperlr.marthe(optax.sgd, RATE, meta_learning_rate=1e-6, hyper_learning_rate=BETA))
    [clean, *_], [rates, w, _] = learned(tx, (), np.nan), learned(tx, (BAD,), np.nan)
    assert np.all(np.isfinite(w))
    assert rates[-1] > 0.5 * clean[-1]


def test_a_state_restored_with_a_nan_in_it_recovers():
    tx = hyperlr.marthe(optax.sgd, RATE, hyper_learning_rate=BETA, discount=0.9)
    _, w, state = learned(tx, (), np.nan)
    rate = state.hyperparams["learning_rate"]
    state = state._replace(
        tangent=jax.tree.map(lambda z: z.at[1].set(jnp.nan), state.tangent),
        hypergradient=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.hypergradient),
        discount=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.discount),
        horizon=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.horizon),
    )
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
        w = optax.apply_updates(w, updates)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((w, state)))
    assert hyperlr.metrics(state)["learning_rate"] > rate
    assert hyperlr.metrics(state)["num_restarts"] == 1
