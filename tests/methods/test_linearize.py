"""value_and_grad and linearize_grad: the same step as through value_fn, in every way to take it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.networks import INNER, mlp_batches, mlp_loss, mlp_params

import hyperlr

pytestmark = pytest.mark.usefixtures("x64")
STEPS = 12
RULE = hyperlr.adaptive_sgd(1e-3, 1e-4)
METHODS = {
    "hd": lambda inner: hyperlr.hd(inner, 0.05, 1e-3),
    "rtho": lambda inner: hyperlr.rtho(inner, 0.05, 1e-4),
    "marthe": lambda inner: hyperlr.marthe(
        inner, 0.05, hyper_learning_rate=1e-3, meta_learning_rate=1e-4
    ),
    "reverse": lambda inner: hyperlr.marthe(
        inner, 0.05, hyper_learning_rate=1e-3, hvp="reverse_over_reverse"
    ),
    "difference": lambda inner: hyperlr.marthe(
        inner, 0.05, hyper_learning_rate=1e-3, hvp="finite_difference"
    ),
}
MOMENTUM = functools.partial(optax.sgd, momentum=0.9)


def through_value_fn(tx, params, state, batch, val_batch):
    value_fn = functools.partial(mlp_loss, batch=batch)
    extra = {"value_fn": value_fn}
    if val_batch is not None:
        extra["val_grad"] = jax.grad(mlp_loss)(params, val_batch)
    return tx.update(jax.grad(value_fn)(params), state, params, **extra)


def through_extra(tx, params, state, batch, val_batch):
    _, grads, extra = hyperlr.value_and_grad(mlp_loss)(
        params, batch, state=state, val_batch=val_batch
    )
    return tx.update(grads, state, params, **extra)


def through_grad_fn(tx, params, state, batch, val_batch):
    gradient = functools.partial(jax.grad(mlp_loss), batch=batch)
    grads, extra = hyperlr.linearize_grad(gradient, params, state)
    if val_batch is not None:
        extra["val_grad"] = jax.grad(mlp_loss)(params, val_batch)
    return tx.update(grads, state, params, **extra)


def run(tx, way, validates=False):
    """The state after a dozen steps, in one scan."""
    params = mlp_params(jax.random.key(0))
    batches = (mlp_batches(jax.random.key(1), STEPS), mlp_batches(jax.random.key(2), STEPS))

    def step(carry, batches):
        params, state = carry
        batch, val_batch = batches
        updates, state = way(tx, params, state, batch, val_batch if validates else None)
        return (optax.apply_updates(params, updates), state), hyperlr.metrics(state)

    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), batches))()


@pytest.mark.parametrize("validates", [False, True], ids=["E=L", "validation"])
@pytest.mark.parametrize(
    ("method", "inner"),
    [
        ("marthe", "sgd"),
        ("marthe", "momentum"),
        ("marthe", "adam"),
        ("marthe", "chain"),
        ("hd", "momentum"),
        ("rtho", "adamw"),
        ("reverse", "momentum"),
        ("difference", "momentum"),
    ],
)
def test_the_step_is_that_of_value_fn(method, inner, validates):
    tx = METHODS[method](INNER[inner])
    expected, record = run(tx, through_value_fn, validates)
    assert record["learning_rate"][-1] != record["learning_rate"][0]
    for way in (through_extra, through_grad_fn):
        found, found_record = run(tx, way, validates)
        # A difference over a step of 1e-5 keeps ten digits of sixteen.
        rtol = 1e-6 if method == "difference" else 1e-10
        chex.assert_trees_all_close(found_record, record, rtol=rtol, atol=1e-14)
        chex.assert_trees_all_close(found, expected, rtol=rtol, atol=1e-12)


def test_several_hyperparameters_and_those_of_the_loss():
    def penalized(params, batch, of_loss):
        squares = sum(jnp.sum(w**2) for w in jax.tree.leaves(params))
        return mlp_loss(params, batch) + of_loss["penalty"] * squares

    tx = hyperlr.online(
        MOMENTUM,
        {"learning_rate": 0.05, "momentum": 0.8, "penalty": 0.01},
        hyper_optimizer=RULE,
        bounds={"momentum": (0.0, 0.99)},
        loss_hyperparams=("penalty",),
    )

    def with_value_fn(tx, params, state, batch, val_batch):
        def value_fn(params, of_loss):
            return penalized(params, batch, of_loss)

        grads = jax.grad(value_fn)(params, {"penalty": hyperlr.metrics(state)["penalty"]})
        val_grad = jax.grad(mlp_loss)(params, val_batch)
        return tx.update(grads, state, params, value_fn=value_fn, val_grad=val_grad)

    def with_extra(tx, params, state, batch, val_batch):
        _, grads, extra = hyperlr.value_and_grad(penalized)(params, batch, state=state)
        val_grad = jax.grad(mlp_loss)(params, val_batch)
        return tx.update(grads, state, params, **extra | {"val_grad": val_grad})

    def with_grad_fn(tx, params, state, batch, val_batch):
        def gradient(params, of_loss):
            return jax.grad(penalized)(params, batch, of_loss)

        grads, extra = hyperlr.linearize_grad(gradient, params, state)
        val_grad = jax.grad(mlp_loss)(params, val_batch)
        return tx.update(grads, state, params, **extra | {"val_grad": val_grad})

    expected, record = run(tx, with_value_fn, True)
    assert record["penalty"][-1] != record["penalty"][0]
    for way in (with_extra, with_grad_fn):
        found, found_record = run(tx, way, True)
        chex.assert_trees_all_close(found_record, record, rtol=1e-10, atol=1e-14)
        chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-12)


def test_auxiliary_values_are_handed_on():
    def with_aux(params, batch):
        return mlp_loss(params, batch), {"mean": jnp.mean(batch[0])}

    params = mlp_params(jax.random.key(0))
    batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(1), 1))
    for tx in (METHODS["marthe"](optax.sgd), optax.with_extra_args_support(optax.sgd(0.1))):
        state = tx.init(params)
        (value, aux), grads, extra = hyperlr.value_and_grad(with_aux, has_aux=True)(
            params, batch, state=state
        )
        np.testing.assert_allclose(value, mlp_loss(params, batch))
        np.testing.assert_allclose(aux["mean"], jnp.mean(batch[0]))
        np.testing.assert_allclose(extra["value"], value)
        chex.assert_trees_all_close(grads, jax.grad(mlp_loss)(params, batch))
        (grads, aux), extra = hyperlr.linearize_grad(
            lambda w: (jax.grad(mlp_loss)(w, batch), 3.0), params, state, has_aux=True
        )
        assert aux == 3.0
        tx.update(grads, state, params, **extra)


def test_a_state_without_a_method_asks_for_nothing():
    params, batch = jnp.ones(3), jnp.zeros((4, 3))
    state = optax.adam(0.1).init(params)
    loss_fn = lambda w, x: jnp.mean((x - w[None]) ** 2)
    value, grads, extra = hyperlr.value_and_grad(loss_fn)(params, batch, state=state)
    np.testing.assert_allclose(value, loss_fn(params, batch))
    assert extra.keys() == {"value"}
    np.testing.assert_allclose(grads, jax.grad(loss_fn)(params, batch))
    assert hyperlr.linearize_grad(jax.grad(lambda w: loss_fn(w, batch)), params, state)[1] == {}


def test_hd_asks_for_no_product():
    params = jnp.ones(3)
    state = hyperlr.hd(optax.sgd, 0.1, 1e-3).init(params)
    loss_fn = lambda w, x: jnp.mean((x - w[None]) ** 2)
    _, _, extra = hyperlr.value_and_grad(loss_fn)(params, jnp.zeros((4, 3)), state=state)
    assert extra.keys() == {"value"}


def test_share_takes_the_product_on_the_leading_part():
    tx = hyperlr.rtho(MOMENTUM, 0.05, 1e-3)
    params = mlp_params(jax.random.key(0))
    batches = mlp_batches(jax.random.key(1), 3, batch_size=8)
    state = tx.init(params)
    for i in range(3):
        batch = jax.tree.map(lambda x, i=i: x[i], batches)
        part = jax.tree.map(lambda x: x[:2], batch)
        _, grads, extra = hyperlr.value_and_grad(mlp_loss, share=0.25)(params, batch, state=state)
        chex.assert_trees_all_close(grads, jax.grad(mlp_loss)(params, batch))
        chex.assert_trees_all_close(extra["val_grad"], jax.grad(mlp_loss)(params, part))
        z = state.tangent["learning_rate"].params
        product = jax.jvp(lambda w: jax.grad(mlp_loss)(w, part), (params,), (z,))[1]
        chex.assert_trees_all_close(extra["hessian_product"][0].hessian["learning_rate"], product)
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)


def test_share_needs_arrays_of_one_length():
    state = hyperlr.rtho(optax.sgd, 0.05, 1e-3).init(jnp.ones(3))
    with pytest.raises(ValueError, match=r"share=0.5 .* lengths \[3, 4\]"):
        hyperlr.value_and_grad(lambda w, b: jnp.sum(w), share=0.5)(
            jnp.ones(3), (jnp.ones(3), jnp.ones(4)), state=state
        )
    with pytest.raises(ValueError, match="share must lie in"):
        hyperlr.value_and_grad(lambda w, b: jnp.sum(w), share=0.0)


@pytest.mark.parametrize(
    "way",
    [
        "partition",
        "multi_transform",
        "selective_transform",
        "masked",
        "flatten",
        "apply_if_finite",
        "chain",
    ],
)
def test_what_is_learned_of_a_part_is_what_that_part_alone_learns(way):
    """A backbone frozen by optax's recipes; the loss reads all parameters, as real losses do."""
    whole = {"backbone": 0.5 * jnp.eye(3), "head": jnp.ones(3) / 3}
    x = jax.random.normal(jax.random.key(0), (32, 3))
    loss = lambda w, x: jnp.mean((jnp.tanh(x @ w["backbone"]) @ w["head"] - jnp.sin(x[:, 0])) ** 2)
    tx = hyperlr.marthe(MOMENTUM, 0.01, hyper_learning_rate=1e-2)
    parts = {"train": tx, "freeze": optax.set_to_zero()}
    labels = {"backbone": "freeze", "head": "train"}
    wrapped = {
        "partition": lambda: optax.partition(parts, labels),
        "multi_transform": lambda: optax.multi_transform(parts, labels),
        "selective_transform": lambda: optax.transforms.selective_transform(
            tx, freeze_mask={"backbone": True, "head": False}
        ),
        "masked": lambda: optax.chain(
            optax.masked(tx, {"backbone": False, "head": True}),
            optax.masked(optax.set_to_zero(), {"backbone": True, "head": False}),
        ),
        "flatten": lambda: optax.flatten(tx),
        "apply_if_finite": lambda: optax.apply_if_finite(tx, 3),
        "chain": lambda: optax.chain(optax.identity(), tx),
    }[way]()
    freezes = way not in ("flatten", "apply_if_finite", "chain")

    def learned(tx, params, loss):
        @jax.jit
        def step(params, state):
            _, grads, extra = hyperlr.value_and_grad(loss)(params, x, state=state)
            updates, state = tx.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        state = tx.init(params)
        for _ in range(10):
            params, state = step(params, state)
        return hyperlr.metrics(state)["learning_rate"]

    if freezes:
        alone = learned(tx, whole["head"], lambda head, x: loss(whole | {"head": head}, x))
    else:
        alone = learned(tx, whole, loss)
    assert abs(alone - 0.01) > 1e-3
    np.testing.assert_allclose(learned(wrapped, whole, loss), alone, rtol=1e-10)


