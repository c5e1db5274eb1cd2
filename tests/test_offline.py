"""Hypergradients of whole schedules, and the optimization of a schedule."""

import functools
import itertools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import INNER, mlp_batches, mlp_loss, mlp_params

import hyperlr
from hyperlr import offline

WIDTHS = (784, 500, 500, 500, 10)


def setup(num_steps, dtype=None):
    params = mlp_params(jax.random.key(0), dtype=dtype)
    batches = mlp_batches(jax.random.key(1), num_steps)
    val_batch = jax.tree.map(lambda x: x[0], mlp_batches(jax.random.key(2), 1))
    schedule = jnp.linspace(0.02, 0.08, num_steps)
    return params, batches, functools.partial(mlp_loss, batch=val_batch), schedule


def plain_loop(inner, params, schedule, batches, loss_fn=mlp_loss):
    """T steps of optax as anyone would write them: no scan, no chunks, nothing of the library."""
    state = inner(**{name: values[0] for name, values in schedule.items()}).init(params)
    losses = []
    for t in range(len(next(iter(schedule.values())))):
        tx = inner(**{name: values[t] for name, values in schedule.items()})
        batch = jax.tree.map(lambda x: x[t], batches)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    return params, jnp.stack(losses)


def assert_trees_close(found, expected, **tolerances):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerances), found, expected)


def compiled(inner, params, batches, objective, **options):
    """The hypergradient as a jitted function of the schedule."""
    return jax.jit(
        lambda schedule: hyperlr.schedule_hypergradient(
            inner, params, schedule, batches, mlp_loss, objective, **options
        )
    )


