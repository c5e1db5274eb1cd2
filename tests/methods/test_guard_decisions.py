"""Every decision of the guard, against a loop in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr


def remembered(first, mean, best, noise, loss):
    """Mean, best and noise with one more loss."""
    noise += 0.1 * (abs(loss - mean) - noise)
    mean += 0.1 * (loss - mean)
    risen = min(best + 0.01 * (mean - best), max(first, best))
    return mean, min(mean, risen), noise


def reference(losses, grads, rate, explosion, cut):
    """Gradient descent under the guard, on one number, in plain Python."""
    w, good, scale = 1.0, 1.0, 1.0
    first = mean = best = noise = None
    state, rollbacks, explosions, path = "steps", 0, 0, []
    for loss, grad in zip(losses, grads, strict=True):
        if state == "completes":
            w, state = good, "at good"
            path.append(w)
            continue
        finite = math.isfinite(loss) and math.isfinite(grad)
        if not finite:
            explodes = False
        elif first is None or state == "at good":
            explodes, is_good, mean, best = False, True, loss, loss
            if first is None:
                first, noise = loss, abs(loss) / 2
        else:
            margin = max((explosion - 1) * max(abs(best), abs(first) / explosion), 6 * noise)
            outlies = loss > best + margin
            if outlies and state != "waits":
                state = "waits"
                path.append(w)
                continue
            new = mean, best, noise
            if state == "waits":  # the loss before was an outlier, held at the bound
                new = remembered(first, *new, best + margin)
            new = remembered(first, *new, loss)
            lost = explosion < math.inf and new[0] > first > new[1] + 2 * new[2]
            explodes = outlies or lost
            if not explodes:
                mean, best, noise = new
            is_good = new[0] <= new[1]
        if finite and not explodes:
            if is_good:
                good = w
            w, state = w - scale * rate * grad, "steps"
        else:
            rollbacks, explosions = rollbacks + 1, explosions + explodes
            scale, w, state = scale * cut, good, "completes"
        path.append(w)
    return path, rollbacks, explosions


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("explosion", [1.5, 2.0, 4.0, math.inf])
def test_every_decision_is_as_the_equations_say(explosion, sign):
    rng = np.random.default_rng(0)
    level = sign * 2.0 * np.exp(-np.arange(400) / 150) + 0.1
    losses = level * rng.lognormal(0.0, 0.4, 400)
    begins = rng.random(400) < 0.04  # of one to three losses that are out of bounds
    high = begins | np.roll(begins, 1) & (rng.random(400) < 0.7) | np.roll(begins, 2)
    losses = np.where(high, np.abs(losses) * 10, losses)
    losses[250:] += np.linspace(0.0, 4.0, 150)  # it is lost little by little
    grads = rng.normal(size=400)
    losses[[50, 51, 52, 120]] = np.nan, np.nan, np.inf, -np.inf
    grads[[60, 210]] = np.inf, np.nan
    tx = hyperlr.guard(optax.sgd(0.1), explosion=explosion, cut=0.9)

    def step(carry, inputs):
        w, state = carry
        loss, grad = inputs
        updates, state = tx.update(grad, state, w, value=loss)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    w = jnp.ones(())
    (_, state), path = jax.jit(
        lambda w: jax.lax.scan(step, (w, tx.init(w)), (jnp.asarray(losses), jnp.asarray(grads)))
    )(w)
    expected, rollbacks, explosions = reference(losses, grads, 0.1, explosion, 0.9)
    assert (state.num_rollbacks, state.num_explosions) == (rollbacks, explosions)
    assert explosions == 0 if explosion == math.inf else explosions > 5
    np.testing.assert_allclose(path, expected, rtol=1e-6, atol=1e-6)  # the scale is a float32


@pytest.mark.parametrize("first", [0.6, 1.0, 1.4])
def test_where_nothing_is_learned_nothing_is_lost(first):
    """Whatever the first loss happened to be among those of the same parameters."""
    tx = hyperlr.guard(optax.sgd(0.0))
    losses = 1.0 + 0.2 * np.random.default_rng(0).normal(size=(2000,))
    losses[0] = first

    def step(state, loss):
        _, state = tx.update(jnp.ones(1), state, jnp.ones(1), value=loss)
        return state, None

    state, _ = jax.jit(lambda losses: jax.lax.scan(step, tx.init(jnp.ones(1)), losses))(losses)
    assert state.num_rollbacks == 0
