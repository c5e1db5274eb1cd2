"""Checkpoints that are damaged or foreign are refused; killed processes come to the same bits."""

import functools
import pathlib
import random
import shutil
import warnings

import jax
import jax.numpy as jnp
import kill_targets
import kill_test
import numpy as np
import optax
import pytest
from problems import processes

import hyperlr
from hyperlr import _files

ocp = pytest.importorskip("orbax.checkpoint")

ROOT = pathlib.Path(__file__).parents[2]
PROBLEM = {"key": "abc", "T": "4"}


def tree(step):
    """Of several dtypes, and with a typed key; every checkpoint has other numbers."""
    numbers = {"schedule": jnp.arange(4.0) + step, "half": jnp.ones(3, jnp.bfloat16) * step}
    return numbers, jax.random.key(step), jnp.int32(step), jnp.array([], jnp.float32), True


def assert_is_tree_of(step, found):
    assert found[0] == step
    assert jax.tree.structure(found[1]) == jax.tree.structure(tree(step))
    for a, b in zip(*map(jax.tree.leaves, (found[1], tree(step))), strict=True):
        assert jnp.result_type(a) == jnp.result_type(b)
        np.testing.assert_array_equal(_files._plain(a), _files._plain(b))


def write(directory, steps, problem=PROBLEM):
    with _files.open_directory(directory) as manager:
        for step in steps:
            _files.save(manager, step, tree(step), problem)


def read(directory, problem=PROBLEM):
    with _files.open_directory(directory) as manager:
        return _files.restore_latest(manager, tree, problem)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("written") / "run"
    write(directory, (1, 2))
    return directory