def assert_central_differences(found, objective_of, schedule, steps):
    """``found`` against (f(η + h) − f(η − h)) / 2h at some steps of every array of a dict."""
    h = 1e-5
    for name, t in itertools.product(schedule, steps):
        up, down = (objective_of(schedule | {name: schedule[name].at[t].add(s)}) for s in (h, -h))
        np.testing.assert_allclose(
            found[name][t], (up - down) / (2 * h), rtol=1e-6, atol=1e-10, err_msg=f"{name} {t}"
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "chain"])
def test_both_modes_are_the_gradient_of_a_plain_loop(name):
    params, batches, objective, schedule = setup(7)
    inner = INNER[name]

    def final_value(schedule):
        final, losses = plain_loop(inner, params, {"learning_rate": schedule}, batches)
        return objective(final), (final, losses)

    (value, trained), expected = jax.value_and_grad(final_value, has_aux=True)(schedule)
    assert np.abs(expected).min() > 1e-6
    for options in ({}, {"checkpointing": "none"}, {"mode": "forward"}):
        found = compiled(inner, params, batches, objective, **options)(schedule)
        assert_trees_close(found, (value, expected), rtol=1e-10, atol=1e-13)
    unroll = jax.jit(
        functools.partial(hyperlr.unroll, inner, params, loss_fn=mlp_loss, checkpointing="none")
    )
    assert_trees_close(unroll(schedule, batches), trained, rtol=1e-12, atol=1e-14)
    assert_central_differences(
        {"learning_rate": expected},
        lambda schedule: objective(unroll(schedule["learning_rate"], batches)[0]),
        {"learning_rate": schedule},
        (0, 3, 6),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_steps", [1, 2, 8, 13])
def test_any_number_of_steps_whether_chunks_divide_it_or_not(num_steps):
    params, batches, objective, schedule = setup(num_steps)
    found, expected = (
        compiled(INNER["chain"], params, batches, objective, checkpointing=checkpointing)(schedule)
        for checkpointing in ("chunk", "none")
    )
    assert_trees_close(found, expected, rtol=1e-10, atol=1e-13)
    found, expected = (
        hyperlr.unroll(optax.sgd, params, schedule, batches, mlp_loss, checkpointing=checkpointing)
        for checkpointing in ("chunk", "none")
    )
    assert_trees_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_every_hyperparameter_of_a_dict_has_its_hypergradient():
    params, batches, objective, rates = setup(7)

    def inner(learning_rate, momentum, weight_decay):
        return optax.chain(
            optax.clip_by_global_norm(0.5),
            optax.add_decayed_weights(weight_decay),
            optax.sgd(learning_rate, momentum=momentum),
        )

    schedule = {
        "weight_decay": jnp.full(7, 0.01),
        "learning_rate": rates,
        "momentum": jnp.linspace(0.5, 0.9, 7),
    }
    reverse = compiled(inner, params, batches, objective)
    forward = compiled(inner, params, batches, objective, mode="forward")
    value, found = reverse(schedule)
    assert_trees_close(forward(schedule), (value, found), rtol=1e-10, atol=1e-13)
    assert_central_differences(found, lambda s: reverse(s)[0], schedule, (0, 3, 6))
    assert found["momentum"][0] == 0  # no past yet
    mixed = schedule | {"weight_decay": schedule["weight_decay"].astype(jnp.float32)}
    for hypergradient in (reverse, forward):
        found_mixed = hypergradient(mixed)[1]
        assert found_mixed["weight_decay"].dtype == jnp.float32
        assert found_mixed["momentum"].dtype == jnp.float64
        assert_trees_close(found_mixed, found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_bfloat16_params_and_schedule_keep_their_types(mode):
    params, batches, _, schedule = setup(7, jnp.bfloat16)
    batches = jax.tree.map(lambda x: x.astype(jnp.bfloat16), batches)
    objective = functools.partial(mlp_loss, batch=jax.tree.map(lambda x: x[0], batches))
    inner = INNER["momentum"]
    final, _ = hyperlr.unroll(inner, params, schedule, batches, mlp_loss)
    assert jax.tree.map(jnp.result_type, final) == jax.tree.map(jnp.result_type, params)
    hypergradient = compiled(inner, params, batches, objective, mode=mode)
    _, found = hypergradient(schedule.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    assert np.isfinite(found.astype(np.float32)).all()


def test_hyperparameters_reach_the_optimizer_as_traced_scalars_of_float32():
    seen = []

    def inner(learning_rate):
        seen.append((learning_rate.shape, learning_rate.dtype, learning_rate.weak_type))
        return optax.sgd(learning_rate)

    params, batches, _, schedule = setup(3)
    hyperlr.unroll(inner, params, schedule.astype(jnp.bfloat16), batches, mlp_loss)
    assert set(seen) == {((), jnp.dtype("float32"), False)}


def test_batches_may_be_indices_and_an_optimizer_may_use_the_value():
    params, (x, y), objective, schedule = setup(5)
    data = (x.reshape(-1, 4), y.reshape(-1, 3))
    indices = jnp.arange(30).reshape(5, 6)

    def indexed_loss(params, index):
        return mlp_loss(params, jax.tree.map(lambda a: a[index], data))

    def inner(learning_rate):
        return optax.chain(optax.polyak_sgd(0.1), optax.sgd(learning_rate))

    found = hyperlr.schedule_hypergradient(
        inner, params, schedule, indices, indexed_loss, objective
    )
    expected = hyperlr.schedule_hypergradient(
        inner, params, schedule, (x, y), mlp_loss, objective, checkpointing="none"
    )
    assert_trees_close(found, expected, rtol=1e-4, atol=1e-7)


def test_vmap_over_schedules_and_weights():
    params, batches, objective, schedule = setup(7)
    schedules = jnp.stack([schedule, 2 * schedule])
    lanes = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), params)

    def hypergradient(params, schedule):
        return hyperlr.schedule_hypergradient(
            INNER["momentum"], params, schedule, batches, mlp_loss, objective
        )

    found = jax.jit(jax.vmap(hypergradient))(lanes, schedules)
    for i in range(2):
        expected = hypergradient(jax.tree.map(lambda x: x[i], lanes), schedules[i])
        assert_trees_close(jax.tree.map(lambda x: x[i], found), expected, rtol=1e-4, atol=1e-6)


def network_loss(params, batch):
    x, labels = batch
    for i, layer in enumerate(params):
        x = x @ layer["w"] + layer["b"][None, :]
        x = jax.nn.relu(x) if i < len(params) - 1 else x
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x, labels))


