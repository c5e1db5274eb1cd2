"""Bad input: an error that names the argument and the remedy, before any training."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import hyperlr

RULE = hyperlr.adaptive_sgd(1e-3)
RATE = {"learning_rate": 0.01}
online = functools.partial(hyperlr.online, hyper_optimizer=RULE)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: hyperlr.hd(optax.sgd(0.1), 0.1, 1e-3), TypeError, "pass optax.sgd rather than"),
        (
            lambda: hyperlr.hd(optax.sgd, True, 1e-3),
            TypeError,
            "learning_rate must be a real",
        ),
        (
            lambda: hyperlr.hd(optax.sgd, "0.1", 1e-3),
            TypeError,
            "learning_rate must be a real",
        ),
        (lambda: hyperlr.hd(optax.sgd, jnp.ones(2), 1e-3), TypeError, "learning_rate must be a sc"),
        (
            lambda: hyperlr.hd(optax.sgd, jnp.array(1j), 1e-3),
            TypeError,
            "learning_rate must be a r",
        ),
        (lambda: hyperlr.hd(optax.sgd, -0.1, 1e-3), ValueError, r"learning_rate must lie in \[0"),
        (lambda: hyperlr.hd(optax.sgd, float("nan"), 1e-3), ValueError, "learning_rate must lie"),
        (lambda: hyperlr.hd(optax.sgd, 0.1, -1.0), ValueError, "hyper_learning_rate must lie"),
        (lambda: hyperlr.hd(optax.sgd, optax.constant_schedule(0.1), 1e-3), TypeError, "scheduled"),
        (lambda: online(optax.sgd, RATE, every=0), ValueError, "every must be at least 1"),
        (lambda: online(optax.sgd, RATE, average=-1.0), ValueError, "average must lie"),
        (
            lambda: online(optax.sgd, {"discount": 0.1}),
            ValueError,
            "one of hyperlr.metrics",
        ),
        (lambda: hyperlr.marthe(optax.sgd, 0.1), ValueError, "could never move"),
        (
            lambda: hyperlr.marthe(optax.sgd, 0.1, meta_learning_rate=1e-3, hyper_optimizer=RULE),
            ValueError,
            "leave out",
        ),
        (
            lambda: hyperlr.marthe(optax.sgd, meta_learning_rate=-1e-3),
            ValueError,
            "meta_learning_rate must lie",
        ),
        (
            lambda: hyperlr.marthe(optax.sgd, 0.1, hyper_learning_rate=1e-3, discount=1.5),
            ValueError,
            r"discount must lie in \[0.0, 1.0\]",
        ),
        (lambda: online(optax.sgd, {}), TypeError, "hyperparams must be a dict"),
        (lambda: online(optax.sgd, 0.01), TypeError, "hyperparams must be a dict"),
        (lambda: online(optax.sgd, RATE | {"b1": 0.9}), TypeError, "'b1'"),
        (lambda: online(optax.sgd, {"momentum": 0.9}), TypeError, "learning_rate"),
        (lambda: online(optax.sgd, RATE, bounds={"momentum": (0.0, 1.0)}), ValueError, "momentum"),
        (
            lambda: online(optax.sgd, RATE, bounds={"learning_rate": (1.0, 0.0)}),
            ValueError,
            "lower < upper",
        ),
        (
            lambda: online(optax.sgd, RATE, bounds={"learning_rate": (0.1, 1.0)}),
            ValueError,
            r"learning_rate must lie in \[0.1, 1.0\]",
        ),
        (lambda: online(optax.sgd, RATE, bounds={"learning_rate": 1.0}), TypeError, "a pair"),
        (lambda: online(optax.sgd, RATE, hvp="exact"), ValueError, "hvp must be one of forward"),
        (
            lambda: hyperlr.online(optax.sgd, RATE, hyper_optimizer=0.1),
            TypeError,
            "hyper_optimizer must be an optax transformation",
        ),
    ],
)
def test_static_mistakes_are_refused_by_the_factory(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_mistakes_in_init_and_update():
    tx = hyperlr.marthe(optax.sgd, 0.1, meta_learning_rate=1e-3)
    params = {"w": jnp.ones((2, 3))}
    loss = lambda p: jnp.sum(p["w"] ** 2)
    state = tx.init(params)
    from_zero = hyperlr.marthe(optax.sgd, hyper_optimizer=hyperlr.exponentiated_gradient(0.2))
    with pytest.raises(ValueError, match="learning_rate, so its initial value must be positive"):
        from_zero.init(params)
    with pytest.raises(ValueError, match="does not depend on learning_rate"):
        hyperlr.hd(lambda learning_rate: optax.sgd(0.1), 0.1, 1e-3).init(params)
    with pytest.raises(TypeError, match="complex"):
        tx.init({"w": jnp.ones(2, jnp.complex64)})
    with pytest.raises(ValueError, match="grads must have the tree structure of params"):
        tx.update({"v": jnp.ones((2, 3))}, state, params, value_fn=loss)
    with pytest.raises(ValueError, match=r"grads\['w'\] has shape \(3,\)"):
        tx.update({"w": jnp.ones(3)}, state, params, value_fn=loss)
    with pytest.raises(ValueError, match="val_grad must have the tree structure of params"):
        tx.update(params, state, params, value_fn=loss, val_grad={"v": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"val_grad\['w'\] has shape \(3,\)"):
        tx.update(params, state, params, value_fn=loss, val_grad={"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"value_fn is missing.*got 0.5"):
        tx.update(params, state, params, value_fn=0.5)
    with pytest.raises(TypeError, match="value_fn must return a scalar"):
        tx.update(params, state, params, value_fn=lambda p: p["w"])
    with pytest.raises(TypeError, match="value_fn must return a scalar"):
        tx.update(params, state, params, value_fn=lambda p: (loss(p), p))


def test_metrics_of_a_foreign_state_is_an_error():
    with pytest.raises(ValueError, match="contains no state of hyperlr"):
        hyperlr.metrics(optax.sgd(0.1).init(jnp.ones(2)))


def test_scale_free_rule_used_alone_is_an_error():
    rule = hyperlr.exponentiated_gradient(0.2)
    rate = {"learning_rate": jnp.array(0.1)}
    with pytest.raises(ValueError, match="tangent_norm"):
        rule.update(rate, rule.init(rate), rate)


def test_traced_settings_are_accepted():
    """Numbers that may be traced are never branched on: β, κ, μ and η_0 as vmapped lanes."""

    def rate_after_two_steps(rate, beta, mu):
        tx = hyperlr.marthe(optax.sgd, rate, hyper_learning_rate=beta, discount=mu)
        w = jnp.ones(3)
        state = tx.init(w)
        for _ in range(2):
            _, state = tx.update(w, state, w, value_fn=lambda w: jnp.sum(w**2) / 2)
        return hyperlr.metrics(state)["learning_rate"]

    rates = jax.vmap(rate_after_two_steps)(
        jnp.full(3, 0.1), jnp.array([0.0, 0.1, 0.2]), jnp.ones(3)
    )
    assert [round(float(r), 5) for r in rates] == [0.1, 0.4, 0.7]


def test_integer_leaves_of_an_unrolled_loop_are_an_error():
    params = {"w": jnp.ones(2), "count": jnp.ones(2, jnp.int32)}
    loss = lambda p, _: jnp.sum(p["w"] * p["count"])
    with pytest.raises(TypeError, match=r"params\['count'\] has dtype int32.*close over"):
        hyperlr.unroll(optax.sgd, params, jnp.ones(3), jnp.ones(3), loss)
