"""The command line: options, presets, and mistakes of the user."""

import importlib.util
import json
import subprocess
import sys
import warnings

import pytest
from problems.data_files import small_set, write_set
from typer.testing import CliRunner

import hyperlr
from hyperlr import __main__
from hyperlr.experiments.cli import app
from hyperlr.experiments.digits.experiment import PRESETS
from hyperlr.experiments.surfaces import experiment as toy

NO_DATA = {"HYPERLR_DATA_DIR": ""}
COMMANDS = ("mnist", "robustness", "toy", "adaptive", "curvature", "cifar10", "cifar100")


def test_mnist_command_on_tiny_settings(tmp_path, monkeypatch):
    settings = PRESETS["smoke"]
    numbers = {"constant": (0.0,), "hd": (1e-4,)}
    lrs = settings.lrs._replace(start="constant")
    monkeypatch.setitem(PRESETS, "smoke", settings._replace(numbers=numbers, lrs=lrs))
    out = tmp_path / "out"
    arguments = ["mnist", "--preset", "smoke", "--seeds", "2", "--iterations", "1"]
    outcome = CliRunner().invoke(app, [*arguments, "--out", str(out)], env=NO_DATA)
    assert outcome.exit_code == 0, outcome.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["config"]["preset"], metrics["config"]["num_seeds"]) == ("smoke", 2)
    assert metrics["methods"]["lrs_opt"]["outer_iterations"] == [1]
    assert "This will take about" in outcome.output
    assert "HD" in outcome.output
    (part,) = (out / "parts").glob("constant-0-*.npz")
    part.write_bytes(b"no archive")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        outcome = CliRunner().invoke(app, [*arguments, "--out", str(out)], env=NO_DATA)
    assert outcome.exit_code == 0
    assert outcome.stderr.startswith(f"Warning: {part} is damaged and not used (")
    assert len(outcome.stderr.splitlines()) == 1


def test_mnist_command_on_another_data_set(tmp_path, monkeypatch):
    """Images of 3 x 5 pixels in 4 classes, fewer of them than a minibatch holds."""
    write_set(tmp_path / "data" / "mnist", small_set(num_train=33), gzipped=True)
    settings = PRESETS["smoke"]._replace(numbers={"marthe_mu": (1e-4,)}, lrs=None, batch_size=50)
    monkeypatch.setitem(PRESETS, "smoke", settings)
    out = tmp_path / "out"
    arguments = ["mnist", "--preset", "smoke", "--data-dir", str(tmp_path / "data")]
    outcome = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert outcome.exit_code == 0, outcome.output
    config = json.loads((out / "metrics.json").read_text())["config"]
    assert (config["num_train"], config["num_val"], config["num_test"]) == (30, 3, 8)


def test_paper_preset_has_the_papers_seeds_and_start():
    settings = PRESETS["paper"]
    assert settings.num_seeds == 20
    assert (settings.lrs.num_seeds, settings.lrs.start) == (4, "constant")
    assert all(list(numbers) == sorted(numbers) for numbers in settings.numbers.values())


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_presets_are_the_papers_setting(preset):
    settings = PRESETS[preset]
    assert settings.num_steps == 512
    assert settings.batch_size == 100
    assert settings.hidden_widths == (500, 500, 500)
    assert settings.lrs is not None
    assert list(settings.numbers) == [
        "constant", "constant_tuned", "cosine_tuned", "adam", "hd", "rtho", "marthe_fixed",
        "marthe_mu", "marthe", "marthe_scale_free", "auto",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["mnist", "--data-dir", "nowhere"],
        *([command, "--out", "file"] for command in COMMANDS),
        ["robustness", "--data-dir", "nowhere"],
        ["toy", "--seeds", "2"],
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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_same_options(command):
    outcome = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"})
    for option in ("--preset", "--seeds", "--data-dir", "--out"):
        assert option in outcome.output
    assert "--steps" not in outcome.output


def test_an_interrupted_command_ends_as_others_do(tmp_path, monkeypatch):
    def interrupt(settings, data):
        raise KeyboardInterrupt

    interrupted = toy.EXPERIMENT._replace(parts=interrupt)
    monkeypatch.setattr(toy, "EXPERIMENT", interrupted)
    outcome = CliRunner().invoke(app, ["toy", "--out", str(tmp_path)])
    assert outcome.exit_code == 130
    assert "the same command goes on from here" in outcome.output


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
