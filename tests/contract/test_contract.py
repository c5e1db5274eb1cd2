"""What every public transformation promises, whatever it is wrapped in."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.types import types

import hyperlr

STEPS = 10
MOMENTUM = functools.partial(optax.sgd, momentum=0.9)

TRANSFORMATIONS = {
    "hd": lambda: hyperlr.hd(MOMENTUM, 0.01, 1e-4),
    "rtho": lambda: hyperlr.rtho(MOMENTUM, 0.01, 1e-4),
    "marthe": lambda: hyperlr.marthe(MOMENTUM, 0.01, meta_learning_rate=1e-6),
    "marthe_scale_free": lambda: hyperlr.marthe(
        MOMENTUM, 0.01, discount=0.99, hyper_optimizer=hyperlr.exponentiated_gradient(0.1)
    ),
    "online": lambda: hyperlr.online(
        functools.partial(optax.adam, eps_root=1e-4),  # not 0 in float16 either
        {"learning_rate": 0.01, "b1": 0.9},
        hyper_optimizer=optax.adam(1e-3),
        bounds={"b1": (0.0, 0.99)},
    ),
    "auto": lambda: hyperlr.auto(MOMENTUM, 0.01),
    "guard": lambda: hyperlr.guard(hyperlr.marthe(MOMENTUM, 0.01, meta_learning_rate=1e-6)),
    "online_reverse": lambda: hyperlr.online(
        optax.sgd,
        {"learning_rate": 0.01},
        hyper_optimizer=hyperlr.adaptive_sgd(1e-4),
        hvp="reverse_over_reverse",
    ),
    "online_difference": lambda: hyperlr.online(
        optax.sgd,
        {"learning_rate": 0.01},
        hyper_optimizer=hyperlr.adaptive_sgd(1e-4),
        hvp="finite_difference",
    ),
}
# Transformations of hyperparameters and of schedules, not of parameters. The first two run inside
# the ones above, the last in the contract of LRS-OPT.
NOT_OF_PARAMETERS = {"adaptive_sgd", "exponentiated_gradient", "lrs_opt"}

WRAPPERS = {
    "plain": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx, optax.scale(1.0)),
    "masked": lambda tx: optax.chain(
        optax.masked(tx, lambda p: jax.tree.map(lambda x: x.ndim > 0, p)),
        optax.masked(optax.set_to_zero(), lambda p: jax.tree.map(lambda x: x.ndim == 0, p)),
    ),
    "multi_steps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
}

TREES = {
    "nested": {"w": np.full((3, 2), 0.5), "b": (np.array(2.0), None), "none": None},
    "scalar": np.array(2.0),
    "with_empty_leaf": [np.zeros((0,)), np.ones(2)],
    "empty": {},
}


def make_params(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), TREES[tree])


def loss(params, target):
    """Every parameter has a part in the gradient of every other."""
    squares = jax.tree.map(lambda x: jnp.sum((x - target.astype(x.dtype)) ** 2), params)
    total = sum(jax.tree.leaves(squares), jnp.zeros(()))
    return total + 0.01 * total**2


def step(tx, params, state, target):
    """One step as in a loop of optax's, with the loss as an extra argument."""
    value_fn = functools.partial(loss, target=target)
    grads = jax.grad(value_fn)(params)
    val_grad = jax.grad(loss)(params, target + 0.1)
    updates, state = tx.update(
        grads, state, params, value_fn=value_fn, val_grad=val_grad, unknown_argument=1
    )
    return optax.apply_updates(params, updates), state


def linearized_step(tx, params, state, target):
    """The same step, with the gradient and its derivative from one place."""
    _, grads, extra = hyperlr.value_and_grad(loss)(
        params, target, state=state, val_batch=target + 0.1
    )
    updates, state = tx.update(grads, state, params, unknown_argument=1, **extra)
    return optax.apply_updates(params, updates), state


# A mask shows the method a part of the parameters, of which no loss can be called; MultiSteps
# hands on the derivatives of the last microbatch alone, and value_and_grad warns of it.
WAYS = {"masked": [linearized_step], "multi_steps": [step]}


def targets():
    return jnp.linspace(0.5, 1.5, STEPS)


