"""Result files: whole or not at all, and strict JSON."""

import json

import numpy as np
import pytest

from hyperlr.experiments import results
from hyperlr.experiments.errors import InputError


def test_atomic_file_appears_whole(tmp_path):
    path = tmp_path / "file"
    with results.atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_midway_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with results.atomic_file(path) as file:
            file.write(b"half of the new")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_are_strict_json(tmp_path):
    path = tmp_path / "metrics.json"
    entry = {
        "val_accuracy": np.array([0.5, np.nan], np.float32),
        "diverged": np.array([False, True]),
        "seconds": np.inf,
    }
    results.write_metrics(path, {"widths": (1, 2), "out": tmp_path}, {"hd": entry})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "config": {"widths": [1, 2], "out": str(tmp_path)},
        "methods": {
            "hd": {"val_accuracy": [0.5, None], "diverged": [False, True], "seconds": None}
        },
    }


def test_output_is_made_with_its_parents(tmp_path):
    results.prepare_output(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"--out: results cannot be written to .*file"):
            results.prepare_output(out)
