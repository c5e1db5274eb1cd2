"""What a step costs, where it is exact: FLOPs of the compiled program, and calls."""

import functools
import itertools

import jax
import jax.numpy as jnp
import optax
import pytest
from problems.networks import NETWORK_SIZES, network_loss

import hyperlr


def flops(tx, *, validation, plain=False):
    """FLOPs of one compiled training step on 784-500-500-500-10 with batches of 100."""

    def step(params, state, batch, val_batch):
        value_fn = functools.partial(network_loss, batch=batch)
        grads = jax.grad(value_fn)(params)
        extra = {} if plain else {"value_fn": value_fn}
        if validation:
            extra["val_grad"] = jax.grad(network_loss)(params, val_batch)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    shape = jax.ShapeDtypeStruct
    params = [
        {"w": shape((m, n), jnp.float32), "b": shape((n,), jnp.float32)}
        for m, n in itertools.pairwise(NETWORK_SIZES)
    ]
    batch = (shape((100, 784), jnp.float32), shape((100,), jnp.int32))
    state = jax.eval_shape(tx.init, params)
    return jax.jit(step).lower(params, state, batch, batch).compile().cost_analysis()["flops"]


@pytest.fixture(scope="module")
def plain_flops():
    return flops(optax.sgd(0.01), validation=False, plain=True)


RATE = {"learning_rate": 0.01}
RULE = hyperlr.adaptive_sgd(1e-3)


# In units of a gradient: gradient 1, validation gradient 1, Hessian-vector product 1.66; what is
# above that is elementwise work. A gradient computed twice would add 1.
@pytest.mark.parametrize(
    ("tx", "validation", "expected"),
    [
        (hyperlr.hd(optax.sgd, 0.01, 1e-3), False, 1.01),
        (hyperlr.hd(optax.sgd, 0.01, 1e-3), True, 2.01),
        (hyperlr.rtho(optax.sgd, 0.01, 1e-3), False, 2.67),
        (hyperlr.rtho(optax.sgd, 0.01, 1e-3), True, 3.67),
        (hyperlr.marthe(optax.sgd, 0.01, meta_learning_rate=1e-6), False, 2.68),
        (hyperlr.marthe(optax.sgd, 0.01, meta_learning_rate=1e-6), True, 3.68),
        (
            hyperlr.online(optax.sgd, RATE, hyper_optimizer=RULE, hvp="finite_difference"),
            False,
            2.04,
        ),
        (
            hyperlr.online(optax.sgd, RATE | {"momentum": 0.9}, hyper_optimizer=RULE, discount=0.9),
            False,
            1 + 2 * 1.66 + 0.09,
        ),
    ],
    ids=["hd", "hd-val", "rtho", "rtho-val", "marthe", "marthe-val", "difference", "two-tangents"],
)
def test_flops_are_at_the_floor(tx, validation, expected, plain_flops):
    ratio = flops(tx, validation=validation) / plain_flops
    assert expected - 0.05 < ratio < expected + 0.005


@pytest.mark.parametrize(
    "tx",
    [hyperlr.hd(optax.sgd, 0.01, 1e-3), hyperlr.marthe(optax.sgd, 0.01, meta_learning_rate=1e-6)],
    ids=["hd", "marthe"],
)
def test_a_guard_costs_next_to_nothing(tx):
    """A loss of its own, not merged with that of the gradients, would add a third of a gradient."""
    ratio = flops(hyperlr.guard(tx), validation=False) / flops(tx, validation=False)
    assert 1.0 < ratio < 1.05


def with_three(rule):
    return hyperlr.online(
        optax.adam,
        {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.99},
        discount=0.9,
        hyper_optimizer=rule,
        bounds={"b1": (0, 0.99), "b2": (0, 0.9999)},
    )