def test_frozen_inside_the_factory_has_no_tangent():
    """What no rate can move takes no memory, and no part in ‖∇E‖."""
    params = {"backbone": jnp.ones((4, 3)), "head": jnp.ones(3)}
    labels = {"backbone": "freeze", "head": "train"}

    def factory(learning_rate):
        return optax.partition(
            {"train": optax.adam(learning_rate), "freeze": optax.set_to_zero()}, labels
        )

    tx = hyperlr.marthe(factory, 0.1, hyper_learning_rate=1e-3)
    state = tx.init(params)
    tangent = state.tangent["learning_rate"]
    assert tangent.params["backbone"] is None
    assert sum(x.size for x in jax.tree.leaves(tangent)) == 3 + 2 * 3  # Z of w, and of two moments
    loss = lambda w, x: jnp.sum((x @ w["backbone"] @ w["head"] - 1.0) ** 2)
    _, grads, extra = hyperlr.value_and_grad(loss)(params, jnp.ones((2, 4)), state=state)
    chex.assert_trees_all_equal_structs(tx.update(grads, state, params, **extra)[1], state)


def test_accumulated_microbatches_are_the_batch():
    params = mlp_params(jax.random.key(0))
    batches = mlp_batches(jax.random.key(1), 8, batch_size=24)
    tx = METHODS["marthe"](MOMENTUM)

    def accumulated(tx, params, state, batch, val_batch):
        micro = jax.tree.map(lambda x: x.reshape(4, 6, *x.shape[1:]), batch)

        def gradient(params):
            grads = jax.lax.map(lambda batch: jax.grad(mlp_loss)(params, batch), micro)
            return jax.tree.map(lambda g: jnp.mean(g, axis=0), grads)

        grads, extra = hyperlr.linearize_grad(gradient, params, state)
        return tx.update(grads, state, params, **extra)

    def trained(way):
        def step(carry, batch):
            updates, state = way(tx, *carry, batch, None)
            return (optax.apply_updates(carry[0], updates), state), hyperlr.metrics(state)

        return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), batches))()

    chex.assert_trees_all_close(trained(accumulated), trained(through_extra), rtol=1e-9)


