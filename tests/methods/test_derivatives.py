"""Tangents and hypergradients against central differences and jacfwd of the unrolled loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import INNER, mlp_batches, mlp_loss, mlp_params, train

import hyperlr
from hyperlr._derivatives import difference_step

pytestmark = pytest.mark.usefixtures("x64")

STEPS = 8


def setup():
    key = jax.random.key(0)
    return mlp_params(key), mlp_batches(jax.random.key(1), STEPS), mlp_batches(jax.random.key(2), 1)


def final_objective(inner, params, batches, val_batch):
    """w_T as a function of constant hyperparameters, by an ordinary optax loop, and E(w_T)."""

    def run(hyperparams):
        tx = inner(**hyperparams)

        def step(carry, batch):
            w, state = carry
            updates, state = tx.update(jax.grad(mlp_loss)(w, batch), state, w)
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]

    return run, lambda hyperparams: mlp_loss(run(hyperparams), val_batch)


def frozen(inner, hyperparams, **options):
    """RTHO with β = 0: the hyperparameters stay, so the tangent is the total derivative."""
    return hyperlr.online(
        inner, hyperparams, discount=1.0, hyper_optimizer=hyperlr.adaptive_sgd(0.0), **options
    )


def hypergradient(tx, params, batches, val_batch):
    """⟨Z_T, ∇E(w_T)⟩ and Z_T after training on ``batches``."""
    w, state, _ = train(tx, params, batches, mlp_loss)
    e = jax.grad(mlp_loss)(w, val_batch)
    z = {name: tangent.params for name, tangent in state.tangent.items()}
    return {name: optax.tree.vdot(tangent, e) for name, tangent in z.items()}, z


@pytest.mark.parametrize("name", INNER)
def test_rtho_without_steps_is_the_total_derivative(name):
    params, batches, val = setup()
    val_batch = jax.tree.map(lambda x: x[0], val)
    rate, h = 0.05, 1e-5
    run, objective = final_objective(INNER[name], params, batches, val_batch)
    tx = hyperlr.rtho(INNER[name], rate, 0.0)
    found, z = hypergradient(tx, params, batches, val_batch)

    objective = jax.jit(objective)
    up, down = (objective({"learning_rate": rate + s}) for s in (h, -h))
    np.testing.assert_allclose(found["learning_rate"], (up - down) / (2 * h), rtol=1e-6)

    columns = jax.jit(jax.jacfwd(run))({"learning_rate": jnp.array(rate)})
    expected = jax.tree.map(lambda column: column["learning_rate"], columns, is_leaf=_is_column)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-13),
        z["learning_rate"],
        expected,
    )


def _is_column(node):
    return isinstance(node, dict) and "learning_rate" in node


@pytest.mark.parametrize("hvp", ["forward_over_reverse", "reverse_over_reverse"])
def test_each_of_several_hyperparameters_has_its_total_derivative(hvp):
    params, batches, val = setup()
    val_batch = jax.tree.map(lambda x: x[0], val)

    def inner(learning_rate, momentum, weight_decay):
        return optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=momentum)
        )

    hyperparams = {"learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.01}
    _, objective = final_objective(inner, params, batches, val_batch)
    objective = jax.jit(objective)
    found, _ = hypergradient(frozen(inner, hyperparams, hvp=hvp), params, batches, val_batch)
    h = 1e-5
    for name, value in hyperparams.items():
        up, down = (objective(hyperparams | {name: value + s}) for s in (h, -h))
        np.testing.assert_allclose(found[name], (up - down) / (2 * h), rtol=1e-6, err_msg=name)


def test_adam_betas_can_be_learned():
    params, batches, val = setup()
    val_batch = jax.tree.map(lambda x: x[0], val)
    hyperparams = {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95}
    _, objective = final_objective(INNER["adam"], params, batches, val_batch)
    objective = jax.jit(objective)
    found, _ = hypergradient(frozen(INNER["adam"], hyperparams), params, batches, val_batch)
    h = 1e-5
    for name, value in hyperparams.items():
        up, down = (objective(hyperparams | {name: value + s}) for s in (h, -h))
        np.testing.assert_allclose(found[name], (up - down) / (2 * h), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", INNER)
def test_hd_is_the_derivative_of_the_objective_after_one_step(name):
    params, batches, val = setup()
    batch, val_batch = (jax.tree.map(lambda x: x[0], b) for b in (batches, val))
    one = jax.tree.map(lambda x: x[:1], batches)
    _, objective = final_objective(INNER[name], params, one, val_batch)
    tx = hyperlr.hd(INNER[name], 0.05, 0.0)

    @jax.jit
    def two_updates(params):
        grads = jax.grad(mlp_loss)(params, batch)
        updates, state = tx.update(grads, tx.init(params), params)
        moved = optax.apply_updates(params, updates)
        _, state = tx.update(grads, state, moved, val_grad=jax.grad(mlp_loss)(moved, val_batch))
        return hyperlr.metrics(state)["hypergradient"]

    objective, h = jax.jit(objective), 1e-5
    up, down = (objective({"learning_rate": 0.05 + s}) for s in (h, -h))
    np.testing.assert_allclose(two_updates(params), (up - down) / (2 * h), rtol=1e-6)


def test_finite_difference_is_as_accurate_as_documented():
    params, batches, val = setup()
    val_batch = jax.tree.map(lambda x: x[0], val)
    make = functools.partial(frozen, INNER["momentum"], {"learning_rate": 0.05})
    exact, _ = hypergradient(make(), params, batches, val_batch)
    approximate, _ = hypergradient(make(hvp="finite_difference"), params, batches, val_batch)
    error = abs(approximate["learning_rate"] / exact["learning_rate"] - 1)
    assert 0 < error < 1e-5


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (sine(x), x), lambda x, g: (jnp.cos(x) * g,))


def test_custom_vjp_needs_reverse_over_reverse_and_the_error_says_so():
    loss = lambda w: jnp.sum(sine(w) ** 2)
    w = jnp.array([0.3, 0.7])

    def two_steps(hvp):
        tx = frozen(optax.sgd, {"learning_rate": 0.1}, hvp=hvp)
        state, moving = tx.init(w), w
        for _ in range(2):
            grads = jax.grad(loss)(moving)
            updates, state = tx.update(grads, state, moving, value_fn=loss)
            moving = optax.apply_updates(moving, updates)
        return state.tangent["learning_rate"].params

    with pytest.raises(TypeError, match='hvp="reverse_over_reverse"'):
        two_steps("forward_over_reverse")

    def by_hand(rate):
        moving = w
        for _ in range(2):
            moving = moving - rate * jnp.sin(2 * moving)  # d sin²/dw = sin 2w
        return moving

    np.testing.assert_allclose(two_steps("reverse_over_reverse"), jax.jacfwd(by_hand)(0.1))


def test_the_step_of_a_difference_is_the_cube_root_of_the_coarsest_epsilon():
    """ε^(1/3) (1 + ‖w‖) / ‖v‖, and 1 where there is no direction."""
    point = {"a": jnp.array([3.0], jnp.float32), "b": jnp.array([4.0], jnp.float32)}
    vector = {"a": jnp.array([0.0], jnp.float32), "b": jnp.array([2.0], jnp.float32)}
    found = difference_step(point, vector)
    np.testing.assert_allclose(found, (2.0**-23) ** (1 / 3) * 6.0 / 2.0, rtol=1e-6)
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), point)
    np.testing.assert_allclose(
        difference_step(halves, vector), (2.0**-7) ** (1 / 3) * 6.0 / 2.0, rtol=1e-3
    )
    assert difference_step(point, jax.tree.map(jnp.zeros_like, vector)) == 1.0
