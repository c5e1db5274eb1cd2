"""Finished parts and checkpoints of an experiment: found, checked, refused."""

import subprocess
import sys
import warnings
from typing import NamedTuple

import jax
import numpy as np
import pytest

from hyperlr.experiments import parts, results


def test_part_is_found_by_its_settings_alone(tmp_path):
    config = {"seeds": (0, 1), "rate": 0.1}
    path = parts.part_path(tmp_path, "hd", config)
    assert parts.load_part(path) is None
    parts.save_part(path, {"x": np.arange(3)})
    same = parts.part_path(tmp_path, "hd", {"rate": 0.1, "seeds": [0, 1]})
    np.testing.assert_array_equal(parts.load_part(same)["x"], [0, 1, 2])
    for other in ({"seeds": (0,), "rate": 0.1}, {"seeds": (0, 1), "rate": 0.1000001}):
        assert parts.part_path(tmp_path, "hd", other) != path


def assert_refused(path):
    with pytest.warns(RuntimeWarning, match=rf"{path.name} is damaged and not used \("):
        assert parts.load_part(path) is None


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_part_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "part.npz"
    parts.save_part(path, {"x": np.random.default_rng(0).random(100)})
    path.write_bytes(path.read_bytes()[:keep])
    assert_refused(path)


def test_no_flipped_bit_of_a_part_goes_unnoticed_and_changes_it(tmp_path):
    path, told = tmp_path / "part.npz", 0
    arrays = {"x": np.arange(3.0), "y": np.array(True)}
    parts.save_part(path, arrays)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = parts.load_part(path)
        if loaded is None:
            assert "part.npz is damaged and not used" in str(caught[0].message)
            told += 1
        else:  # a byte that means nothing, such as one of the time of writing
            assert not caught
            assert loaded.keys() == arrays.keys()
            jax.tree.map(np.testing.assert_array_equal, loaded, arrays)
    assert told > 0.5 * len(content)


def test_part_that_is_not_what_its_name_says_is_refused(tmp_path):
    path, other = tmp_path / "part.npz", tmp_path / "other.npz"
    parts.save_part(path, {"x": np.arange(3)})
    other.write_bytes(path.read_bytes())
    assert_refused(other)
    np.savez(other, x=np.arange(3))  # by something else
    assert_refused(other)
    with other.open("wb") as file:
        np.save(file, np.arange(3))
    assert_refused(other)
    assert parts.load_part(path) is not None


def test_part_is_computed_once_and_again_where_it_is_damaged(tmp_path):
    computed = []

    def find():
        return parts.finished(tmp_path, "cell", {"T": 1}, Cell, compute)

    def compute():
        computed.append(1)
        return Cell(np.arange(2, dtype=np.float32), 0.5)

    first = find()
    assert isinstance(first, Cell)
    assert isinstance(first.number, float)
    jax.tree.map(np.testing.assert_array_equal, find(), first)
    assert len(computed) == 1
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        jax.tree.map(np.testing.assert_array_equal, find(), first)
    jax.tree.map(np.testing.assert_array_equal, find(), first)
    assert len(computed) == 2


class Cell(NamedTuple):
    array: np.ndarray
    number: float


def test_checkpoint_before_a_damaged_one_is_taken(tmp_path):
    path = tmp_path / "part.npz"
    assert parts.load_checkpoint(path) is None
    for step in (2, 9, 10):
        parts.save_checkpoint(path, step, {"step": np.array(step)})
    parts.save_checkpoint(tmp_path / "other.npz", 99, {"step": np.array(99)})
    assert parts.load_checkpoint(path)["step"] == 10
    names = ["other.checkpoint99.npz", "part.checkpoint10.npz", "part.checkpoint9.npz"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    (tmp_path / "part.checkpoint10.npz").write_bytes(b"no archive")
    with pytest.warns(RuntimeWarning, match=r"part\.checkpoint10\.npz is damaged"):
        assert parts.load_checkpoint(path)["step"] == 9
    parts.remove_checkpoints(path)
    assert [file.name for file in tmp_path.iterdir()] == ["other.checkpoint99.npz"]


def test_what_killed_processes_left_is_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        leftover, other = f".metrics.json.{dead.pid}.tmp", f".metrics.json.{living.pid}.tmp"
        for folder in (tmp_path, tmp_path / "parts", tmp_path / "checkpoints"):
            folder.mkdir(exist_ok=True)
            for name in (leftover, other, ".mine.tmp", "notes.1.tmp"):
                (folder / name).touch()
        results.prepare_output(tmp_path)
        for folder in (tmp_path, tmp_path / "parts", tmp_path / "checkpoints"):
            names = {path.name for path in folder.iterdir() if path.is_file()}
            assert names == {other, ".mine.tmp", "notes.1.tmp"}
        living.communicate(b"\n")


def test_digest_of_data_sees_values_shapes_and_dtypes():
    array = np.arange(6, dtype=np.uint8)
    others = [array[::-1], array.reshape(2, 3), array.astype(np.int8), array[:5]]
    digests = [parts.data_digest(each) for each in (array, array.copy(), *others)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5
