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


def spoiled(state, name):
    """The state with NaN in one of its entries."""
    if name == "tangent":
        return state._replace(tangent=jax.tree.map(lambda z: z.at[1].set(jnp.nan), state.tangent))
    return state._replace(**{name: jax.tree.map(lambda x: x * jnp.nan, getattr(state, name))})


@pytest.mark.parametrize("name", ["tangent", "hypergradient", "discount", "horizon"])
def test_a_state_restored_with_a_nan_in_it_recovers(name):
    tx = hyperlr.marthe(optax.sgd, RATE, hyper_learning_rate=BETA, discount=0.9)
    _, w, state = learned(tx, (), np.nan)
    rate = state.hyperparams["learning_rate"]
    state = spoiled(state, name)
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
        w = optax.apply_updates(w, updates)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((w, state)))
    assert hyperlr.metrics(state)["learning_rate"] > rate
    # The last hypergradient is shown, and no step depends on it.
    assert hyperlr.metrics(state)["num_restarts"] == (0 if name == "hypergradient" else 1)


def test_a_rule_whose_step_is_not_a_number_leaves_the_rate_where_it_is():
    rule = optax.adam(1e-3, eps=0.0)  # 0 / 0, as long as all hypergradients were 0
    tx = hyperlr.online(optax.sgd, {"learning_rate": RATE}, discount=0.9, hyper_optimizer=rule)
    rates, w, state = learned(tx, (1, 2), 0.0)
    np.testing.assert_array_equal(rates[:3], np.float32(RATE))
    assert rates[-1] > 1.1 * RATE
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((w, state)))


def test_a_tangent_whose_norm_overflows_starts_anew():
    rule = hyperlr.exponentiated_gradient(0.1)
    tx = hyperlr.online(optax.sgd, {"learning_rate": RATE}, discount=0.9, hyper_optimizer=rule)
    _, w, state = learned(tx, (), np.nan)
    state = state._replace(tangent=jax.tree.map(lambda z: z + 1e25, state.tangent))
    grads = jax.grad(loss)(w)
    # ⟨Z, ∇E⟩ is far from overflowing, and would pass for a hypergradient.
    after = tx.update(grads, state, w, value_fn=loss, val_grad=1e-9 * grads)[1]
    np.testing.assert_allclose(after.tangent["learning_rate"].params, -grads, rtol=1e-6)
    assert after.num_restarts == state.num_restarts + 1


def test_a_step_of_infinite_length_leaves_a_bound_for_those_after_it():
    still = optax.sgd(0.0)
    tx = hyperlr.online(
        optax.sgd,
        {"learning_rate": RATE},
        discount=0.9,
        hyper_optimizer=still,
        max_tangent=1.0,
    )
    _, w, state = learned(tx, (), np.nan)
    grads = jax.grad(loss)(w)
    # Its square overflows, so neither the way nor the tangent has a length.
    state = tx.update(1e25 * grads, state, w, value_fn=loss)[1]
    assert state.bound.excess["learning_rate"] == 80.0
    assert np.linalg.norm(state.tangent["learning_rate"].params) < 1e-6
    for _ in range(2):
        state = tx.update(grads, state, w, value_fn=loss)[1]
    way = 1.9 * RATE * np.linalg.norm(grads)
    np.testing.assert_allclose(state.bound.distance["learning_rate"], way, rtol=1e-5)