@pytest.fixture
def directory(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def test_the_last_one_is_read(directory):
    assert_is_tree_of(2, read(directory))
    assert read(directory.with_name("empty")) is None


def flip(place, path):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Files with damages to which orbax may read the same arrays all the same: marks of completion, what
# it has merged into other files, and descriptions.
IDLE = ("commit_success.txt", "ocdbt.process_0", "_METADATA", "array_metadatas", "_sharding")


@pytest.mark.parametrize(
    "damage",
    [*(functools.partial(flip, place) for place in (0, 0.3, 0.6, 1)), cut, pathlib.Path.unlink],
    ids=["first byte", "a byte", "another byte", "last byte", "cut", "gone"],
)
def test_damage_to_any_file_is_harmless_or_refused(written, tmp_path, damage):
    files = [path.relative_to(written) for path in (written / "2").rglob("*") if path.is_file()]
    refused = []
    for number, file in enumerate(files):
        directory = shutil.copytree(written, tmp_path / str(number))
        damage(directory / file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = read(directory)
        if caught:
            (warning,) = caught
            refused.append(file)
            assert warning.category is RuntimeWarning
            assert str(warning.message).startswith(f"checkpoint {directory / '2'} is damaged (")
            assert str(warning.message).endswith("is now refused-2; taking the one of step 1")
            assert_is_tree_of(1, found)
            assert (directory / "refused-2").is_dir()
        else:
            assert_is_tree_of(2, found)
    data = {file for file in files if not any(name in str(file) for name in IDLE)}
    assert data <= {*refused}
    assert len(data) == 3


def test_arrays_of_another_checkpoint_are_refused(directory):
    """Orbax finds nothing wrong with these."""
    shutil.rmtree(directory / "2" / "arrays")
    shutil.copytree(directory / "1" / "arrays", directory / "2" / "arrays")
    with pytest.warns(RuntimeWarning, match=r"damaged \(its arrays are not what was written\)"):
        assert_is_tree_of(1, read(directory))


def test_the_run_goes_on_after_a_refused_one(directory):
    cut(directory / "2" / "run" / "metadata")
    with _files.open_directory(directory) as manager:
        with pytest.warns(RuntimeWarning, match="is damaged"):
            assert_is_tree_of(1, _files.restore_latest(manager, tree, PROBLEM))
        _files.save(manager, 2, tree(2), PROBLEM)
    assert_is_tree_of(2, read(directory))
    cut(directory / "2" / "run" / "metadata")
    with pytest.warns(RuntimeWarning, match="is now refused-2-2"):
        assert_is_tree_of(1, read(directory))


def test_with_none_left_the_run_begins_anew(directory):
    for step in ("1", "2"):
        cut(directory / step / "run" / "metadata")
    with pytest.warns(RuntimeWarning, match="starting from the beginning") as warned:
        assert read(directory) is None
    assert len(warned) == 2
    names = {path.name for path in directory.iterdir()}
    assert names == {"refused-1", "refused-2"}
    write(directory, (1,))
    assert_is_tree_of(1, read(directory))


def test_a_foreign_one_after_a_good_one_is_refused(directory):
    write(directory.with_name("other"), (7,), {"key": "xyz", "T": "4"})
    shutil.copytree(directory.with_name("other") / "7", directory / "7")
    (directory / "9").mkdir()
    (directory / "9" / "holiday.jpg").touch()
    with pytest.warns(RuntimeWarning, match="is not of this run") as warned:
        assert_is_tree_of(2, read(directory))
    assert len(warned) == 2
    assert (directory / "refused-9" / "holiday.jpg").is_file()


def test_foreign_ones_alone_are_an_error_and_stay(tmp_path):
    write(tmp_path, (7,), {"key": "xyz", "T": "4"})
    with pytest.raises(ValueError, match=r"another run, with a different key \(there xyz, here ab"):
        read(tmp_path)
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "holiday.jpg").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="holds checkpoints that hyperlr did not write"):
        read(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    # Nor does a damaged one beside them give leave to overwrite them.
    cut(tmp_path / "7" / "run" / "metadata")
    with pytest.raises(ValueError, match="holds checkpoints that hyperlr did not write"):
        read(tmp_path)


def test_a_checkpoint_that_another_process_wrote_meanwhile_is_an_error(directory):
    complaint = pytest.raises(RuntimeError, match="has got a checkpoint of step 2 from elsewhere")
    with _files.open_directory(directory) as manager, complaint:
        _files.save(manager, 2, tree(2), PROBLEM)


def test_a_schedule_is_optimized_on_from_the_last_good_checkpoint(tmp_path):
    def optimize():
        return hyperlr.optimize_schedule(
            optax.sgd,
            jnp.zeros(2),
            jnp.full(3, 0.1),
            lambda key: jax.random.normal(key, (3, 2)),
            lambda w, x: jnp.sum((w - x) ** 2),
            lambda w: jnp.sum((w - 1.0) ** 2),
            optimizer=optax.adam(0.01),
            num_iterations=4,
            key=jax.random.key(0),
            checkpoint_dir=tmp_path,
            checkpoint_every=1,
        )

    whole = optimize()
    for file in (tmp_path / "4" / "arrays" / "d").iterdir():
        flip(0.5, file)
    with pytest.warns(RuntimeWarning, match="taking the one of step 3"):
        resumed = optimize()
    for a, b in zip(*map(jax.tree.leaves, (resumed, whole)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# Real processes.


def test_killed_processes_come_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", processes.QUICK_TO_COMPILE)
    outcome = kill_test.kill_repeatedly("optimize_schedule", 2, random.Random(0), tmp_path)
    assert outcome.kills == 2
    assert outcome.resumes >= 1
    assert outcome.differences == []


@pytest.mark.slow
@pytest.mark.parametrize("target", kill_targets.TARGETS)
def test_every_killed_experiment_comes_to_the_same_bits(target, tmp_path):
    outcome = kill_test.kill_repeatedly(target, 4, random.Random(1), tmp_path)
    assert outcome.kills == 4
    assert outcome.differences == []


def test_a_difference_in_the_last_bit_is_seen(tmp_path):
    for name, number in (("a", 1.0), ("b", 1.0), ("c", np.nextafter(1.0, 2.0))):
        (tmp_path / name / "parts").mkdir(parents=True)
        np.savez(tmp_path / name / "parts" / "x.npz", number=number, seconds=ord(name))
        (tmp_path / name / "metrics.json").write_text(f'{{"a": {{"b": {float(number)!r}}}}}')
    whole = kill_test.content(tmp_path / "a")
    assert kill_test.compare(kill_test.content(tmp_path / "b"), whole) == []
    (tmp_path / "b" / ".x.npz.7.tmp").touch()
    assert kill_test.compare(kill_test.content(tmp_path / "b"), whole) == [".x.npz.7.tmp"]
    different = kill_test.compare(kill_test.content(tmp_path / "c"), whole)
    assert different == ["metrics.json: /a/b", "parts/x.npz: number"]