def network_hypergradient(num_steps, checkpointing):
    """The hypergradient of the paper's network, and abstract arguments of it."""
    shape = jax.ShapeDtypeStruct
    params = [
        {"w": shape((m, n), jnp.float32), "b": shape((n,), jnp.float32)}
        for m, n in itertools.pairwise(WIDTHS)
    ]
    batches = (shape((num_steps, 100, 784), jnp.float32), shape((num_steps, 100), jnp.int32))
    val_batch = (shape((100, 784), jnp.float32), shape((100,), jnp.int32))

    def hypergradient(params, schedule, batches, val_batch):
        return hyperlr.schedule_hypergradient(
            optax.sgd,
            params,
            schedule,
            batches,
            network_loss,
            lambda w: network_loss(w, val_batch),
            checkpointing=checkpointing,
        )

    return hypergradient, (params, shape((num_steps,), jnp.float32), batches, val_batch)


def temporaries(num_steps, checkpointing="chunk"):
    """Megabytes of temporaries of the compiled hypergradient."""
    hypergradient, arguments = network_hypergradient(num_steps, checkpointing)
    compiled = jax.jit(hypergradient).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def test_memory_grows_with_the_root_of_the_number_of_steps():
    at_64 = temporaries(64)
    assert at_64 < 100
    assert temporaries(256) < 2.2 * at_64
    assert temporaries(64, "none") > 400