def test_multi_steps_around_a_method_is_warned_of():
    tx = optax.MultiSteps(METHODS["marthe"](optax.sgd), 2)
    params = jnp.ones(3)
    with pytest.warns(UserWarning, match="accumulate inside the function"):
        hyperlr.value_and_grad(lambda w, x: jnp.sum(w**2))(params, None, state=tx.init(params))


def test_scaled_losses_in_float16_give_the_hypergradients_of_float32():
    """As DynamicScale does: scaled before the gradient, and unscaled after it."""
    scale = 2.0**10
    params = jax.tree.map(lambda x: x.astype(jnp.float32), mlp_params(jax.random.key(0)))
    batches = jax.tree.map(lambda x: x.astype(jnp.float32), mlp_batches(jax.random.key(1), STEPS))
    tx = METHODS["marthe"](MOMENTUM)

    def halved(params, batch):
        params, batch = jax.tree.map(lambda x: x.astype(jnp.float16), (params, batch))
        return mlp_loss(params, batch).astype(jnp.float32)

    def trained(gradient_on):
        def step(carry, batch):
            params, state = carry
            grads, extra = hyperlr.linearize_grad(gradient_on(batch), params, state)
            updates, state = tx.update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), hyperlr.metrics(state)

        return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), batches))()[1]

    exact = trained(lambda batch: lambda w: jax.grad(mlp_loss)(w, batch))
    scaled = trained(
        lambda batch: (
            lambda w: jax.tree.map(
                lambda g: g / scale, jax.grad(lambda w: scale * halved(w, batch))(w)
            )
        )
    )
    for name in ("learning_rate", "hypergradient"):
        size = np.abs(exact[name]).max()
        np.testing.assert_allclose(scaled[name], exact[name], rtol=1e-2, atol=1e-2 * size)


def test_vmap_and_eager_agree_with_jit():
    tx = METHODS["marthe"](MOMENTUM)
    params = mlp_params(jax.random.key(0))
    batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(1), 1))

    def two_steps(params):
        state = tx.init(params)
        for _ in range(2):
            updates, state = through_grad_fn(tx, params, state, batch, None)
            params = optax.apply_updates(params, updates)
        return params, state

    expected = jax.jit(two_steps)(params)
    chex.assert_trees_all_close(two_steps(params), expected, rtol=1e-10)
    lanes = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    first = jax.tree.map(lambda x: x[0], jax.jit(jax.vmap(two_steps))(lanes))
    chex.assert_trees_all_close(first, expected, rtol=1e-10)


def test_the_rate_is_found_by_its_name():
    tx = optax.chain(optax.clip(1.0), METHODS["marthe"](MOMENTUM))
    state = tx.init(mlp_params(jax.random.key(0)))
    np.testing.assert_allclose(optax.tree.get(state, "learning_rate"), 0.05)