def num_instructions(tx, num_layers):
    """Of the compiled step of a network with so many layers of 40 units."""
    shape = jax.ShapeDtypeStruct
    params = [
        {"w": shape((m, n), jnp.float32), "b": shape((n,), jnp.float32)}
        for m, n in itertools.pairwise([40] * num_layers + [10])
    ]

    def step(params, state, batch):
        _, grads, extra = hyperlr.value_and_grad(network_loss)(params, batch, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    batch = shape((8, 40), jnp.float32), shape((8,), jnp.int32)
    lowered = jax.jit(step).lower(params, jax.eval_shape(tx.init, params), batch)
    return lowered.compile().as_text().count(" = ")


@pytest.mark.parametrize(
    "tx",
    [
        hyperlr.guard(optax.adam(0.01)),
        hyperlr.marthe(optax.adam, 0.01, meta_learning_rate=1e-6),
        with_three(RULE),
        hyperlr.auto(optax.adam),
    ],
    ids=["guard", "marthe", "three", "auto"],
)
def test_the_program_grows_like_the_number_of_layers(tx):
    """Were what is decided over all arrays computed for each, it would grow with its square."""
    few, more, many = (num_instructions(tx, n) for n in (3, 6, 12))
    assert many - more < 2.2 * (more - few)


def test_what_a_rule_computes_is_not_computed_for_every_layer():
    """A layer more is as many instructions more, whatever the rule that moves η."""
    growth = [
        num_instructions(with_three(rule), 4) - num_instructions(with_three(rule), 2)
        for rule in (optax.sgd(1e-3), optax.sgd(1e-3, momentum=0.9))
    ]
    assert growth[0] == growth[1]


@pytest.mark.parametrize(
    ("tx", "calls"),
    [
        (hyperlr.hd(optax.sgd, 0.01, 1e-3), 0),
        (hyperlr.marthe(optax.sgd, 0.01, meta_learning_rate=1e-6), 1),
        (hyperlr.online(optax.sgd, RATE | {"momentum": 0.9}, hyper_optimizer=RULE), 1),
    ],
    ids=["hd", "marthe", "two-tangents"],
)
def test_the_loss_is_traced_once_and_never_by_hd(tx, calls):
    traced = []

    def value_fn(w):
        traced.append(1)
        return jnp.sum(w**2)

    w = jnp.ones(3)
    jax.jit(lambda s, w: tx.update(w, s, w, value_fn=value_fn))(tx.init(w), w)
    assert len(traced) == calls


@pytest.mark.parametrize(
    ("tx", "copies"),
    [
        (hyperlr.hd(optax.sgd, 0.01, 1e-3), 1),
        (hyperlr.hd(functools.partial(optax.sgd, momentum=0.9), 0.01, 1e-3), 2),
        (hyperlr.rtho(optax.sgd, 0.01, 1e-3), 1),
        (hyperlr.marthe(optax.sgd, 0.01, meta_learning_rate=1e-6), 2),
        (hyperlr.rtho(functools.partial(optax.sgd, momentum=0.9), 0.01, 1e-3), 3),
        (hyperlr.guard(hyperlr.marthe(optax.sgd, 0.01, meta_learning_rate=1e-6)), 3),
        (hyperlr.guard(hyperlr.hd(functools.partial(optax.sgd, momentum=0.9), 0.01, 1e-3)), 3),
    ],
    ids=["hd", "hd-momentum", "rtho", "marthe", "rtho-momentum", "guard", "guard-momentum"],
)
def test_the_state_holds_what_the_algorithm_needs(tx, copies):
    """Copies of the parameters: the inner state, Z (both parts), and B where μ adapts.

    The guard keeps one of the parameters.
    """
    state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((1000,), jnp.float32))
    assert sum(x.size for x in jax.tree.leaves(state)) // 1000 == copies


def test_every_buffer_of_a_new_state_can_be_donated():
    for tx in (
        hyperlr.hd(optax.sgd, 0.01, 1e-3),
        hyperlr.marthe(optax.adam, 0.01, meta_learning_rate=1e-6),
    ):
        buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tx.init(jnp.ones(3)))]
        assert len(set(buffers)) == len(buffers)
