"""The command line: options, presets, and mistakes of the user."""

import importlib.util
import json
import subprocess
import sys

import pytest
from problems.data_files import small_set, write_set
from problems.digits import SIZE
from typer.testing import CliRunner

import hyperlr
from hyperlr import __main__
from hyperlr.experiments import lrs, methods, mnist
from hyperlr.experiments.cli import app

SMALL = mnist.Settings(num_seeds=2, step_sizes={"hd": (1e-4,)}, lrs=None, **SIZE)


def test_mnist_command_on_tiny_settings(tmp_path, monkeypatch):
    settings = SMALL._replace(lrs=lrs.Settings(4, "constant", 100, 1.0, 2), num_steps=512)
    monkeypatch.setitem(mnist.PRESETS, "quick", settings)
    out = tmp_path / "out"
    arguments = ["mnist", "--seeds", "1", "--steps", "3", "--iterations", "1", "--out", str(out)]
    outcome = CliRunner().invoke(app, arguments, env={"HYPERLR_DATA_DIR": ""})
    assert outcome.exit_code == 0, outcome.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["config"]["num_steps"] == 3
    assert metrics["config"]["seeds"] == [0]
    assert metrics["methods"]["lrs_opt"]["outer_iterations"] == [1]
    assert "This will take about" in outcome.output
    assert "HD" in outcome.output
    assert "diverged" in outcome.output


def test_mnist_command_on_another_data_set(tmp_path, monkeypatch):
    """Images of 3 x 5 pixels in 4 classes, fewer of them than a minibatch holds."""
    write_set(tmp_path / "data" / "mnist", small_set(num_train=33), gzipped=True)
    settings = SMALL._replace(step_sizes={"marthe_mu": (1e-4,)}, batch_size=50)
    monkeypatch.setitem(mnist.PRESETS, "quick", settings)
    out = tmp_path / "out"
    arguments = ["mnist", "--data-dir", str(tmp_path / "data"), "--out", str(out)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    config = json.loads((out / "metrics.json").read_text())["config"]
    assert (config["num_train"], config["num_val"], config["num_test"]) == (30, 3, 8)


def test_paper_preset_has_the_papers_seeds_and_start():
    settings = mnist.PRESETS["paper"]
    assert settings.num_seeds == 20
    assert (settings.lrs.num_seeds, settings.lrs.start) == (4, "constant")
    assert all(list(sizes) == sorted(sizes) for sizes in settings.step_sizes.values())


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_presets_are_the_papers_setting(preset):
    settings = mnist.PRESETS[preset]
    assert settings.num_steps == 512
    assert settings.batch_size == 100
    assert settings.hidden_widths == (500, 500, 500)
    assert list(settings.step_sizes) == list(methods.METHODS)
    assert settings.lrs is not None
    assert set(methods.METHODS) == {
        "constant", "hd", "rtho", "marthe_fixed", "marthe_mu", "marthe", "marthe_scale_free"
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["mnist", "--data-dir", "nowhere"],
        ["mnist", "--out", "file"],
        ["toy", "--out", "file"],
    ],
)
def test_mistakes_of_the_user_are_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 2
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"Error: {arguments[1]}")
    assert outcome.stdout == ""


@pytest.mark.parametrize(
    "arguments", [["mnist", "--seeds", "0"], ["mnist", "--preset", "large"], ["unknown"]]
)
def test_wrong_options_exit_with_2(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_help_names_the_options():
    outcome = CliRunner().invoke(app, ["mnist", "--help"], env={"COLUMNS": "120"})
    for option in ("--preset", "--seeds", "--data-dir", "--iterations", "--out"):
        assert option in outcome.output
    assert "--steps" not in outcome.output


def test_module_is_the_command():
    outcome = subprocess.run(
        [sys.executable, "-W", "error", "-m", "hyperlr", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout == f"hyperlr {hyperlr.__version__}\n"
    assert outcome.stderr == ""


def test_missing_extra_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "typer" else found(name)
    )
    with pytest.raises(SystemExit, match=r'need typer.*pip install "hyperlr\[experiments\]"'):
        __main__.main()
