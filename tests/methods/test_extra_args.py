"""Extra arguments: what depends on the parameters has a tangent; others get what they take."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import hyperlr

STEPS = 6
CURVATURE = np.array([0.6, 1.0, 1.4])
START = np.array([0.1, -0.2, 0.3])


def loss(w, batch=None):
    return 0.5 * jnp.sum(CURVATURE * (w - 1.0) ** 2)


FOLLOWS_THE_LOSS = {
    "polyak_sgd": ("scaling", lambda s: optax.polyak_sgd(max_learning_rate=10.0, scaling=s), 0.7),
    "momo": ("learning_rate", lambda s: contrib.momo(s, beta=0.5, adapt_lower_bound=False), 0.35),
}


def trained(tx, extra_of):
    w = jnp.asarray(START)
    state = tx.init(w)
    for _ in range(STEPS):
        grads, extra = extra_of(w, state)
        updates, state = tx.update(grads, state, w, **extra)
        w = optax.apply_updates(w, updates)
    return w, state


def plain(w, state):
    value, grads = jax.value_and_grad(loss)(w)
    return grads, {"value": value}


def through_extra(w, state):
    _, grads, extra = hyperlr.value_and_grad(loss)(w, None, state=state)
    return grads, extra


def through_value_fn(w, state):
    value, grads = jax.value_and_grad(loss)(w)
    return grads, {"value": value, "value_fn": loss}


@pytest.mark.parametrize("way", [through_extra, through_value_fn])
@pytest.mark.parametrize("name", FOLLOWS_THE_LOSS)
def test_step_sizes_that_follow_the_loss_have_right_tangents(name, way, x64):
    key, make, at = FOLLOWS_THE_LOSS[name]
    h = 1e-6
    above, below = (trained(make(at + s), plain)[0] for s in (h, -h))
    tx = hyperlr.online(
        lambda **given: make(given[key]),
        {key: at},
        discount=1.0,
        hyper_optimizer=hyperlr.adaptive_sgd(0.0),
    )
    _, state = trained(tx, way)
    np.testing.assert_allclose(state.tangent[key].params, (above - below) / (2 * h), rtol=1e-4)


def strict(learning_rate):
    """An optimizer that takes no argument it does not know, as those of old do."""

    def update(updates, state, params=None, *, seen):
        del params
        return jax.tree.map(lambda g: -learning_rate * seen * g, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def test_an_inner_optimizer_gets_what_it_takes_and_no_more():
    tx = hyperlr.rtho(strict, 0.1, 1e-3)
    w, _ = trained(tx, lambda w, state: (jax.grad(loss)(w), {"value_fn": loss, "seen": 0.5}))
    half = hyperlr.rtho(lambda learning_rate: optax.sgd(0.5 * learning_rate), 0.1, 1e-3)
    expected, _ = trained(half, lambda w, state: (jax.grad(loss)(w), {"value_fn": loss}))
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_sharpness_aware_minimization_inside_and_out():
    """SAM asks for the function of the gradient itself, in its opaque mode."""

    def sam(learning_rate):
        adversary = optax.chain(contrib.normalize(), optax.sgd(0.05))
        return contrib.sam(optax.sgd(learning_rate), adversary, sync_period=2, opaque_mode=True)

    def gradient(w, _):
        return jax.grad(loss)(w)

    tx = hyperlr.rtho(sam, 0.05, 1e-4)
    w, state = trained(
        tx, lambda w, state: (jax.grad(loss)(w), {"value_fn": loss, "grad_fn": gradient})
    )
    assert loss(w) < loss(START)
    assert hyperlr.metrics(state)["learning_rate"] > 0.05
    assert hyperlr.metrics(state)["num_restarts"] == 0


def test_old_style_wrappers_keep_value_fn():
    """MultiSteps hands it on; its inner update sees the last microbatch, as the page says."""
    for make in (
        lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
        lambda tx: optax.MultiSteps(tx, 2),
    ):
        tx = make(hyperlr.marthe(optax.sgd, 0.05, hyper_learning_rate=1e-3))
        w = jnp.asarray(START)
        state = tx.init(w)
        for _ in range(8):
            updates, state = tx.update(jax.grad(loss)(w), state, w, value_fn=loss)
            w = optax.apply_updates(w, updates)
        assert hyperlr.metrics(state)["learning_rate"] > 0.05


def test_hyperparameters_of_the_loss_need_an_objective_of_their_own():
    """L itself is lowest where its penalty is 0, whatever that does."""
    tx = hyperlr.online(
        optax.sgd,
        {"learning_rate": 0.1, "decay": 0.1},
        discount=0.9,
        hyper_optimizer=hyperlr.adaptive_sgd(1e-3),
        loss_hyperparams=("decay",),
    )
    penalized = lambda w, of_loss: loss(w) + of_loss["decay"] * jnp.sum(w**2)
    w = jnp.asarray(START)
    with pytest.raises(ValueError, match="val_grad"):
        tx.update(w, tx.init(w), w, value_fn=penalized)


def test_a_difference_does_not_subtract_a_gradient_that_was_clipped_outside():
    """What update is given may be clipped, scaled or averaged, unlike the gradients of value_fn."""

    def trained_tangent(hvp):
        tx = hyperlr.online(
            optax.sgd,
            {"learning_rate": 0.1},
            discount=1.0,
            hyper_optimizer=hyperlr.adaptive_sgd(0.0),
            hvp=hvp,
        )
        clipped = optax.chain(optax.clip(0.1), tx)
        way = lambda w, state: (jax.grad(loss)(w), {"value_fn": loss})
        return trained(clipped, way)[1][1].tangent["learning_rate"].params

    exact = trained_tangent("forward_over_reverse")
    np.testing.assert_allclose(trained_tangent("finite_difference"), exact, rtol=1e-2)