def multiplications(jaxpr):
    """Multiplications in matrix products, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * int(np.prod([shape[i] for i in contracted]))
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            total += times * multiplications(inner) if hasattr(inner, "eqns") else 0
    return total


def test_work_is_a_second_gradient_above_backpropagation():
    """Per step: 1 forwards, 1 again, 1.66 for the Hessian-vector product; the tail not again."""
    counts = {}
    for checkpointing in ("none", "chunk"):
        hypergradient, arguments = network_hypergradient(64, checkpointing)
        counts[checkpointing] = multiplications(jax.make_jaxpr(hypergradient)(*arguments).jaxpr)
    params, _, _, val_batch = arguments
    plain = multiplications(jax.make_jaxpr(jax.grad(network_loss))(params, val_batch).jaxpr)
    assert 2.6 < counts["none"] / (64 * plain) < 2.7
    assert 3.5 < counts["chunk"] / (64 * plain) < 3.65


def test_the_loss_is_traced_a_fixed_number_of_times():
    """However long the schedule: compiling must not grow with T through Python."""
    counts = []
    for num_steps in (50, 200):
        params, batches, objective, schedule = setup(num_steps)
        traced = []

        def loss(params, batch, traced=traced):
            traced.append(1)
            return mlp_loss(params, batch)

        jax.make_jaxpr(
            lambda s, b=batches, loss=loss: hyperlr.schedule_hypergradient(
                optax.sgd, params, s, b, loss, objective
            )
        )(schedule)
        counts.append(len(traced))
    assert counts[0] == counts[1] <= 2


# The rule, and the optimization of a schedule.


def test_lrs_opt_is_projected_descent():
    tx = hyperlr.lrs_opt(0.5)
    schedule = jnp.array([1.0, 1.0, 0.25, 0.0])
    hypergradient = jnp.array([0.5, 3.0, -1.0, 1.0])
    updates, _ = tx.update(hypergradient, tx.init(schedule), schedule)
    np.testing.assert_array_equal(updates, [-0.25, -1.0, 0.5, 0.0])
    moved = optax.apply_updates(schedule, updates)
    np.testing.assert_array_equal(moved, [0.75, 0.0, 0.75, 0.0])


def test_lrs_opt_projects_learning_rates_alone():
    tx = hyperlr.lrs_opt(1.0)
    schedule = {"learning_rate": jnp.array([0.1]), "shift": jnp.array([0.1])}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, schedule), tx.init(schedule), schedule)
    moved = optax.apply_updates(schedule, updates)
    np.testing.assert_allclose(moved["learning_rate"], 0.0)
    np.testing.assert_allclose(moved["shift"], -0.9)


@pytest.mark.usefixtures("x64")
def test_lrs_opt_never_ends_below_zero_by_rounding():
    key_x, key_g = jax.random.split(jax.random.key(0))
    schedule = jax.random.uniform(key_x, (10_000,), jnp.float32)
    gradient = schedule * (1 + 1e-6 * jax.random.normal(key_g, (10_000,)).astype(jnp.float32))
    updates, _ = hyperlr.lrs_opt(1.0).update(gradient, optax.EmptyState(), schedule)
    assert optax.apply_updates(schedule, updates).min() >= 0


class Toy(NamedTuple):
    """A problem that compiles in no time: a noisy quartic in three variables."""

    params: Any
    schedule: Any
    sample_batches: Any
    loss_fn: Any
    objective_fn: Any


def toy(num_steps=5):
    return Toy(
        params=jnp.array([1.0, -0.5, 2.0]),
        schedule=jnp.linspace(0.02, 0.08, num_steps),
        sample_batches=lambda key: jax.random.normal(key, (num_steps, 3)),
        loss_fn=lambda w, x: jnp.sum((w - 0.1 * x) ** 2 + 0.1 * w**4),
        objective_fn=lambda w: jnp.sum((w - 0.2) ** 2),
    )


def run(callback=None, *, num_iterations=6, seed=0, optimizer=None, num_steps=5, **options):
    """Optimizes the toy's schedule; keywords pass through, or replace what the toy has."""
    problem = toy(num_steps)
    changes = {name: options.pop(name) for name in Toy._fields if name in options}
    return hyperlr.optimize_schedule(
        options.pop("inner", INNER["momentum"]),
        *problem._replace(**changes),
        optimizer=optimizer or optax.adam(0.02),
        num_iterations=num_iterations,
        key=options.pop("key", jax.random.key(seed)),
        callback=callback,
        **options,
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("optimizer", [hyperlr.lrs_opt(0.003), optax.adam(0.05)])
def test_optimize_schedule_is_the_loop_that_one_would_write(optimizer):
    params, schedule, sample_batches, loss_fn, objective = toy()
    start, state, values = schedule, optimizer.init(schedule), []
    for i in range(6):
        batches = sample_batches(jax.random.fold_in(jax.random.key(0), i))
        value, hypergradient = hyperlr.schedule_hypergradient(
            INNER["momentum"], params, schedule, batches, loss_fn, objective
        )
        updates, state = optimizer.update(hypergradient, state, schedule)
        schedule = jnp.maximum(optax.apply_updates(schedule, updates), 0)
        values.append(value)
    records = []
    for callback in (None, records.append):
        result = run(callback, optimizer=optimizer)
        np.testing.assert_allclose(result.schedule, schedule, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(result.values, values, rtol=1e-12)
        assert_trees_close(result.state.optimizer_state, state, rtol=1e-10, atol=1e-14)
        assert result.num_skipped == 0
        assert result.state.iteration == 6
    assert (result.schedule == 0).any() or not isinstance(state, optax.EmptyState)
    assert [r.iteration for r in records] == list(range(6))
    np.testing.assert_array_equal([r.value for r in records], result.values)
    np.testing.assert_array_equal(
        [r.hypergradient_norm for r in records], result.hypergradient_norms
    )
    np.testing.assert_array_equal(records[0].schedule, start)
    assert not any(r.skipped for r in records)


def test_the_value_falls_from_the_schedule_of_an_online_method():
    params, _, sample_batches, loss_fn, objective = toy(20)
    batches = sample_batches(jax.random.key(1))
    tx = hyperlr.marthe(optax.sgd, 0.01, hyper_learning_rate=1e-4)

    def step(carry, batch):
        w, state = carry
        value_fn = functools.partial(loss_fn, x=batch)
        updates, state = tx.update(jax.grad(value_fn)(w), state, w, value_fn=value_fn)
        learning_rate = hyperlr.metrics(state)["learning_rate"]
        return (optax.apply_updates(w, updates), state), learning_rate

    (w, _), found = jax.lax.scan(step, (params, tx.init(params)), batches)
    result = run(
        num_steps=20,
        schedule=found,
        sample_batches=lambda key: batches,
        inner=optax.sgd,
        optimizer=optax.adam(0.01),
        num_iterations=15,
    )
    np.testing.assert_allclose(result.values[0], objective(w), rtol=1e-5)
    assert result.values[-1] < 0.9 * result.values[0]


def test_vmap_over_seeds_and_jit():
    keys = jax.random.split(jax.random.key(7), 3)
    found = jax.jit(jax.vmap(lambda key: run(key=key)))(keys)
    assert found.values.shape == (3, 6)
    for i, key in enumerate(keys):
        expected = run(key=key)
        np.testing.assert_allclose(found.schedule[i], expected.schedule, rtol=1e-5)
        np.testing.assert_allclose(found.values[i], expected.values, rtol=1e-5)
    assert not np.allclose(found.schedule[0], found.schedule[1], rtol=1e-3)


def test_outer_step_is_one_trace_and_keeps_its_types():
    params, schedule, *functions = toy()
    optimizer = optax.chain(optax.adam(0.02), optax.contrib.reduce_on_plateau())
    traces = []

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        traces.append(1)
        return offline.outer_step(
            optax.sgd, params, state, *functions, optimizer=optimizer, key=jax.random.key(0)
        )

    def types(state):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)

    state = offline.init_outer_state({"learning_rate": schedule}, optimizer)
    for _ in range(4):
        before = types(state)
        state, _ = step(state)
        assert types(state) == before
    assert len(traces) == 1


def test_a_callback_does_not_compile_the_step_again():
    traced = []

    def sample_batches(key):
        traced.append(1)
        return toy().sample_batches(key)

    run(lambda record: None, sample_batches=sample_batches)
    assert len(traced) == 1


def wrong_in(iterations, what):
    """Replaces parts of the toy, so that E, or ∇f alone, is NaN in some iterations of seed 0."""
    keys = jnp.stack([jax.random.fold_in(jax.random.key(0), i) for i in iterations])
    data = jax.random.key_data(keys)

    def sample_batches(key):
        wrong = jnp.any(jnp.all(data == jax.random.key_data(key)[None, :], axis=1))
        return toy().sample_batches(key), jnp.full((5,), wrong)

    def loss_fn(w, batch):
        x, wrong = batch
        if what == "value":
            return toy().loss_fn(w, x) * jnp.where(wrong, jnp.nan, 1.0)
        # Without a gradient in one variable, Adam's √v has no derivative there, but a value.
        return toy().loss_fn(w * jnp.where(wrong, jnp.array([1.0, 1.0, 0.0]), 1.0), x)

    inner = INNER["momentum"] if what == "value" else optax.adam
    return {"inner": inner, "sample_batches": sample_batches, "loss_fn": loss_fn}


@pytest.mark.parametrize("with_callback", [False, True])
@pytest.mark.parametrize("what", ["value", "gradient"])
def test_what_is_not_finite_is_skipped_counted_and_reported(what, with_callback):
    records = []
    callback = records.append if with_callback else None
    with pytest.warns(RuntimeWarning, match="2 of 5 outer iterations were skipped"):
        result = run(callback, num_iterations=5, **wrong_in((1, 3), what))
    assert result.num_skipped == 2
    assert np.isfinite(result.schedule).all()
    assert result.state.iteration == 5
    assert result.state.optimizer_state[0].count == 3
    np.testing.assert_array_equal(np.isfinite(result.hypergradient_norms), [1, 0, 1, 0, 1])
    expected = [1, 0, 1, 0, 1] if what == "value" else [1, 1, 1, 1, 1]
    np.testing.assert_array_equal(np.isfinite(result.values), expected)
    if with_callback:
        assert [r.skipped for r in records] == [False, True, False, True, False]
        assert [r.num_skipped for r in records] == [0, 1, 1, 2, 2]
        np.testing.assert_array_equal(records[1].schedule, records[2].schedule)
        assert not np.array_equal(records[2].schedule, records[3].schedule)


def test_an_optimizer_that_hides_nan_does_not_get_to_see_it():
    optimizer = optax.chain(optax.zero_nans(), optax.sgd(1e-3))
    with pytest.warns(RuntimeWarning, match="2 of 5 outer iterations were skipped"):
        run(num_iterations=5, optimizer=optimizer, **wrong_in((1, 3), "gradient"))


def test_a_schedule_that_would_overflow_is_not_taken():
    with pytest.warns(RuntimeWarning, match="3 of 3 outer iterations were skipped"):
        result = run(num_iterations=3, optimizer=optax.scale(-float("inf")))
    np.testing.assert_array_equal(result.schedule, toy().schedule)
    assert np.isfinite(result.hypergradient_norms).all()


def test_no_warning_and_no_failure_where_the_count_is_traced():
    options = wrong_in((1,), "value")
    assert jax.jit(lambda key: run(key=key, **options).num_skipped)(jax.random.key(0)) == 1


# Checkpoints on disk.


def noisy_descent():
    """Descent with noise drawn from a typed key in the state, which a checkpoint must keep too."""

    def init_fn(params):
        return jax.random.key(3)

    def update_fn(updates, state, params=None):
        state, key = jax.random.split(state)
        noise = jax.random.normal(key, params.shape, params.dtype)
        return -1e-3 * updates + 1e-3 * noise, state

    return optax.GradientTransformation(init_fn, update_fn)


def interrupt_at(iteration):
    def callback(record):
        if record.iteration == iteration:
            raise KeyboardInterrupt

    return callback


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def orbax():
    """These need the extra ``checkpoint``, which a minimal installation lacks."""
    return pytest.importorskip("orbax.checkpoint")


@pytest.fixture(scope="module", params=["adam", "noise"])
def uninterrupted(request, tmp_path_factory):
    """The options of a run, and what it comes to with checkpoints and no interruption."""
    pytest.importorskip("orbax.checkpoint")
    optimizer = {"adam": optax.adam(0.02), "noise": noisy_descent()}[request.param]
    options = {"num_iterations": 7, "optimizer": optimizer}
    whole = run(checkpoint_dir=tmp_path_factory.mktemp("whole"), checkpoint_every=2, **options)
    assert_same_bits(whole, run(lambda record: None, **options))
    return options, whole


@pytest.mark.parametrize("last", [0, 3, 4, 5])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, last, uninterrupted):
    options, whole = uninterrupted
    options = {"checkpoint_dir": tmp_path, "checkpoint_every": 2, **options}
    with pytest.raises(KeyboardInterrupt):
        run(interrupt_at(last), **options)
    seen = []
    resumed = run(seen.append, **options)
    assert seen[0].iteration == last - last % 2  # from the last even number of iterations
    assert_same_bits(resumed, whole)


