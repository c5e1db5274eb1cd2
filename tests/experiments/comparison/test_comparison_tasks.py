"""Every task of the comparison: its data, its loss and score, and that it can be learned."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperlr.experiments.comparison.tasks import (
    TASKS,
    adapters,
    characters,
    digits_cnn,
    source_text,
    trigrams,
)
from hyperlr.experiments.comparison.tasks.task import INNER_OPTIMIZERS, split_rows
from hyperlr.experiments.core.errors import InputError

_BATCH_SIZE = 16
# What comes in rows that are held out one by one; windows of text are held out in blocks.
_IN_ROWS = [name for name in TASKS if name != "characters"]


def _rows_of(part):
    """The rows of a part as bytes, one for each example."""
    columns = [np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(part)]
    return [b"".join(column[k].tobytes() for column in columns) for k in range(len(columns[0]))]


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    return TASKS[request.param]


@pytest.fixture(scope="module")
def task_data(task):
    return task.make_data(0)


def test_data_are_deterministic_and_of_the_same_shape_for_every_seed(task, task_data):
    chex.assert_trees_all_equal(task_data, task.make_data(0))
    other = task.make_data(1)
    chex.assert_trees_all_equal_shapes_and_dtypes(task_data, other)
    differ = jax.tree.map(lambda x, y: not np.array_equal(x, y), task_data.train, other.train)
    assert all(jax.tree.leaves(differ))


@pytest.mark.parametrize("name", _IN_ROWS)
def test_held_out_rows_are_not_trained_on(name):
    data = TASKS[name].make_data(0)
    parts = [set(_rows_of(part)) for part in (data.train, data.val, data.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_blocks_of_text_are_trained_on_or_held_out():
    data = TASKS["characters"].make_data(0)
    blocks = characters.blocks()
    train = set(_rows_of(data.train.reshape(-1, blocks.shape[1])))
    used = blocks.shape[1] // data.val.shape[1] * data.val.shape[1]
    held_out = {row for part in (data.val, data.test) for row in _rows_of(part.reshape(-1, used))}
    in_order = _rows_of(blocks)
    assert len(train) + len(held_out) == len(in_order)
    begins_of_train = {row[:used] for row in train}
    assert len(begins_of_train) == len(train)
    assert not begins_of_train & held_out


def test_minibatches_are_drawn_under_jit_and_differ(task, task_data):
    sample = jax.jit(task.sample, static_argnums=2)
    batches = [sample(jax.random.key(seed), task_data.train, _BATCH_SIZE) for seed in (0, 0, 1)]
    chex.assert_trees_all_equal(batches[0], batches[1])
    held_out = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x[:_BATCH_SIZE].shape, x.dtype), task_data.val
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(batches[0], held_out)
    assert any(
        not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, batches[1:]), strict=True)
    )
    if task.name in _IN_ROWS:
        assert set(_rows_of(batches[0])) <= set(_rows_of(task_data.train))


@pytest.fixture(scope="module", params=[name for name in TASKS if name != "digits-long"])
def run(request):
    """What forty steps of Adam do; one compiled function a task, since compiling takes long."""
    task = TASKS[request.param]
    tx = optax.adam(task.rates["adam"][2])

    @jax.jit
    def trained(data):
        def step(carry, key):
            params, state = carry
            batch = task.sample(key, data.train, _BATCH_SIZE)
            grads = jax.grad(task.loss)(params, batch, *data.frozen)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = task.init(jax.random.key(1))
        keys = jax.random.split(jax.random.key(2), 40)
        (end, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        diverged = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
        halves = jax.tree.map(lambda x: x[:16].reshape(2, 8, *x.shape[1:]), data.val)
        whole = jax.tree.map(lambda x: x[:16], data.val)
        return {
            "scores": [task.score(p, data.test, *data.frozen) for p in (params, end)],
            "losses": [task.loss(p, data.test, *data.frozen) for p in (params, end)],
            "diverged": task.score(diverged, whole, *data.frozen),
            "of halves": jax.vmap(lambda half: task.loss(end, half, *data.frozen))(halves),
            "of the whole": task.loss(end, whole, *data.frozen),
        }

    return trained(task.make_data(0))


def test_a_few_dozen_steps_of_adam_improve_score_and_loss(run):
    chex.assert_shape([*run["scores"], *run["losses"]], ())
    chex.assert_tree_all_finite((run["scores"], run["losses"]))
    assert run["scores"][1] > run["scores"][0]
    assert run["losses"][1] < run["losses"][0]


def test_a_model_that_diverged_has_no_score(run):
    assert jnp.isnan(run["diverged"])


def test_the_loss_is_a_mean_over_the_examples(run):
    np.testing.assert_allclose(run["of halves"].mean(), run["of the whole"], rtol=1e-5)


def test_grids_have_five_rates_two_to_a_decade(task):
    assert tuple(task.rates) == INNER_OPTIMIZERS
    for rates in task.rates.values():
        assert len(rates) == 5
        np.testing.assert_allclose(np.diff(np.log10(rates)), 0.5, atol=0.03)


def test_rows_are_divided_whole_with_the_same_test_rows_for_every_seed():
    rows = (np.arange(20), np.arange(20) * 2.0)
    first, second = (split_rows(rows, seed, num_val=4, num_test=5) for seed in (0, 1))
    np.testing.assert_array_equal(first.test[0], second.test[0])
    assert not np.array_equal(first.val[0], second.val[0])
    whole = np.concatenate([part[0] for part in (first.train, first.val, first.test)])
    np.testing.assert_array_equal(np.sort(whole), rows[0])
    for part in (first.train, first.val, first.test):
        np.testing.assert_array_equal(part[0] * 2.0, part[1])


def test_trigrams_are_those_of_the_line():
    buckets = trigrams.buckets_of("return")
    same = trigrams.buckets_of("a return")
    assert [bucket for bucket in same if bucket >= 0][2:] == [b for b in buckets if b >= 0]
    assert len(buckets) == len(same) == len(trigrams.buckets_of("x" * 1000))
    assert len([bucket for bucket in buckets if bucket >= 0]) == len("return") - 2


def test_fresh_adapters_leave_the_network_as_it_is():
    task = TASKS["adapters"]
    data = task.make_data(0)
    (network,) = data.frozen
    chex.assert_trees_all_equal(adapters.adapted(task.init(jax.random.key(0)), network), network)


def test_the_network_of_the_adapters_knows_upright_digits_and_not_turned_ones():
    data = TASKS["adapters"].make_data(0)
    images, labels = data.test
    upright = np.rot90(images.reshape(-1, 28, 28), k=-1, axes=(1, 2)).reshape(images.shape)
    params = TASKS["adapters"].init(jax.random.key(0))
    known = adapters.score(params, (upright, labels), *data.frozen)
    unknown = adapters.score(params, data.test, *data.frozen)
    assert known > 0.85
    assert unknown < 0.4


def test_the_transformer_does_not_look_ahead():
    params = characters.init(jax.random.key(0))
    symbols = np.arange(32, dtype=np.uint8)[None]
    changed = symbols.copy()
    changed[0, 20] = 90
    first, second = (characters.apply(params, x) for x in (symbols, changed))
    np.testing.assert_allclose(first[:, :20], second[:, :20], rtol=1e-5, atol=1e-5)
    assert not np.allclose(first[:, 20:], second[:, 20:], atol=1e-3)


def test_a_module_without_source_is_a_clear_error():
    with pytest.raises(InputError, match="no source of its module sys"):
        source_text.read_module("sys")


@pytest.mark.parametrize("window", [3, 4, 5])
def test_the_convolution_of_the_digits_cnn_is_jaxs_own(window):
    x = jax.random.normal(jax.random.key(0), (2, 28, 28, 3))
    weight = jax.random.normal(jax.random.key(1), (window, window, 3, 4))
    expected = jax.lax.conv_general_dilated(
        x, weight, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(digits_cnn._convolve(x, weight), expected, rtol=1e-4, atol=1e-4)
