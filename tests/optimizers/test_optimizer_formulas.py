"""The adaptive optimizers against their formulas in NumPy, and against the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.optimizers import EPS, NAMES, NUM_STEPS, START, numpy_gradient, run

from hyperlr import optimizers

# The formulas, in NumPy. Each takes a gradient function g(w, t), t = 0, 1, …, and yields w_1 … w_T.


def adagrad_reference(gradient, w, learning_rate):
    v = np.zeros_like(w)
    for t in range(NUM_STEPS):
        g = gradient(w, t)
        v = v + g * g
        w = w - learning_rate / np.sqrt(v + EPS) * g
        yield w


def rmsprop_reference(gradient, w, learning_rate, beta=0.9):
    v = np.zeros_like(w)
    for t in range(NUM_STEPS):
        g = gradient(w, t)
        v = beta * v + (1 - beta) * g * g
        w = w - learning_rate / np.sqrt(v + EPS) * g
        yield w


def adadelta_reference(gradient, w, learning_rate, beta=0.9, eps=1e-6, numerator="u"):
    u, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(NUM_STEPS):
        g = gradient(w, t)
        v_before, v = v, beta * v + (1 - beta) * g * g
        step = -np.sqrt((u if numerator == "u" else v_before) + eps) / np.sqrt(v + eps) * g
        u = beta * u + (1 - beta) * step * step
        w = w + learning_rate * step
        yield w


def adam_reference(gradient, w, learning_rate, b1=0.9, b2=0.999):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = w - learning_rate * (m / (1 - b1**t)) / np.sqrt(v / (1 - b2**t) + EPS)
        yield w


def adamax_reference(gradient, w, learning_rate, b1=0.9, b2=0.999):
    m, u = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, np.sqrt(g * g + EPS))
        w = w - learning_rate / (1 - b1**t) * m / u
        yield w


def adam_max_reference(gradient, w, learning_rate, b1=0.9, b2=0.999):
    m, v = np.zeros_like(w), 0.0
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.max(np.abs(g)) ** 2
        w = w - learning_rate * (m / (1 - b1**t)) / np.sqrt(v / (1 - b2**t) + EPS)
        yield w


def nadam_reference(gradient, w, learning_rate, b1=0.9, b2=0.999):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        w = w - learning_rate * m_hat / np.sqrt(v / (1 - b2**t) + EPS)
        yield w


REFERENCES = {
    "adadelta": adadelta_reference,
    "adagrad": adagrad_reference,
    "adam": adam_reference,
    "adam_max": adam_max_reference,
    "adamax": adamax_reference,
    "nadam": nadam_reference,
    "rmsprop": rmsprop_reference,
}


def test_every_factory_is_tested():
    transformations = {n for n in optimizers.__all__ if n.startswith("scale_by_")}
    assert transformations == {f"scale_by_{n}" for n in NAMES} | {"scale_by_sparsity"}
    assert set(NAMES) <= set(optimizers.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_trajectory_follows_the_formulas(name, x64):
    factory = getattr(optimizers, name)
    actual = jax.jit(lambda rate: run(factory(rate), jnp.asarray(START)))(0.1)
    expected = np.stack(list(REFERENCES[name](numpy_gradient, START, 0.1)))
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_transformation_is_the_factory_without_the_rate(name):
    factory = getattr(optimizers, name)
    transformation = getattr(optimizers, f"scale_by_{name}")
    start = jnp.asarray(START, jnp.float32)
    chained = optax.chain(transformation(), optax.scale_by_learning_rate(0.1))
    np.testing.assert_array_equal(run(chained, start, 5), run(factory(0.1), start, 5))


def test_adadelta_has_its_own_updates_in_the_numerator(x64):
    actual = run(optimizers.adadelta(1.0), jnp.asarray(START))
    printed = np.stack(list(adadelta_reference(numpy_gradient, START, 1.0, numerator="v")))
    assert np.max(np.abs(actual - printed)) > 0.1


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        (optimizers.adam(0.1), optax.adam(0.1)),
        (optimizers.nadam(0.1), optax.nadam(0.1)),
        (optimizers.adamax(0.1), optax.adamax(0.1, eps=1e-30)),
        (optimizers.rmsprop(0.1), optax.rmsprop(0.1, eps_in_sqrt=False)),
    ],
    ids=["adam", "nadam", "adamax", "rmsprop"],
)
def test_values_are_those_of_the_published_algorithm(ours, published, x64):
    start = jnp.asarray(START)
    np.testing.assert_allclose(run(ours, start), run(published, start), rtol=1e-5)