@pytest.mark.usefixtures("orbax")
def test_a_finished_run_is_read_back_and_can_go_on(tmp_path):
    whole = run(lambda record: None, num_iterations=7)
    run(checkpoint_dir=tmp_path, num_iterations=5)
    seen = []
    assert_same_bits(run(seen.append, checkpoint_dir=tmp_path, num_iterations=7), whole)
    assert [r.iteration for r in seen] == [5, 6]
    seen.clear()
    assert_same_bits(run(seen.append, checkpoint_dir=tmp_path, num_iterations=7), whole)
    assert seen == []
    with pytest.raises(ValueError, match="a run of 7 iterations, more than num_iterations = 6"):
        run(checkpoint_dir=tmp_path, num_iterations=6)


@pytest.mark.usefixtures("orbax", "x64")
def test_values_that_are_not_finite_and_the_count_survive(tmp_path):
    def diverging(**options):
        return run(schedule=jnp.full(5, 1e200), num_iterations=4, **options)

    with pytest.warns(RuntimeWarning, match="4 of 4"):
        whole = diverging(checkpoint_dir=tmp_path / "whole")
    assert not np.isfinite(whole.values).any()
    with pytest.raises(KeyboardInterrupt):
        diverging(callback=interrupt_at(2), checkpoint_dir=tmp_path / "killed", checkpoint_every=1)
    with pytest.warns(RuntimeWarning, match="4 of 4"):
        resumed = diverging(checkpoint_dir=tmp_path / "killed", checkpoint_every=1)
    assert_same_bits(resumed, whole)