@pytest.mark.parametrize(
    ("wrapper", "way"),
    [(name, way) for name in WRAPPERS for way in WAYS.get(name, [step, linearized_step])],
)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_one_trace_stable_types_and_learning(name, wrapper, way):
    tx = WRAPPERS[wrapper](TRANSFORMATIONS[name]())
    params = make_params("nested", jnp.float32)
    state = tx.init(params)
    traces = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def jitted(params, state, target):
        traces.append(1)
        return way(tx, params, state, target)

    before, initial = types((params, state)), hyperlr.metrics(state)
    initial = jax.tree.map(np.asarray, initial)
    for target in targets():
        params, state = jitted(params, state, target)
        assert types((params, state)) == before
    assert len(traces) == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state)))
    assert hyperlr.metrics(state)["learning_rate"] != initial["learning_rate"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_scan_and_vmap_give_the_same_as_a_loop(name):
    tx = TRANSFORMATIONS[name]()
    params = make_params("nested", jnp.float64)
    lanes = jax.tree.map(lambda x: jnp.stack([x, 2 * x, 3 * x]), params)

    def scanned(params):
        carry = (params, tx.init(params))
        carry, _ = jax.lax.scan(lambda c, t: (step(tx, *c, t), None), carry, targets())
        return carry

    run = jax.jit(step, static_argnums=0)
    together = jax.jit(jax.vmap(scanned))(lanes)
    for lane in range(3):
        alone = jax.tree.map(lambda x, lane=lane: x[lane], lanes)
        state = tx.init(alone)
        for target in targets():
            alone, state = run(tx, alone, state, target)
        jax.tree.map(
            lambda x, y, lane=lane: np.testing.assert_allclose(x[lane], y, rtol=1e-6, atol=1e-12),
            together,
            (alone, state),
        )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_trees_and_dtypes(name, tree, dtype, request):
    if dtype == jnp.float64:
        request.getfixturevalue("x64")
    tx = TRANSFORMATIONS[name]()
    params = make_params(tree, dtype)
    state = tx.init(params)
    before = types((params, state))
    params, state = jax.jit(step, static_argnums=0)(tx, params, state, targets()[0])
    assert types((params, state)) == before
    assert all(np.isfinite(x.astype(float)).all() for x in jax.tree.leaves((params, state)))
    scalars = hyperlr.metrics(state)
    wide = jnp.float64 if dtype == jnp.float64 and jax.tree.leaves(params) else jnp.float32
    counts = {name for name in scalars if name.startswith("num_")}
    assert {x.dtype for name, x in scalars.items() if name not in counts} == {jnp.dtype(wide)}
    assert {scalars[name].dtype for name in counts} <= {jnp.dtype(jnp.int32)}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_resume_from_saved_bytes_is_bit_identical(name):
    tx = TRANSFORMATIONS[name]()
    run = jax.jit(step, static_argnums=0)
    params = make_params("nested", jnp.float32)
    carry = (params, tx.init(params))
    for target in targets()[:5]:
        carry = run(tx, *carry, target)

    file = io.BytesIO()
    np.savez(file, *jax.tree.leaves(carry))
    file.seek(0)
    loaded = np.load(file)
    restored = jax.tree.unflatten(
        jax.tree.structure(carry), [jnp.asarray(loaded[f"arr_{i}"]) for i in range(len(loaded))]
    )
    for target in targets()[5:]:
        carry = run(tx, *carry, target)
        restored = run(tx, *restored, target)
    jax.tree.map(np.testing.assert_array_equal, carry, restored)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_missing_required_arguments_are_clear_errors(name):
    tx = TRANSFORMATIONS[name]()
    params = make_params("nested", jnp.float32)
    state = tx.init(params)
    with pytest.raises(ValueError, match="params is missing"):
        tx.update(params, state)
    if name == "hd":
        tx.update(params, state, params)
    else:
        with pytest.raises(ValueError, match="value_fn is missing"):
            tx.update(params, state, params)


def test_every_public_factory_is_in_the_table():
    factories = {
        name
        for name in hyperlr.__all__
        if callable(getattr(hyperlr, name))
        and not isinstance(getattr(hyperlr, name), type)
        and _returns_transformation(getattr(hyperlr, name))
    }
    assert factories == {n for n in TRANSFORMATIONS if n in hyperlr.__all__} | NOT_OF_PARAMETERS


def _returns_transformation(function):
    returned = function.__annotations__.get("return")
    return isinstance(returned, type) and issubclass(returned, optax.GradientTransformation)
