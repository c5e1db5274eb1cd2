"""The adaptive optimizers against their formulas in NumPy, and against the published ones."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.optimizers import EPS, NAMES, NUM_STEPS, OTHER_HYPERPARAMS, START, numpy_gradient, run

from hyperlr import optimizers

# The formulas, in NumPy. Each takes a gradient function g(w, t), t = 0, 1, …, and yields w_1 … w_T.


def adagrad_reference(gradient, w, learning_rate, eps=EPS):
    v = np.zeros_like(w)
    for t in range(NUM_STEPS):
        g = gradient(w, t)
        v = v + g * g
        w = w - learning_rate / np.sqrt(v + eps) * g
        yield w


def rmsprop_reference(gradient, w, learning_rate, decay=0.9, eps=EPS):
    v = np.zeros_like(w)
    for t in range(NUM_STEPS):
        g = gradient(w, t)
        v = decay * v + (1 - decay) * g * g
        w = w - learning_rate / np.sqrt(v + eps) * g
        yield w


def adadelta_reference(gradient, w, learning_rate, rho=0.9, eps=1e-6, numerator="u"):
    u, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(NUM_STEPS):
        g = gradient(w, t)
        v_before, v = v, rho * v + (1 - rho) * g * g
        step = -np.sqrt((u if numerator == "u" else v_before) + eps) / np.sqrt(v + eps) * g
        u = rho * u + (1 - rho) * step * step
        w = w + learning_rate * step
        yield w


def adam_reference(gradient, w, learning_rate, b1=0.9, b2=0.999, eps=0.0, eps_root=EPS):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        denominator = np.sqrt(v / (1 - b2**t) + eps_root) + eps
        w = w - learning_rate * (m / (1 - b1**t)) / denominator
        yield w


def adamw_reference(
    gradient, w, learning_rate, b1=0.9, b2=0.999, eps=0.0, eps_root=EPS, weight_decay=1e-4
):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        direction = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        w = (1 - learning_rate * weight_decay) * w - learning_rate * direction
        yield w


def adamax_reference(gradient, w, learning_rate, b1=0.9, b2=0.999, eps=0.0, eps_root=EPS):
    m, u = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, np.sqrt(g * g + eps_root) + eps)
        w = w - learning_rate / (1 - b1**t) * m / u
        yield w


def adam_max_reference(gradient, w, learning_rate, b1=0.9, b2=0.999, eps=0.0, eps_root=EPS):
    m, v = np.zeros_like(w), 0.0
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.max(np.abs(g)) ** 2
        denominator = np.sqrt(v / (1 - b2**t) + eps_root) + eps
        w = w - learning_rate * (m / (1 - b1**t)) / denominator
        yield w


def nadam_reference(gradient, w, learning_rate, b1=0.9, b2=0.999, eps=0.0, eps_root=EPS):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, NUM_STEPS + 1):
        g = gradient(w, t - 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        w = w - learning_rate * m_hat / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        yield w


REFERENCES = {
    "adadelta": adadelta_reference,
    "adagrad": adagrad_reference,
    "adam": adam_reference,
    "adam_max": adam_max_reference,
    "adamax": adamax_reference,
    "adamw": adamw_reference,
    "nadam": nadam_reference,
    "rmsprop": rmsprop_reference,
}


# None at its default, and each of a size that matters beside the gradients.
OTHER_VALUES = {
    "rho": 0.7,
    "decay": 0.7,
    "b1": 0.7,
    "b2": 0.95,
    "eps": 0.03,
    "eps_root": 0.01,
    "weight_decay": 0.2,
}


def test_every_factory_is_tested():
    transformations = {n for n in optimizers.__all__ if n.startswith("scale_by_")}
    directions = set(NAMES) - {"adamw"}  # which is that of Adam, and a decay
    assert transformations == {f"scale_by_{n}" for n in directions} | {"scale_by_sparsity"}
    factories = {n for n in optimizers.__all__ if n.islower() and not n.startswith("scale_by_")}
    assert factories == {*NAMES, "sparsity_factor"} == {*REFERENCES, "sparsity_factor"}


@pytest.mark.parametrize("defaults", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_trajectory_follows_the_formulas(name, defaults, x64):
    factory = getattr(optimizers, name)
    others = {} if defaults else {key: OTHER_VALUES[key] for key in OTHER_HYPERPARAMS[name]}
    actual = jax.jit(lambda rate: run(factory(rate, **others), jnp.asarray(START)))(0.1)
    expected = np.stack(list(REFERENCES[name](numpy_gradient, START, 0.1, **others)))
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_defaults_are_those_that_the_tests_name():
    for name in NAMES:
        signature = inspect.signature(getattr(optimizers, name))
        names = list(signature.parameters)
        assert names[0] == "learning_rate"
        for key, value in OTHER_HYPERPARAMS[name].items():
            assert signature.parameters[key].default == value


@pytest.mark.parametrize("mask", [{"w": True, "b": False}, lambda params: {"w": True, "b": False}])
def test_masked_weights_do_not_decay(mask):
    tx = optimizers.adamw(0.5, weight_decay=0.1, mask=mask)
    plain = optimizers.adam(0.5)
    params = {"w": jnp.array([3.0, -2.0]), "b": jnp.array(1.0, jnp.bfloat16)}
    grads = {"w": jnp.array([0.0, 1.0]), "b": jnp.array(1.0, jnp.bfloat16)}
    updates, _ = tx.update(grads, tx.init(params), params)
    expected, _ = plain.update(grads, plain.init(params), params)
    assert updates["b"] == expected["b"]
    np.testing.assert_allclose(updates["w"], expected["w"] - 0.05 * params["w"], rtol=1e-6)
    with pytest.raises(ValueError, match="params"):
        tx.update(grads, tx.init(params))


def test_weight_decay_may_follow_a_schedule(x64):
    tx = optimizers.adamw(1.0, weight_decay=lambda step: 0.1 * (step + 1))
    w, state = jnp.array([1.0]), None
    state = tx.init(w)
    for expected in (0.9, 0.72, 0.504):
        updates, state = tx.update(jnp.zeros(1), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(w, expected, rtol=1e-12)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"adamw"}))
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
        (optimizers.adamw(0.1, weight_decay=0.2), optax.adamw(0.1, weight_decay=0.2)),
        (optimizers.nadam(0.1), optax.nadam(0.1)),
        (optimizers.adamax(0.1), optax.adamax(0.1, eps=1e-30)),
        (optimizers.rmsprop(0.1), optax.rmsprop(0.1, eps_in_sqrt=False)),
    ],
    ids=["adam", "adamw", "nadam", "adamax", "rmsprop"],
)
def test_values_are_those_of_the_published_algorithm(ours, published, x64):
    start = jnp.asarray(START)
    np.testing.assert_allclose(run(ours, start), run(published, start), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("adadelta", {"rho": 0.7, "eps": 0.03}),
        ("adam", {"eps": 0.03, "eps_root": 0.01}),
        ("adamax", {"eps": 0.03}),
        ("adamw", {"eps": 0.03, "eps_root": 0.01, "weight_decay": 0.2}),
        ("nadam", {"eps": 0.03, "eps_root": 0.01}),
        ("rmsprop", {"eps": 0.03}),
    ],
)
def test_arguments_mean_what_they_mean_in_optax(name, others, x64):
    start = jnp.asarray(START)
    ours, theirs = (getattr(library, name)(0.1, **others) for library in (optimizers, optax))
    np.testing.assert_allclose(run(ours, start), run(theirs, start), rtol=1e-10, atol=1e-12)


def test_eps_of_adagrad_is_that_of_optax(x64):
    """Which sets the direction to 0 where all gradients were, and begins its sum at 0.1."""
    start = jnp.asarray(START)
    theirs = optax.adagrad(0.1, initial_accumulator_value=0.0, eps=0.03)
    np.testing.assert_allclose(
        run(optimizers.adagrad(0.1, eps=0.03), start), run(theirs, start), rtol=1e-10
    )