@pytest.mark.usefixtures("orbax")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, r"different key \("),
        ({"num_steps": 6}, r"schedule \(there float32\[5\], here float32\[6\]\)"),
        ({"schedule": {"learning_rate": jnp.full(5, 0.1)}}, r"here \['learning_rate'\]: float32"),
        ({"schedule": jnp.full(5, 0.1)}, r"different starting point \("),
        ({"optimizer": optax.sgd(0.02)}, "different optimizer state"),
        ({"params": jnp.zeros(3)}, r"different params \("),
    ],
    ids=["key", "T", "structure", "start", "optimizer", "params"],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, named):
    run(checkpoint_dir=tmp_path, num_iterations=2)
    with pytest.raises(ValueError, match=f"holds another run, with a .*{named}"):
        run(checkpoint_dir=tmp_path, num_iterations=2, **change)


@pytest.mark.usefixtures("orbax")
def test_checkpoints_of_something_else_are_refused(tmp_path, orbax):
    with orbax.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=orbax.args.StandardSave({"a": jnp.ones(2)}))
    with pytest.raises(ValueError, match="holds checkpoints that hyperlr did not write"):
        run(checkpoint_dir=tmp_path)


def test_without_orbax_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax", None)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'hyperlr\[checkpoint\]'"):
        run(checkpoint_dir=tmp_path)


