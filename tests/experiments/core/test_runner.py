"""The runner, with an experiment of a few lines: what it computes, keeps, writes and says."""

import io
import json
import signal
import subprocess
import sys
import time
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from problems import squares
from rich.console import Console

from hyperlr.experiments.core import runner, store, tables
from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.core.log import Log
from hyperlr.experiments.core.progress import clock

SETTINGS = squares.Settings()


def run(out, settings=SETTINGS, computed=None, preset=None, **changes):
    """Returns what is shown; `computed` is given the names of the parts that are computed."""
    text = io.StringIO()
    experiment = squares.make_experiment(computed if computed is not None else [])
    experiment = experiment._replace(**changes)
    runner.run(experiment, settings, out, Console(file=text, width=300), preset=preset)
    return text.getvalue()


def test_files_and_table(tmp_path):
    text = run(tmp_path, preset="smoke", unit_seconds=lambda settings, data: 40.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "line.png", "metrics.json", "parts", "schedules.npz"
    ]  # fmt: skip
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["methods"] == {"squares": {"values": [0.0, 1.0, 4.0], "sum": 5.0}}
    config = metrics["config"]
    assert (config["experiment"], config["preset"]) == ("squares", "smoke")
    assert (config["num"], config["scale"], config["exact"]) == (3, 1.0, True)
    assert {"versions", "device"} <= config.keys()
    np.testing.assert_array_equal(np.load(tmp_path / "schedules.npz")["squares"], [0, 1, 4])
    assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")
    readme = (tmp_path / "README.md").read_text()
    for line in ("# Squares", "## A line", "![A line](line.png)", "It rises.", tables.TOO_SHORT):
        assert line in readme
    assert "This will take about 3 min" in text  # a cost of 4 at 40 seconds
    assert "the sum: 5" in text
    assert tables.TOO_SHORT in " ".join(text.split())
    assert tables.TOO_SHORT not in run(tmp_path, preset="quick")


def test_finished_parts_are_read_back(tmp_path):
    computed = []
    run(tmp_path, computed=computed)
    assert computed == ["square-0", "square-1", "square-2", "sum"]
    first = (tmp_path / "metrics.json").read_bytes()
    text = run(tmp_path, computed=computed)
    assert len(computed) == 4
    assert (tmp_path / "metrics.json").read_bytes() == first
    assert "elapsed" not in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num": 4}, ["square-3", "sum"]),
        ({"num": 2}, ["sum"]),
        ({"exact": False}, ["sum"]),
        # The sum of squares is none of the settings that it depends on, but its squares are.
        ({"scale": 2.0}, ["square-1", "square-2", "sum"]),
    ],
)
def test_changed_settings_recompute_what_they_determine(tmp_path, changes, expected):
    run(tmp_path)
    before, computed = set((tmp_path / "parts").iterdir()), []
    text = run(tmp_path, SETTINGS._replace(**changes), computed)
    assert computed == expected
    assert before < set((tmp_path / "parts").iterdir())  # the others are left alone
    total = SETTINGS._replace(**changes).num + 1
    assert f"{total - len(expected)} of {total} parts are finished" in text
    computed.clear()
    run(tmp_path, computed=computed)  # and still there
    assert computed == []


def test_other_data_and_settings_start_anew(tmp_path):
    class Data(NamedTuple):
        source: str
        images: np.ndarray
        test_labels: np.ndarray
        num_train: int = 1
        num_val: int = 1

    data, computed = Data("here", np.arange(3), np.zeros(100)), []
    run(tmp_path, computed=computed, load=lambda _: data)
    assert json.loads((tmp_path / "metrics.json").read_text())["config"]["num_test"] == 100
    run(tmp_path, computed=computed, load=lambda _: data._replace(source="there"))
    assert len(computed) == 4  # where they lie does not matter
    text = run(tmp_path, computed=computed, load=lambda _: data._replace(images=np.arange(4)))
    assert len(computed) == 8
    assert "are of other settings, and are left alone: starting anew" in text


def test_damaged_part_is_told_and_computed_again(tmp_path):
    run(tmp_path)
    path = next((tmp_path / "parts").glob("square-1-*"))
    path.write_bytes(b"no archive")
    computed = []
    with pytest.warns(RuntimeWarning, match="is damaged and not used"):
        run(tmp_path, computed=computed)
    assert computed == ["square-1"]  # it came to the same, and so the sum is what it was
    assert store.load_part(path) is not None


def test_output_is_checked_before_the_data(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out"):
        run(tmp_path / "file", load=lambda _: pytest.fail("loaded data before the check"))


@pytest.mark.parametrize("at", ["square-2", "sum"])
def test_interrupted_run_says_that_it_goes_on_and_does(tmp_path, at):
    run(tmp_path / "whole")
    text, computed = io.StringIO(), []
    console = Console(file=text, width=300)
    with pytest.raises(KeyboardInterrupt):
        runner.run(
            squares.make_experiment([], interrupt=at), SETTINGS, tmp_path / "killed", console
        )
    assert "Interrupted: the same command goes on from here" in text.getvalue()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    run(tmp_path / "killed", computed=computed)
    assert computed == ["square-0", "square-1", "square-2", "sum"][-1 if at == "sum" else -2 :]
    results = [(tmp_path / name / "metrics.json").read_bytes() for name in ("whole", "killed")]
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_killed_process_goes_on(tmp_path, kind):
    """In the third part, which takes its time and leaves a checkpoint on the way."""
    out = tmp_path / "out"
    code = "import sys; sys.path.insert(0, sys.argv[1]); from problems import squares; "
    code += "squares.run_slowly(sys.argv[2])"
    command = [sys.executable, "-c", code, str(squares.TESTS), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while not list(out.glob("parts/*.checkpoints/1/run")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(kind)
        told, _ = process.communicate()
    assert process.returncode != 0
    assert ("the same command goes on" in told) == (kind == signal.SIGINT)
    computed = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(out, computed=computed)
    assert computed == ["square-2 from 1", "sum"]
    run(tmp_path / "whole")
    results = [(path / "metrics.json").read_bytes() for path in (tmp_path / "whole", out)]
    assert results[0] == results[1]
    assert not list(out.glob("parts/*.checkpoints"))


def test_what_is_watched_comes_once(tmp_path):
    log = Log(tmp_path, tensorboard=False)
    log.write("a-1", {"step": 3, "loss": 0.5})
    log.write("a-1", {"step": 6, "loss": np.nan})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"part": "a-1", "st')  # cut short by a kill
    log = Log(tmp_path, tensorboard=False)
    for step in (3, 6, 9):
        log.write("a-1", {"step": step, "loss": 1.0})
    log.write("b-1", {"step": 3, "loss": 2.0})
    text = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in (*text[:2], *text[3:])] == [
        {"part": "a-1", "step": 3, "loss": 0.5},
        {"part": "a-1", "step": 6, "loss": None},
        {"part": "a-1", "step": 9, "loss": 1.0},
        {"part": "b-1", "step": 3, "loss": 2.0},
    ]


def test_settings_of_a_preset():
    experiment = squares.make_experiment([])
    assert runner.settings_of(experiment, "quick", {"num": None, "scale": 3.0}).scale == 3.0
    with pytest.raises(InputError, match="--seeds: squares draws nothing"):
        runner.settings_of(experiment, "quick", {"num_seeds": 2})


def test_clock():
    assert [clock(x) for x in (0.4, 34, 291.2, 59.6, 3_599.6)] == [
        "0:00", "0:34", "4:51", "1:00", "1:00:00"
    ]  # fmt: skip
