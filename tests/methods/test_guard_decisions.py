"""Every decision of the guard, against a loop in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr
from hyperlr.methods._losses import Action, Losses, judge, no_losses


def remembered(first, mean, best, noise, loss):
    """Mean, best and noise with one more loss."""
    noise += 0.1 * (abs(loss - mean) - noise)
    mean += 0.1 * (loss - mean)
    risen = min(best + 0.01 * (mean - best), max(first, best))
    return mean, min(mean, risen), noise


def judged(memory, last, loss, explosion):
    """What to do for a loss alone: the action, whether it exploded, is best, and the memory."""
    if last == "return":
        return "complete", False, False, memory
    if not math.isfinite(loss):
        return "return", False, False, memory
    if memory is None:
        return "step", False, True, (loss, loss, loss, abs(loss) / 2)
    first, mean, best, noise = memory
    if last == "complete":
        return "step", False, True, (first, loss, loss, 0.9 * noise + 0.1 * noise)
    margin = max((explosion - 1) * max(abs(best), abs(first) / explosion), 6 * noise)
    outlies = loss > best + margin
    if outlies and last != "suspect":
        return "suspect", False, False, memory
    new = mean, best, noise
    if last == "suspect":  # the loss before was an outlier, held at the bound
        new = remembered(first, *new, best + margin)
    new = remembered(first, *new, loss)
    lost = explosion < math.inf and new[0] > first > new[1] + 2 * new[2]
    if outlies or lost:
        return "return", True, False, memory
    return "step", False, new[0] <= new[1], (first, *new)


def reference(losses, grads, rate, explosion, cut):
    """Gradient descent under the guard, on one number, in plain Python."""
    w, good, scale, memory, last = 1.0, 1.0, 1.0, None, "step"
    num_steps, rollbacks, explosions, path = 0, 0, 0, []
    for loss, grad in zip(losses, grads, strict=True):
        action, explodes, is_best, memory = judged(memory, last, loss, explosion)
        is_new = action == "step" and is_best and num_steps >= 10
        good = w if is_new else good
        if action in ("step", "suspect") and not math.isfinite(grad):
            action = "return"
        explosions += explodes
        if action in ("step", "suspect"):
            w = w - scale * rate * grad
            num_steps = 1 if is_new else num_steps + 1
        else:
            w = good
        if action == "return":
            scale, num_steps, rollbacks = scale * cut, 0, rollbacks + 1
        last = action
        path.append(w)
    return path, rollbacks, explosions, memory


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
    expected, rollbacks, explosions, memory = reference(losses, grads, 0.1, explosion, 0.9)
    assert (state.num_rollbacks, state.num_explosions) == (rollbacks, explosions)
    assert explosions == 0 if explosion == math.inf else explosions > 5
    np.testing.assert_allclose(path, expected, rtol=1e-6, atol=1e-6)  # the scale is a float32
    np.testing.assert_allclose(state.losses[1:], memory, rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("memory", "last", "loss", "action", "exploded"),
    [
        # Nothing is known yet, or nothing but a return to good parameters.
        (None, Action.STEP, 1e9, Action.STEP, False),
        ((1.0, 1.0, 1.0, 0.1), Action.COMPLETE, 1e9, Action.STEP, False),
        (None, Action.STEP, math.nan, Action.RETURN, False),
        ((1.0, 1.0, 1.0, 0.1), Action.STEP, -math.inf, Action.RETURN, False),
        ((1.0, 1.0, 1.0, 0.1), Action.RETURN, math.nan, Action.COMPLETE, False),
        ((1.0, 1.0, 1.0, 0.1), Action.COMPLETE, math.nan, Action.RETURN, False),
        ((1.0, 1.0, 1.0, 0.1), Action.SUSPECT, math.nan, Action.RETURN, False),
        ((1.0, 1.0, 1.0, 0.1), Action.SUSPECT, math.inf, Action.RETURN, False),
        # Twice the best; where that is small, half of the first loss more; six times the noise.
        ((1.0, 1.0, 1.0, 0.1), Action.STEP, 1.99, Action.STEP, False),
        ((1.0, 1.0, 1.0, 0.1), Action.STEP, 2.01, Action.SUSPECT, False),
        ((1.0, 1.0, 1.0, 0.1), Action.SUSPECT, 2.01, Action.RETURN, True),
        ((1.0, 1.0, 1.0, 0.1), Action.SUSPECT, 1.0, Action.STEP, False),
        ((1.0, 0.1, 0.1, 0.01), Action.STEP, 0.59, Action.STEP, False),
        ((1.0, 0.1, 0.1, 0.01), Action.STEP, 0.61, Action.SUSPECT, False),
        ((1.0, 1.0, 1.0, 0.5), Action.STEP, 3.99, Action.STEP, False),
        ((1.0, 1.0, 1.0, 0.5), Action.STEP, 4.01, Action.SUSPECT, False),
        ((-1.0, -1.0, -1.0, 0.1), Action.STEP, 0.01, Action.SUSPECT, False),
        # The smoothed loss is above the first, after it had been below.
        ((1.0, 0.99, 0.5, 0.15), Action.STEP, 1.2, Action.RETURN, True),
        ((1.0, 0.99, 0.5, 0.1), Action.STEP, 1.0, Action.STEP, False),
        ((1.0, 0.99, 0.9, 0.1), Action.STEP, 1.2, Action.STEP, False),
    ],
)
def test_the_verdict_on_a_loss(memory, last, loss, action, exploded):
    dtype = jnp.dtype(float)
    losses = no_losses(dtype)
    if memory is not None:
        losses = Losses(jnp.array(True), *(jnp.asarray(x, dtype) for x in memory))
    for judge_ in (judge, jax.jit(judge)):
        found = judge_(jnp.asarray(loss, dtype), losses, jnp.asarray(last, jnp.int32), 2.0)
        assert Action(int(found.action)) == action
        assert found.has_exploded == exploded
        if action != Action.STEP:
            np.testing.assert_array_equal(found.losses, losses)


@pytest.mark.usefixtures("x64")
def test_with_an_infinite_multiple_nothing_explodes_and_noise_stays_finite():
    """Also where the multiple is traced, and where losses differ by more than can be written."""
    lost, far = (1.0, 0.99, 0.5, 0.15), (-1.5e308, -1.5e308, -1.5e308, 1.0)
    for judge_ in (
        lambda *args: judge(*args, math.inf),
        lambda *args: jax.jit(judge)(*args, math.inf),
    ):
        for memory, loss in ((lost, 1.2), (far, 1.5e308)):
            losses = Losses(jnp.array(True), *(jnp.asarray(x) for x in memory))
            found = judge_(jnp.asarray(loss), losses, jnp.asarray(Action.STEP.value, jnp.int32))
            assert Action(int(found.action)) == Action.STEP
            assert np.isfinite(found.losses).all()


def test_without_a_loss_the_verdict_is_to_go_on():
    losses = no_losses(jnp.dtype(jnp.float32))
    expected = {Action.STEP: Action.STEP, Action.RETURN: Action.COMPLETE, Action.COMPLETE: 0}
    for last, action in expected.items():
        found = judge(None, losses, jnp.asarray(last, jnp.int32), 2.0)
        assert found.action == action
        assert found.is_best
        assert not found.has_exploded
        assert not found.losses.has_begun


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