# Errors.


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        ([0.1, 0.2], TypeError, r"schedule must be a floating-point array, got \[0.1, 0.2\]"),
        (jnp.arange(3), TypeError, "schedule must be a floating-point array"),
        (jnp.ones(()), ValueError, r"schedule must have shape \[T\] with T ≥ 1, got \(\)"),
        (jnp.ones(0), ValueError, r"schedule must have shape \[T\] with T ≥ 1, got \(0,\)"),
        ({}, ValueError, "schedule is an empty dict"),
        (
            {"learning_rate": jnp.ones((3, 1))},
            ValueError,
            r"schedule\['learning_rate'\] must have shape \[T\]",
        ),
        (
            {"learning_rate": jnp.ones(3), "momentum": jnp.ones(2)},
            ValueError,
            "different lengths",
        ),
        ({"rate": jnp.ones(3)}, TypeError, "inner cannot be called"),
        (jnp.ones(4), ValueError, r"batches\[0\] has shape \(3, 6, 4\), but .* T = 4 steps"),
    ],
)
def test_schedules_that_cannot_be_used(schedule, error, message):
    params, batches, objective, _ = setup(3)
    with pytest.raises(error, match=message):
        hyperlr.unroll(optax.sgd, params, schedule, batches, mlp_loss)
    with pytest.raises(error, match=message):
        hyperlr.optimize_schedule(
            optax.sgd,
            params,
            schedule,
            lambda key: batches,
            mlp_loss,
            objective,
            optimizer=optax.sgd(0.1),
            num_iterations=1,
            key=jax.random.key(0),
        )


def test_other_arguments_that_cannot_be_used(tmp_path):
    params, batches, objective, schedule = setup(3)
    unroll = functools.partial(hyperlr.unroll, optax.sgd, params, schedule, batches)
    with pytest.raises(ValueError, match="checkpointing must be one of none, chunk, got 'all'"):
        unroll(mlp_loss, checkpointing="all")
    with pytest.raises(TypeError, match="loss_fn must return a scalar"):
        unroll(lambda w, batch: (mlp_loss(w, batch), w))
    with pytest.raises(TypeError, match="inner must be a factory"):
        hyperlr.unroll(optax.sgd(0.1), params, schedule, batches, mlp_loss)
    with pytest.raises(TypeError, match="complex"):
        hyperlr.unroll(optax.sgd, jnp.ones(2) * 1j, schedule, batches, mlp_loss)
    hypergradient = functools.partial(
        hyperlr.schedule_hypergradient, optax.sgd, params, schedule, batches, mlp_loss
    )
    with pytest.raises(ValueError, match="mode must be one of reverse, forward"):
        hypergradient(objective, mode="backward")
    with pytest.raises(TypeError, match="objective_fn must return a scalar"):
        hypergradient(lambda w: w)
    with pytest.raises(TypeError, match="hyper_learning_rate must be a float"):
        hyperlr.lrs_opt(1)
    with pytest.raises(ValueError, match="hyper_learning_rate must lie in"):
        hyperlr.lrs_opt(-1.0)
    with pytest.raises(ValueError, match="params is missing"):
        hyperlr.lrs_opt(0.1).update(schedule, optax.EmptyState())
    with pytest.raises(TypeError, match="optimizer must be an optax transformation"):
        run(optimizer=optax.sgd)
    with pytest.raises(TypeError, match="num_iterations must be a Python integer"):
        run(num_iterations=2.0)
    with pytest.raises(ValueError, match="num_iterations must be at least 0"):
        run(num_iterations=-1)
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1"):
        run(checkpoint_dir=tmp_path, checkpoint_every=0)
    with pytest.raises(ValueError, match="callback and checkpoint_dir need numbers"):
        jax.jit(lambda s: run(print, schedule=s))(jnp.full(5, 0.1))


def test_no_iterations_leave_the_schedule():
    for callback in (None, print):
        result = run(callback, num_iterations=0)
        np.testing.assert_array_equal(result.schedule, toy().schedule)
        assert result.values.shape == result.hypergradient_norms.shape == (0,)
