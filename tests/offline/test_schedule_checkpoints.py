"""Optimizations of a schedule that are interrupted, and their checkpoints."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems.schedules import run


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


@pytest.mark.usefixtures("orbax")
def test_a_run_that_its_callback_stopped_is_kept_and_goes_on(tmp_path):
    """Between two checkpoints; the best schedule is one from before the resumption."""
    options = {"num_iterations": 6, "optimizer": optax.sgd(0.02), "inner": optax.sgd}
    whole = run(lambda record: None, num_steps=3, **options)
    assert np.argmin(whole.values) == 4
    options |= {"checkpoint_dir": tmp_path, "checkpoint_every": 3, "num_steps": 3}
    stopped = run(lambda record: record.iteration == 4, **options)
    assert stopped.state.iteration == len(stopped.values) == 5
    seen = []
    assert_same_bits(run(seen.append, **options), whole)
    assert [r.iteration for r in seen] == [5]


@pytest.mark.usefixtures("orbax")
def test_a_checkpoint_of_another_model_state_is_refused(tmp_path):
    def stateful(model_state):
        return run(
            checkpoint_dir=tmp_path,
            num_iterations=1,
            loss_fn=lambda w, s, x: (jnp.sum((w - s * x) ** 2), s),
            objective_fn=lambda w, s: jnp.sum(w**2),
            model_state=model_state,
        )

    stateful(jnp.float32(0.1))
    with pytest.raises(ValueError, match=r"another run, with a different model state \("):
        stateful(jnp.float32(0.2))


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
