"""An experiment that was interrupted, or whose files are damaged, goes on and says so."""

import io
import warnings

import jax
import numpy as np
from problems.digits import SIZE
from rich.console import Console
from typer.testing import CliRunner

from hyperlr.experiments import mnist, parts
from hyperlr.experiments.cli import app


def test_experiment_goes_on_and_says_so(tmp_path, digits):
    settings = mnist.Settings(2, {"hd": (1e-4, 1e-3)}, None, **SIZE)
    console = Console(file=io.StringIO(), width=200)
    first = mnist.compute(settings, digits, tmp_path / "parts", console)
    second = mnist.compute(settings, digits, tmp_path / "parts", console)
    before = set((tmp_path / "parts").iterdir())
    mnist.compute(settings._replace(num_steps=3), digits, tmp_path / "parts", console)
    jax.tree.map(
        np.testing.assert_array_equal, first.grids["hd"].trained, second.grids["hd"].trained
    )
    text = console.file.getvalue()
    assert text.count("1 of 1 parts of the grid are finished") == 1
    assert text.count("are of other settings, and are left alone: starting anew") == 1
    assert before < set((tmp_path / "parts").iterdir())


def test_damaged_part_is_one_line_on_the_command_line_and_computed_again(tmp_path, monkeypatch):
    settings = mnist.Settings(1, {"constant": (0.0,)}, None, **SIZE)
    monkeypatch.setitem(mnist.PRESETS, "quick", settings)
    arguments = ["mnist", "--out", str(tmp_path)]
    environment = {"HYPERLR_DATA_DIR": ""}
    assert CliRunner().invoke(app, arguments, env=environment).exit_code == 0
    (path,) = (tmp_path / "parts").iterdir()
    path.write_bytes(b"no archive")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        outcome = CliRunner().invoke(app, arguments, env=environment)
    assert outcome.exit_code == 0
    assert outcome.stderr.startswith(f"Warning: {path} is damaged and not used (")
    assert len(outcome.stderr.splitlines()) == 1
    assert parts.load_part(path) is not None
