"""Finished parts and checkpoints of an experiment: found, checked, refused."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from hyperlr.experiments.core import store
from hyperlr.experiments.core.errors import InputError


def test_part_is_found_by_its_settings_alone(tmp_path):
    config = {"seeds": (0, 1), "rate": 0.1}
    path = store.part_path(tmp_path, "hd", config)
    assert store.load_part(path) is None
    store.save_part(path, {"x": np.arange(3)})
    same = store.part_path(tmp_path, "hd", {"rate": 0.1, "seeds": [0, 1]})
    np.testing.assert_array_equal(store.load_part(same)["x"], [0, 1, 2])
    for other in ({"seeds": (0,), "rate": 0.1}, {"seeds": (0, 1), "rate": 0.1000001}):
        assert store.part_path(tmp_path, "hd", other) != path


def assert_refused(path):
    with pytest.warns(RuntimeWarning, match=rf"{path.name} is damaged and not used \("):
        assert store.load_part(path) is None


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_part_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "part.npz"
    store.save_part(path, {"x": np.random.default_rng(0).random(100)})
    path.write_bytes(path.read_bytes()[:keep])
    assert_refused(path)


def test_no_flipped_bit_of_a_part_goes_unnoticed_and_changes_it(tmp_path):
    path, noticed = tmp_path / "part.npz", 0
    arrays = {"x": np.arange(3.0), "y": np.array(True)}
    store.save_part(path, arrays)
    content = path.read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 1 << index % 8
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = store.load_part(path)
        if loaded is None:
            assert "part.npz is damaged and not used" in str(caught[0].message)
            noticed += 1
        else:  # a byte that means nothing, such as one of the time of writing
            assert not caught
            assert loaded.keys() == arrays.keys()
            jax.tree.map(np.testing.assert_array_equal, loaded, arrays)
    assert noticed > 0.5 * len(content)


def test_part_that_is_not_what_its_name_says_is_refused(tmp_path):
    path, other = tmp_path / "part.npz", tmp_path / "other.npz"
    store.save_part(path, {"x": np.arange(3)})
    other.write_bytes(path.read_bytes())
    assert_refused(other)
    np.savez(other, x=np.arange(3))  # by something else
    assert_refused(other)
    with other.open("wb") as file:
        np.save(file, np.arange(3))
    assert_refused(other)
    assert store.load_part(path) is not None


def test_checkpoints_are_those_of_their_own_kind(tmp_path):
    path = tmp_path / "part-1.npz"
    folder, tree = store.checkpoints_of(path), {"x": np.arange(3, dtype=np.float32)}
    with store.open_checkpoints(None) as nowhere:
        nowhere.save(1, tree)
        assert nowhere.restore(tree) is None
    assert list(tmp_path.iterdir()) == []
    with store.open_checkpoints(folder) as checkpoints:
        assert checkpoints.restore(tree) is None
        for step in (2, 9, 10):
            checkpoints.save(step, {"x": tree["x"] + step})
    with store.open_checkpoints(folder) as checkpoints:
        step, found = checkpoints.restore(tree)
        np.testing.assert_array_equal(found["x"], [10, 11, 12])
        assert step == 10
        with pytest.raises(InputError, match=r"--out: .*holds another run"):
            checkpoints.restore({"x": np.zeros(4, np.float32)})
    assert {each.name for each in folder.iterdir()} == {"9", "10"}
    store.save_part(path, tree)
    assert not folder.exists()


def test_what_killed_processes_left_is_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        leftover, other = f".metrics.json.{dead.pid}.tmp", f".metrics.json.{living.pid}.tmp"
        for folder in (tmp_path, tmp_path / "parts"):
            folder.mkdir(exist_ok=True)
            for name in (leftover, other, ".mine.tmp", "notes.1.tmp"):
                (folder / name).touch()
        store.prepare_output(tmp_path)
        for folder in (tmp_path, tmp_path / "parts"):
            names = {path.name for path in folder.iterdir() if path.is_file()}
            assert names == {other, ".mine.tmp", "notes.1.tmp"}
        living.communicate(b"\n")


def test_digest_of_data_sees_values_shapes_and_dtypes():
    array = np.arange(6, dtype=np.uint8)
    others = [array[::-1], array.reshape(2, 3), array.astype(np.int8), array[:5]]
    digests = [store.digest(each) for each in (array, array.copy(), *others)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


def test_atomic_file_appears_whole(tmp_path):
    path = tmp_path / "file"
    with store.atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_midway_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with store.atomic_file(path) as file:
            file.write(b"half of the new")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_are_as_one_writes_them_and_strict_json():
    entry = {
        "val_accuracy": np.array([0.894, np.nan], np.float32),
        "share": np.float32(0.1),
        "diverged": np.array([False, True]),
        "seconds": np.inf,
        "mean": np.float64(1) / 3,
        "widths": (1, 2),
        "folder": Path("here"),
    }
    plain = store.plain(entry)
    assert plain == {
        "val_accuracy": [0.894, None],
        "share": 0.1,
        "diverged": [False, True],
        "seconds": None,
        "mean": 1 / 3,
        "widths": [1, 2],
        "folder": "here",
    }
    json.dumps(plain, allow_nan=False)


def test_output_is_made_with_its_parents(tmp_path):
    store.prepare_output(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"--out: results cannot be written to .*file"):
            store.prepare_output(out)
