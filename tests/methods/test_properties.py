"""No NaN that was not put in, whatever the numbers: drawn by hypothesis, on odd trees and dtypes.

JAX compiles for every tree and dtype, but not for every number: a small table of trees and dtypes
is compiled, and the numbers (rates, step sizes, losses, gradients) are drawn and traced.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.types import types

import hyperlr

STEPS = 10
MOMENTUM = functools.partial(optax.sgd, momentum=0.9)
RATE_BOUNDS = (0.0, 5.0)  # where several hyperparameters have bounds
MOMENTUM_BOUNDS = (0.25, 0.95)

# The same numbers in every run, so that the suite is deterministic.
EXAMPLES = 25
drawn = settings(deadline=None, derandomize=True, database=None, max_examples=EXAMPLES)


def several(hvp):
    def make(n):
        return hyperlr.online(
            optax.sgd,
            {"learning_rate": n["rate"], "momentum": 0.9},
            hyper_optimizer=hyperlr.adaptive_sgd(n["beta"], n["kappa"]),
            bounds={"learning_rate": RATE_BOUNDS, "momentum": MOMENTUM_BOUNDS},
            hvp=hvp,
        )

    return make


METHODS = {
    "hd": lambda n: hyperlr.hd(MOMENTUM, n["rate"], n["beta"]),
    "rtho": lambda n: hyperlr.rtho(MOMENTUM, n["rate"], n["beta"]),
    "marthe": lambda n: hyperlr.marthe(
        MOMENTUM, n["rate"], hyper_learning_rate=n["beta"], meta_learning_rate=n["kappa"]
    ),
    "marthe_fixed": lambda n: hyperlr.marthe(
        MOMENTUM, n["rate"], meta_learning_rate=n["kappa"], discount=n["discount"]
    ),
    "scale_free": lambda n: hyperlr.marthe(
        MOMENTUM, n["rate"], hyper_optimizer=hyperlr.exponentiated_gradient(n["gamma"])
    ),
    "forward": several("forward_over_reverse"),
    "reverse": several("reverse_over_reverse"),
    "difference": several("finite_difference"),
}

TREES = {
    "nested": {"w": np.full((2, 2), 0.5), "b": (np.array(2.0), None), "empty": [np.zeros((0, 3))]},
    "one": [np.array([1.5])],
    "scalar": np.array(-0.5),
    "integer": {"w": np.array([1.0, -2.0]), "count": np.array([3, 4], np.int32), "none": None},
}


def make_params(tree, dtype):
    return jax.tree.map(
        lambda x: jnp.asarray(x, dtype if x.dtype == float else x.dtype), TREES[tree]
    )


def is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def every(test, tree):
    """Whether ``test`` holds for every floating-point number of a tree."""
    checks = [jnp.all(test(x)) for x in jax.tree.leaves(tree) if is_float(x)]
    return functools.reduce(jnp.logical_and, checks, jnp.array(True))


def is_number(x):
    return ~jnp.isnan(x)


def zero_numbers(**numbers):
    """The numbers of a run, 0 where they are not given."""
    single = ("rate", "beta", "kappa", "gamma", "discount", "curvature", "slope", "start", "both")
    scalars = {name: np.float32(numbers.pop(name, 0.0)) for name in single}
    steps = {
        name: np.asarray(numbers.pop(name, np.zeros(STEPS)), dtype)
        for name, dtype in (("val", np.float32), ("fault", np.int32))
    }
    assert not numbers
    return scalars | steps


FAULTS = 9


def spoiled(fault, value, grads, val_grad):
    """NaN, ∞ or the largest number put into the gradients, the validation gradient or the loss."""

    def spoil(x, first):
        if not is_float(x):
            return x
        bad = jnp.array([jnp.nan, jnp.inf, jnp.finfo(x.dtype).max], x.dtype)
        hit = (fault >= first) & (fault < first + 3)
        # In the first entry alone.
        where = jnp.arange(x.size).reshape(x.shape) == 0
        return jnp.where(hit & where, bad[jnp.clip(fault - first, 0, 2)], x)

    grads, val_grad = (
        jax.tree.map(functools.partial(spoil, first=first), tree)
        for first, tree in ((1, grads), (4, val_grad))
    )
    return spoil(value, 7), grads, val_grad


def entries(size, both, w):
    """±size like w; of both signs where ``both`` is 1, so that sums of what overflows are ∞ − ∞."""
    if not is_float(w):
        return jnp.zeros_like(w)
    if w.dtype == jnp.float64:
        size = jnp.sign(size) * jnp.abs(size.astype(w.dtype)) ** 8  # as huge for float64
    signs = (1 - 2 * both * (jnp.arange(w.size) % 2)).reshape(w.shape)
    largest = jnp.finfo(w.dtype).max.astype(float)
    return jnp.clip(size * signs, -largest, largest).astype(w.dtype)


def run(method, guarded, tree, dtype, numbers):
    """What happens in every step, on L = curvature/2 Σ(w − 1)² + slope Σw."""
    tx = METHODS[method](numbers)
    tx = hyperlr.guard(tx) if guarded else tx
    params = make_params(tree, dtype)
    params = jax.tree.map(
        lambda x: x + numbers["start"].astype(x.dtype) if is_float(x) else x, params
    )

    def loss(params):
        terms = [
            jnp.sum(
                numbers["curvature"].astype(w.dtype) / 2 * (w - 1) ** 2
                + numbers["slope"].astype(w.dtype) * w
            )
            for w in jax.tree.leaves(params)
            if is_float(w)
        ]
        return sum(terms, jnp.zeros((), dtype))

    def step(carry, inputs):
        params, state = carry
        val, fault = inputs
        value, grads = jax.value_and_grad(loss, allow_int=True)(params)
        val_grad = jax.tree.map(functools.partial(entries, val, numbers["both"]), params)
        value, grads, val_grad = spoiled(fault, value, grads, val_grad)
        extra = {"value": value} if guarded else {}
        updates, new_state = tx.update(
            grads, state, params, value_fn=loss, val_grad=val_grad, **extra
        )
        after = optax.apply_updates(params, updates)
        assert types((after, new_state)) == types((params, state))
        online = new_state.inner_state if guarded else new_state
        record = {
            "finite before": every(
                jnp.isfinite, (params, state, value, jax.tree.leaves(grads), val_grad)
            ),
            "no NaN": every(is_number, (updates, new_state)),
            "ours finite": every(jnp.isfinite, online._replace(inner_state=())),
            "finite": every(jnp.isfinite, (after, new_state)),
            "integers kept": jnp.all(
                jnp.array(
                    [
                        jnp.all(a == b)
                        for a, b in zip(*map(jax.tree.leaves, (params, after)), strict=True)
                        if not is_float(a)
                    ]
                    or [True]
                )
            ),
            "hyperparams": online.hyperparams,
        }
        return (after, new_state), record

    inputs = (numbers["val"], numbers["fault"])
    return jax.lax.scan(step, (params, tx.init(params)), inputs)[1]


@functools.cache
def compiled(*case):
    return jax.jit(functools.partial(run, *case))


def outcome(case, numbers):
    return jax.tree.map(np.asarray, compiled(*case)(numbers))


def check_bounds(method, record):
    rates = record["hyperparams"]["learning_rate"].astype(float)
    upper = RATE_BOUNDS[1] if "momentum" in record["hyperparams"] else np.finfo(rates.dtype).max
    assert np.all((rates >= 0) & (rates <= upper))
    if "momentum" in record["hyperparams"]:
        momentum = record["hyperparams"]["momentum"]
        upper = momentum.dtype.type(MOMENTUM_BOUNDS[1])
        assert np.all((momentum >= MOMENTUM_BOUNDS[0]) & (momentum <= upper))


def decades(low, high):
    return st.just(0.0) | st.floats(low, high).map(lambda x: 10.0**x)


def signed(magnitudes):
    return st.builds(lambda x, sign: sign * x, magnitudes, st.sampled_from([1.0, -1.0]))


SCALES = st.sampled_from([0.0, 1e-38, 1e-20, 1.0, 1e10, 1e20, 3e38])
NUMBERS = st.fixed_dictionaries(
    {
        "beta": decades(-30, 30),
        "kappa": decades(-30, 30),
        "gamma": decades(-6, 4),
        "discount": st.floats(0.0, 1.0),
        # 0 with slope 0: a constant loss, whose gradients are zero.
        "curvature": decades(-6, 4),
        "slope": signed(decades(-6, 4)),
        "start": signed(decades(-6, 2)),
        "both": st.sampled_from([0.0, 1.0]),
        "val": st.lists(signed(SCALES), min_size=STEPS, max_size=STEPS),
    }
)


def rates(method):
    if method == "scale_free":
        return st.floats(-8, 2).map(lambda x: 10.0**x)
    if method in ("forward", "reverse", "difference"):
        return st.just(0.0) | st.floats(-8, 0.5).map(lambda x: 10.0**x)
    return decades(-8, 2)


CASES = [
    ("hd", "nested", jnp.float16),
    ("hd", "integer", jnp.float64),
    ("rtho", "scalar", jnp.float16),
    ("rtho", "nested", jnp.float32),
    ("marthe", "integer", jnp.float16),
    ("marthe", "nested", jnp.bfloat16),
    ("marthe", "one", jnp.float64),
    ("marthe_fixed", "one", jnp.float16),
    ("scale_free", "nested", jnp.float32),
    ("scale_free", "one", jnp.float16),
    ("forward", "integer", jnp.bfloat16),
    ("reverse", "integer", jnp.float16),
    ("difference", "integer", jnp.float32),
]
GUARDED = [
    ("hd", "nested", jnp.float16),
    ("marthe", "integer", jnp.float32),
    ("scale_free", "one", jnp.bfloat16),
    ("forward", "one", jnp.float64),
]


def name_of(case):
    return "-".join([*case[:2], jnp.dtype(case[2]).name])


def with_x64_for(dtype, request):
    # Not as an argument: hypothesis refuses fixtures that are not set up for every example.
    if dtype == jnp.float64:
        request.getfixturevalue("x64")


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_no_nan_that_was_not_put_in(case, request):
    """From finite numbers, no NaN; and what hyperlr itself keeps is finite."""
    method, tree, dtype = case
    with_x64_for(dtype, request)

    num_steps = 0

    @drawn
    @given(NUMBERS, rates(method))
    def check(numbers, rate):
        nonlocal num_steps
        record = outcome((method, False, tree, dtype), zero_numbers(rate=rate, **numbers))
        # Until the parameters or their gradients overflow, which only a guard can mend.
        finite = np.cumprod(record["finite before"]).astype(bool)
        record = jax.tree.map(lambda x: x[finite], record)
        for name in ("no NaN", "ours finite", "integers kept"):
            assert record[name].all(), name
        check_bounds(method, record)
        num_steps += finite.sum()

    check()
    assert num_steps > 3 * EXAMPLES


@pytest.mark.parametrize("case", GUARDED, ids=name_of)
def test_with_a_guard_everything_stays_finite(case, request):
    """Whatever is put in."""
    method, tree, dtype = case
    with_x64_for(dtype, request)
    faults = st.lists(st.just(0) | st.integers(0, FAULTS), min_size=STEPS, max_size=STEPS)

    @drawn
    @given(NUMBERS, rates(method), faults)
    def check(numbers, rate, fault):
        record = outcome(
            (method, True, tree, dtype), zero_numbers(rate=rate, fault=fault, **numbers)
        )
        assert record["finite"].all()
        assert record["integers kept"].all()
        check_bounds(method, record)

    check()


@pytest.mark.parametrize(
    ("case", "guarded", "numbers"),
    [
        (("hd", "nested", jnp.float16), False, {"beta": 1.0}),
        (("hd", "nested", jnp.float16), True, {"beta": 1.0}),
        (("rtho", "nested", jnp.float32), False, {"beta": 1.0}),
        (("marthe", "integer", jnp.float16), False, {"beta": 1.0, "kappa": 1e-3}),
        (("marthe", "integer", jnp.float32), True, {"beta": 1.0, "kappa": 1e-3}),
        (("scale_free", "nested", jnp.float32), False, {"gamma": 40.0}),
        (("scale_free", "one", jnp.bfloat16), True, {"gamma": 40.0}),
    ],
    ids=lambda x: name_of(x) if isinstance(x, tuple) else "",
)
def test_a_learning_rate_of_exactly_zero_is_left_again(case, guarded, numbers):
    """Half of the steps make the learning rate 0, the others ask for a larger one.

    A guard has cut it, and the step sizes with it, while it was 0.
    """
    method, tree, dtype = case
    val = np.where(np.arange(STEPS) < STEPS // 2, -1.0, 1.0)
    fault = np.where(np.arange(STEPS) == STEPS // 2 - 1, 7 if guarded else 0, 0)  # a loss of NaN
    numbers = zero_numbers(rate=1e-3, slope=1.0, val=val, fault=fault, **numbers)
    record = outcome((method, guarded, tree, dtype), numbers)
    rates = record["hyperparams"]["learning_rate"]
    # Coming back, a guard also takes back what the rate has become.
    assert rates[STEPS // 2 - (2 if guarded else 1)] == 0
    assert rates[-1] > 0


# What chance does not find


def test_a_tangent_that_overflows_float16_on_the_way_starts_anew():
    def steep(w):
        # Its Hessian times (1, 1) is 0, by way of ∞ − ∞.
        return jnp.sum(jnp.array([100.0, -100.0], w.dtype) * w) ** 2

    tx = hyperlr.rtho(optax.sgd, 0.0, 1e-3)
    w = jnp.zeros(2, jnp.float16)
    state = tx.init(w)
    for size in (60000.0, 3.0):
        grads = jnp.full(2, size, jnp.float16)
        _, state = tx.update(grads, state, w, value_fn=steep)
        np.testing.assert_array_equal(state.tangent["learning_rate"].params, -grads)


def test_a_guard_finds_back_over_more_than_the_largest_number():
    tx = hyperlr.guard(optax.sgd(0.0))
    good = jnp.array([60000.0, 1.0], jnp.float16)
    _, state = tx.update(good, tx.init(good), good, value=jnp.float32(1))
    away = -good
    for _ in range(2):
        updates, state = tx.update(good, state, away, value=jnp.float32(jnp.nan))
        away = optax.apply_updates(away, updates)
        assert np.isfinite(away).all()
    np.testing.assert_array_equal(away, good)


def test_a_guard_remembers_the_largest_losses():
    tx = hyperlr.guard(optax.sgd(0.0), explosion=jnp.inf)
    w = jnp.ones(1)
    state, update = tx.init(w), jax.jit(tx.update)
    for sign in (1, -1, -1, 1, -1):
        _, state = update(w, state, w, value=sign * jnp.finfo(jnp.float32).max)
        assert np.isfinite(state.losses).all()
