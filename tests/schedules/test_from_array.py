"""Schedules from learned values, and their JSON files."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr
from hyperlr.schedules import from_array, load_array, save_array

VALUES = np.array([0.5, 0.1, 0.7, 0.3, 0.0, 0.9, 0.2], np.float32)


def at(schedule, steps):
    return np.array([schedule(t) for t in steps])


def test_every_step_has_its_value_and_the_ends_are_held():
    schedule = from_array(VALUES)
    np.testing.assert_array_equal(at(schedule, range(7)), VALUES)
    np.testing.assert_array_equal(at(schedule, [-3, -1, 7, 1000]), VALUES[[0, 0, -1, -1]])


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 12, 13, 100])
def test_stretched_and_shrunk_schedules_interpolate(steps):
    schedule = from_array(VALUES, steps)
    expected = np.interp(np.linspace(0, 6, steps), np.arange(7), VALUES)
    np.testing.assert_allclose(at(schedule, range(steps)), expected, rtol=1e-5, atol=1e-6)
    assert schedule(0) == VALUES[0]
    last = VALUES[-1] if steps > 1 else VALUES[0]
    np.testing.assert_array_equal(at(schedule, [steps - 1, steps, 5000])[steps == 1 :], last)


def test_a_multiple_of_the_intervals_meets_every_value():
    np.testing.assert_array_equal(at(from_array(VALUES, 13), range(0, 13, 2)), VALUES)


def test_one_value_is_a_constant():
    np.testing.assert_array_equal(at(from_array([0.25], 10), [0, 5, 20]), [0.25] * 3)


def test_long_schedules_lose_no_step():
    values = np.arange(100_001, dtype=np.float32)
    schedule = jax.jit(jax.vmap(from_array(values)))
    np.testing.assert_array_equal(schedule(jnp.arange(100_001)), values)


def test_traced_steps_and_vmap_over_steps_and_values():
    steps = jnp.arange(15)
    expected = at(from_array(VALUES, 12), range(15))
    np.testing.assert_allclose(jax.jit(jax.vmap(from_array(VALUES, 12)))(steps), expected)
    stack = jnp.stack([VALUES, 2 * VALUES])
    found = jax.vmap(lambda values, t: from_array(values, 12)(t), (0, None))(stack, jnp.array(5))
    np.testing.assert_allclose(found, [expected[5], 2 * expected[5]], rtol=1e-6)
    assert len({str(jax.eval_shape(from_array(VALUES), t)) for t in (0, 1.5, jnp.int32(2))}) == 1


def test_derivatives_are_the_weights_of_the_interpolation():
    found = jax.jacrev(lambda values: from_array(values, 13)(3))(jnp.asarray(VALUES))
    np.testing.assert_allclose(found, [0, 0.5, 0.5, 0, 0, 0, 0], atol=1e-6)


def test_bfloat16_values_keep_their_dtype_and_their_steps():
    """Neighbours differ, since in bfloat16 999 is 1000."""
    values = jnp.tile(jnp.array([0.25, 0.75, 0.5], jnp.bfloat16), 333)
    schedule = from_array(values)
    assert schedule(jnp.array(998)).dtype == jnp.bfloat16
    np.testing.assert_array_equal(jax.vmap(schedule)(jnp.arange(999)), values)
    halfway = from_array(values, 1997)(jnp.array(1995))
    np.testing.assert_allclose(halfway.astype(jnp.float32), 0.625, rtol=1e-2)


def test_integers_are_numbers(tmp_path):
    for values in ([1, 0], np.array([1, 0]), jnp.array([1, 0])):
        schedule = from_array(values, np.int64(3))
        assert [float(schedule(t)) for t in range(3)] == [1.0, 0.5, 0.0]
        assert schedule(0).dtype == jnp.float32
        save_array(tmp_path / "schedule.json", values)
        np.testing.assert_array_equal(load_array(tmp_path / "schedule.json"), [1.0, 0.0])


def test_values_that_are_changed_later_do_not_change_the_schedule():
    values = VALUES.copy()
    schedule = from_array(values)
    values[:] = 0.0
    assert schedule(0) == VALUES[0]


def test_it_trains_with_plain_optax_as_the_unrolled_loop_did():
    schedule = jnp.linspace(0.05, 0.2, 9)
    batches = jax.random.normal(jax.random.key(0), (9, 4))

    def loss(w, x):
        return jnp.mean((w - x) ** 2)

    inner = functools.partial(optax.sgd, momentum=0.9)
    expected, _ = hyperlr.unroll(inner, jnp.zeros(()), schedule, batches, loss)
    tx, w = inner(from_array(schedule)), jnp.zeros(())
    state = tx.init(w)
    for x in batches:
        updates, state = tx.update(jax.grad(loss)(w, x), state, w)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(w, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "steps", "error", "message"),
    [
        ([True, False], None, TypeError, "values must have a floating-point dtype, got bool"),
        (lambda step: 0.1, None, TypeError, "values must be an array, got a function, a schedule"),
        (jnp.ones((2, 2)), None, ValueError, r"values must have shape \[T\].*\(2, 2\)"),
        (jnp.ones(0), None, ValueError, r"values must have shape \[T\] with T ≥ 1"),
        (0.1, None, ValueError, r"values must have shape \[T\]"),
        ("0.1", None, TypeError, "values must be an array of floats"),
        ({"learning_rate": VALUES}, None, TypeError, "values is a dict: .* one entry"),
        (VALUES, 0, ValueError, "steps must be at least 1, got 0"),
        (VALUES, 2.0, TypeError, r"steps must be an integer or None, got 2\.0"),
    ],
)
def test_arguments_that_cannot_be_used(values, steps, error, message):
    with pytest.raises(error, match=message):
        from_array(values, steps)


# Files.


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_every_float_comes_back_as_it_was(tmp_path, dtype):
    values = jax.random.uniform(jax.random.key(0), (257,)).astype(dtype)
    values = values.at[:3].set(jnp.array([0.0, jnp.finfo(dtype).tiny, jnp.finfo(dtype).max], dtype))
    save_array(tmp_path / "schedule.json", values)
    found = load_array(str(tmp_path / "schedule.json"))
    assert found.dtype == dtype
    assert np.asarray(found).tobytes() == np.asarray(values).tobytes()


@pytest.mark.usefixtures("x64")
def test_float64_comes_back_as_it_was(tmp_path):
    values = jax.random.uniform(jax.random.key(0), (100,), jnp.float64)
    save_array(tmp_path / "schedule.json", values)
    found = load_array(tmp_path / "schedule.json")
    assert found.dtype == jnp.float64
    np.testing.assert_array_equal(found, values)


def test_float64_is_rounded_where_64_bits_are_switched_off(tmp_path):
    document = {"dtype": "float64", "values": [0.1, 1.0]}
    write(tmp_path / "schedule.json", document)
    found = load_array(tmp_path / "schedule.json")
    np.testing.assert_array_equal(found, np.array([0.1, 1.0], np.float32))


def test_a_dict_of_schedules(tmp_path):
    schedule = {"learning_rate": jnp.array([0.1, 0.2]), "values": jnp.array([0.9, 0.8])}
    save_array(tmp_path / "schedule.json", schedule)
    found = load_array(tmp_path / "schedule.json")
    assert found.keys() == schedule.keys()
    for name in schedule:
        np.testing.assert_array_equal(found[name], schedule[name])


def write(path, schedule, **changes):
    document = {"format": "hyperlr.schedule", "version": 1, "schedule": schedule} | changes
    path.write_text(json.dumps(document))


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "schedule.json"
    save_array(path, VALUES)

    def interrupted(file_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_array(path, 2 * VALUES)
    assert [p.name for p in tmp_path.iterdir()] == ["schedule.json"]
    np.testing.assert_array_equal(load_array(path), VALUES)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([0.1, float("nan")], ValueError, r"values\[1\] is nan"),
        ({"learning_rate": jnp.array([jnp.inf])}, ValueError, r"values\['learning_rate'\]\[0\]"),
        ({}, ValueError, "empty dict"),
        ([True], TypeError, "floating-point dtype"),
    ],
)
def test_what_cannot_be_saved(tmp_path, values, error, message):
    with pytest.raises(error, match=message):
        save_array(tmp_path / "schedule.json", values)
    assert list(tmp_path.iterdir()) == []


def test_traced_values_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="values is traced"):
        jax.jit(lambda x: save_array(tmp_path / "schedule.json", x))(VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[0.1, 0.2]",
        '{"format": "hyperlr.schedule", "version": 1}',
        '{"format": "other", "version": 1, "schedule": {"dtype": "float32", "values": [1.0]}}',
        '{"format": "hyperlr.schedule", "version": 2, "schedule": {}}',
        '{"format": "hyperlr.schedule", "version": 1, "schedule": {}}',
        '{"format": "hyperlr.schedule", "version": 1, "schedule": {"dtype": "float32"}}',
        '{"format": "hyperlr.schedule", "version": 1,'
        ' "schedule": {"dtype": "float32", "values": [NaN]}}',
        '{"format": "hyperlr.schedule", "version": 1,'
        ' "schedule": {"dtype": "float32", "values": []}}',
        '{"format": "hyperlr.schedule", "version": 1,'
        ' "schedule": {"dtype": "float32", "values": [1e999]}}',
        '{"format": "hyperlr.schedule", "version": 1,'
        ' "schedule": {"dtype": "float32", "values": [true]}}',
        '{"format": "hyperlr.schedule", "version": 1,'
        ' "schedule": {"dtype": "int32", "values": [1]}}',
        '{"format": "hyperlr.schedule", "version": 1,'
        ' "schedule": {"dtype": "nothing", "values": [1.0]}}',
    ],
)
def test_files_that_hold_no_schedule(tmp_path, text):
    path = tmp_path / "schedule.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"schedule\.json does not hold a schedule"):
        load_array(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_array(tmp_path / "absent.json")
