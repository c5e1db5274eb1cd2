"""Hyperparameters other than one learning rate: groups of parameters, and those of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import mlp_batches, mlp_loss, mlp_params

import hyperlr

pytestmark = pytest.mark.usefixtures("x64")

STEPS, H = 6, 1e-5


def train(tx, params, batches, loss):
    """A loop whose loss takes (params, batch, loss_hyperparams), read from the optimizer state."""

    def step(carry, batch):
        params, state = carry
        current = hyperlr.metrics(state)
        value_fn = lambda p, hyperparams: loss(p, batch, hyperparams)
        updates, state = tx.update(
            jax.grad(value_fn)(params, current),
            state,
            params,
            value_fn=value_fn,
            val_grad=jax.grad(mlp_loss)(params, batch),
        )
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, batches)[0])((params, tx.init(params)))


def central_differences(objective, hyperparams):
    objective = jax.jit(objective)
    return {
        name: (objective(hyperparams | {name: x + H}) - objective(hyperparams | {name: x - H}))
        / (2 * H)
        for name, x in hyperparams.items()
    }


def penalized(params, batch, hyperparams):
    """A loss with two hyperparameters: a penalty on weights, and one that scales the targets."""
    x, y = batch
    penalty = sum(jnp.sum(layer["w"] ** 2) for layer in params.values())
    fit = mlp_loss(params, (x, (1 - hyperparams["smoothing"]) * y))
    return fit + hyperparams["weight_penalty"] * penalty


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_hypergradients_of_the_loss_are_total_derivatives(momentum):
    params = mlp_params(jax.random.key(0))
    batches = mlp_batches(jax.random.key(1), STEPS)
    val = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(2), 1))
    hyperparams = {"learning_rate": 0.05, "weight_penalty": 0.01, "smoothing": 0.1}

    def inner(learning_rate):
        return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(learning_rate, momentum))

    tx = hyperlr.online(
        inner,
        hyperparams,
        discount=1.0,
        hyper_optimizer=hyperlr.adaptive_sgd(0.0),
        loss_hyperparams=("weight_penalty", "smoothing"),
    )
    w, state = train(tx, params, batches, penalized)
    e = jax.grad(mlp_loss)(w, val)

    def objective(hyperparams):
        tx = inner(hyperparams["learning_rate"])

        def step(carry, batch):
            w, state = carry
            grads = jax.grad(penalized)(w, batch, hyperparams)
            updates, state = tx.update(grads, state, w)
            return (optax.apply_updates(w, updates), state), None

        return mlp_loss(jax.lax.scan(step, (params, tx.init(params)), batches)[0][0], val)

    for name, expected in central_differences(objective, hyperparams).items():
        found = optax.tree.vdot(state.tangent[name].params, e)
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)


def test_each_group_of_parameters_learns_its_own_rate():
    """A quadratic whose two halves want rates that differ a hundredfold."""
    labels = {"steep": "steep", "flat": "flat"}

    def inner(steep, flat):
        return optax.partition({"steep": optax.sgd(steep), "flat": optax.sgd(flat)}, labels)

    def loss(w):
        return 50 * jnp.sum(w["steep"] ** 2) + 0.5 * jnp.sum(w["flat"] ** 2)

    tx = hyperlr.online(
        inner,
        {"steep": 1e-4, "flat": 1e-4},
        discount=0.0,
        hyper_optimizer=hyperlr.exponentiated_gradient(0.1),
        bounds={"steep": (0.0, 1.0), "flat": (0.0, 1.0)},
    )
    params = {"steep": jnp.ones(2), "flat": jnp.ones(2)}

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(200):
        params, state = step(params, state)
    rates = hyperlr.metrics(state)
    assert rates["steep"] < 2 / 100  # above, gradient descent diverges on this half
    assert rates["flat"] > 10 * rates["steep"]
    assert loss(params) < 1e-3


def test_weight_decay_goes_to_its_known_best_value():
    """Ridge regression on an orthonormal design: w = y / (1 + λ), and E = ½‖w − θ‖² is least at

    1 / (1 + λ) = ⟨y, θ⟩ / ‖y‖², whatever the noise that made y of θ.
    """
    rng = np.random.default_rng(0)
    theta = jnp.asarray(rng.normal(size=20))
    y = theta + jnp.asarray(rng.normal(size=20))
    best = y @ y / (y @ theta) - 1
    assert 0.3 < best < 3

    def ridge(w, hyperparams):
        return 0.5 * jnp.sum((w - y) ** 2) + 0.5 * hyperparams["weight_decay"] * jnp.sum(w**2)

    tx = hyperlr.online(
        lambda: optax.sgd(0.3),
        {"weight_decay": 0.01},
        discount=1.0,
        hyper_optimizer=optax.sgd(0.02),
        bounds={"weight_decay": (0.0, 10.0)},
        loss_hyperparams=("weight_decay",),
    )
    w = jnp.zeros(20)

    def step(carry, _):
        w, state = carry
        grads = jax.grad(ridge)(w, hyperlr.metrics(state))
        updates, state = tx.update(grads, state, w, value_fn=ridge, val_grad=w - theta)
        return (optax.apply_updates(w, updates), state), None

    w, state = jax.lax.scan(step, (w, tx.init(w)), length=1000)[0]
    np.testing.assert_allclose(hyperlr.metrics(state)["weight_decay"], best, rtol=1e-6)


def test_loss_hyperparameters_work_without_memory_and_with_reverse_products():
    """HD on a hyperparameter of the loss: Δη is the derivative of E after one step."""
    params = mlp_params(jax.random.key(0))
    batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(1), 1))
    val = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(2), 1))
    hyperparams = {"weight_penalty": 0.1, "smoothing": 0.2}

    def after_one_step(hyperparams):
        grads = jax.grad(penalized)(params, batch, hyperparams)
        return mlp_loss(jax.tree.map(lambda w, g: w - 0.1 * g, params, grads), val)

    tx = hyperlr.online(
        lambda: optax.sgd(0.1),
        hyperparams,
        discount=0.0,
        hyper_optimizer=hyperlr.adaptive_sgd(0.0),
        loss_hyperparams=tuple(hyperparams),
    )
    w, state = train(tx, params, jax.tree.map(lambda x: x[None], batch), penalized)
    e = jax.grad(mlp_loss)(w, val)
    for name, expected in central_differences(after_one_step, hyperparams).items():
        found = optax.tree.vdot(state.tangent[name].params, e)
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)
    with pytest.raises(ValueError, match="value_fn is missing"):
        tx.update(params, tx.init(params), params, val_grad=params)


def test_names_of_loss_hyperparameters_are_checked():
    def make(names):
        return hyperlr.online(
            optax.sgd,
            {"learning_rate": 0.1},
            hyper_optimizer=hyperlr.adaptive_sgd(0.1),
            loss_hyperparams=names,
        )

    with pytest.raises(ValueError, match="loss_hyperparams has 'smoothing'"):
        make(("smoothing",))
    with pytest.raises(TypeError, match=r"pass \('learning_rate',\)"):
        make("learning_rate")


def test_a_rule_that_counts_or_decays_sees_nothing_before_there_is_a_hypergradient():
    rule = optax.chain(optax.add_decayed_weights(0.1), optax.scale_by_schedule(lambda t: -1.0))
    tx = hyperlr.online(optax.sgd, {"learning_rate": 0.1}, discount=0.0, hyper_optimizer=rule)
    params = jnp.ones(2)
    state = tx.init(params)
    initial = state.hyperparams["learning_rate"]
    _, state = tx.update(params, state, params)
    assert state.hyperparams["learning_rate"] == initial
    assert optax.tree.get(state.hyper_state, "count") == 0
    _, state = tx.update(params, state, params)
    assert state.hyperparams["learning_rate"] != initial
    assert optax.tree.get(state.hyper_state, "count") == 1
