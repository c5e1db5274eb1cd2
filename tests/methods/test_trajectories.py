"""50-step trajectories of every algorithm against float64 NumPy, and the sources' misprints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import train
from problems.reference import Batch, make_batches, run

import hyperlr

pytestmark = pytest.mark.usefixtures("x64")

STEPS, SIZE, KAPPA = 50, 4, 1e-7
TRAIN, VAL = make_batches(STEPS, SIZE, seed=1), make_batches(STEPS, SIZE, seed=2)
W0 = np.linspace(-1.0, 1.5, SIZE)


def loss(w, batch):
    return 0.5 * w @ (batch.matrix @ w) + 0.25 * jnp.sum(w**4) - batch.vector @ w


def stack(batches):
    return Batch(*map(np.stack, zip(*batches, strict=True)))


def inner(momentum):
    return functools.partial(optax.sgd, momentum=momentum) if momentum else optax.sgd


def marthe_scale_free(inner, learning_rate, gamma, discount):
    rule = hyperlr.exponentiated_gradient(gamma)
    return hyperlr.marthe(inner, learning_rate, discount=discount, hyper_optimizer=rule)


ALGORITHMS = {
    "hd": (
        lambda inner: hyperlr.hd(inner, 0.02, 1e-3),
        {"learning_rate": 0.02, "hyper_learning_rate": 1e-3, "discount": 0.0},
    ),
    "rtho": (
        lambda inner: hyperlr.rtho(inner, 0.02, 3e-4),
        {"learning_rate": 0.02, "hyper_learning_rate": 3e-4, "discount": 1.0},
    ),
    "marthe_fixed": (
        lambda inner: hyperlr.marthe(inner, 0.02, hyper_learning_rate=1e-3, discount=0.9),
        {"learning_rate": 0.02, "hyper_learning_rate": 1e-3, "discount": 0.9},
    ),
    "marthe_mu": (
        lambda inner: hyperlr.marthe(inner, 0.02, hyper_learning_rate=1e-3),
        {"learning_rate": 0.02, "hyper_learning_rate": 1e-3},
    ),
    "marthe_beta": (
        lambda inner: hyperlr.marthe(inner, 0.02, meta_learning_rate=KAPPA, discount=0.9),
        {
            "learning_rate": 0.02,
            "hyper_learning_rate": 0.0,
            "meta_learning_rate": KAPPA,
            "discount": 0.9,
        },
    ),
    "marthe": (
        lambda inner: hyperlr.marthe(inner, 0.02, meta_learning_rate=KAPPA),
        {"learning_rate": 0.02, "hyper_learning_rate": 0.0, "meta_learning_rate": KAPPA},
    ),
    "marthe_from_zero": (
        lambda inner: hyperlr.marthe(inner, meta_learning_rate=KAPPA),
        {"learning_rate": 0.0, "hyper_learning_rate": 0.0, "meta_learning_rate": KAPPA},
    ),
    "marthe_scale_free": (
        lambda inner: marthe_scale_free(inner, 0.01, 0.1, 0.9),
        {
            "learning_rate": 0.01,
            "hyper_learning_rate": 0.1,
            "discount": 0.9,
            "scale_free": True,
        },
    ),
}


@pytest.mark.parametrize("separate_objective", [False, True], ids=["E=L", "validation"])
@pytest.mark.parametrize("momentum", [0.0, 0.5], ids=["sgd", "momentum"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_trajectory_is_the_reference_one(algorithm, momentum, separate_objective):
    make, settings = ALGORITHMS[algorithm]
    val = VAL if separate_objective else None
    expected = run(W0, TRAIN, val, momentum=momentum, **settings)
    val_batches = stack(val) if separate_objective else None
    tx = make(inner(momentum))
    _, _, record = train(tx, jnp.array(W0), stack(TRAIN), loss, val_batches)
    for key, values in expected.items():
        np.testing.assert_allclose(record[key], values, rtol=1e-9, atol=1e-12, err_msg=key)
    # A rate that never moved would make the comparison empty.
    assert np.ptp(expected["learning_rate"]) > 1e-3


def test_the_reference_problem_exercises_both_adaptations():
    settings = ALGORITHMS["marthe"][1]
    record = run(W0, TRAIN, VAL, **settings)
    assert np.sum(record["discount"] == 0) > 3
    assert np.sum((record["discount"] > 0) & (record["discount"] < 1)) > 3
    assert np.sum(np.diff(record["hyper_learning_rate"]) < 0) > 3


def test_beta_grows_while_hypergradients_agree():
    """Algorithm 1 as printed has −κ Δη_t Δη_{t−1}: from η_0 = β_0 = 0 it would never start."""
    tx = hyperlr.marthe(optax.sgd, meta_learning_rate=KAPPA)
    batches = Batch(*(np.repeat(x[None], 5, axis=0) for x in TRAIN[0]))
    _, _, record = train(tx, jnp.array(W0), batches, loss)
    agree = record["hypergradient"][1:] * record["hypergradient"][:-1]
    assert np.all(agree[1:] > 0)
    assert np.all(np.diff(record["hyper_learning_rate"])[1:] > 0)
    assert record["learning_rate"][-1] > 0


def test_discount_uses_the_gradient_of_the_objective_and_not_its_value():
    """Eq. 10 as printed has E(w_{t+1}) in its last factor; shifting E must not change μ."""
    shifted = lambda w, batch: loss(w, batch) + 100.0
    tx = hyperlr.marthe(optax.sgd, 0.02, hyper_learning_rate=1e-3)
    *_, plain = train(tx, jnp.array(W0), stack(TRAIN), loss, stack(VAL))
    *_, moved = train(tx, jnp.array(W0), stack(TRAIN), shifted, stack(VAL))
    np.testing.assert_allclose(plain["discount"], moved["discount"], rtol=1e-12)
    # The last factor as ∇E: μ_2 = clip(⟨Z_2, e⟩ / ⟨B_1, e⟩, 0, 1)^(1/(c_1 + 1)), step by hand.
    w = [W0]
    eta = [0.02]
    for t in range(2):
        w.append(np.asarray(plain["params"][t]))
        eta.append(float(plain["learning_rate"][t]))
    g = [jax.grad(loss)(jnp.array(w[t]), TRAIN[t]) for t in range(2)]
    hessian = jax.hessian(loss)(jnp.array(w[1]), TRAIN[1])
    e = jax.grad(loss)(jnp.array(w[2]), VAL[2])
    assert plain["discount"][1] == 1.0
    z = -g[0] + eta[2] * hessian @ g[0] - g[1]  # Z_2 = μ_1 A_1 Z_1 + B_1, with Z_1 and not Z_0
    expected = np.clip((z @ e) / (-g[1] @ e), 0.0, 1.0)
    np.testing.assert_allclose(plain["discount"][2], expected, rtol=1e-9)
