"""Section 5 of the paper: the schedules that the online methods find on a small set of digits."""

import functools
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from rich.progress import Progress, TaskID

import hyperlr
from hyperlr.experiments import data, mnist_plots, models, report, results, training
from hyperlr.experiments.methods import LEARNING_RATE, METHODS


class Settings(NamedTuple):
    """Size of the experiment; the defaults are the paper's, but for the seeds."""

    num_seeds: int
    """Seeds 0, 1, … of the split, the initial weights and the minibatches."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Keys of METHODS."""
    num_steps: int = 512
    """T."""
    batch_size: int = 100
    """Images in a minibatch of L, and of E."""
    hidden_widths: tuple[int, ...] = models.HIDDEN_WIDTHS
    """Units of the hidden layers."""


PRESETS = {
    "quick": Settings(num_seeds=2),
    "paper": Settings(num_seeds=20),
}


class Outcome(NamedTuple):
    """What one method did, one lane a seed."""

    trained: training.Trained
    step_size: float
    seconds: float
    """Wall time, with compilation."""


def run(settings: Settings, data_dir: Path | None, out: Path, console: Console) -> None:
    """Runs the experiment and writes metrics.json, schedules.npz, curves.npz and schedules.png.

    Args:
      settings: what to run.
      data_dir: as for `data.load`.
      out: directory of the results; made where it is missing.
      console: where the progress and the table go.

    Raises:
      InputError: data cannot be read, or `out` cannot be written.
    """
    results.prepare_output(out)
    images = data.load(data_dir)
    total = sum(METHODS[name].cost for name in settings.methods) * settings.num_steps
    outcomes = {}
    with report.progress_bar(console) as progress:
        task = progress.add_task("", total=total)
        for name in settings.methods:
            progress.update(task, description=METHODS[name].label)
            advance = functools.partial(_advance, progress, task, METHODS[name].cost)
            outcomes[name] = run_method(name, images, settings, on_progress=advance)
        progress.update(task, description="all methods", completed=total)
    methods = {name: summary(outcome, images) for name, outcome in outcomes.items()}
    results.write_metrics(out / "metrics.json", describe(settings, images), methods)
    results.write_schedules(
        out / "schedules.npz",
        {name: outcome.trained.records["learning_rate"] for name, outcome in outcomes.items()},
    )
    results.write_schedules(out / "curves.npz", _curves(outcomes))
    results.write_figure(
        out / "schedules.png",
        mnist_plots.schedules_and_accuracies(
            {name: outcome.trained for name, outcome in outcomes.items()},
            {name: method["diverged"] for name, method in methods.items()},
            images.source,
        ),
    )
    labels = {name: METHODS[name].label for name in outcomes}
    seeds = "1 seed" if settings.num_seeds == 1 else f"{settings.num_seeds} seeds"
    title = f"{settings.num_steps} steps, {seeds}, {images.source}"
    console.print(report.results_table(title, methods, labels))
    console.print(f"Results in {out}", soft_wrap=True)


def run_method(
    name: str,
    images: data.Data,
    settings: Settings,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Outcome:
    """Trains one method on all seeds side by side, with the step size of METHODS.

    Args:
      name: key of METHODS.
      images: the data.
      settings: number of seeds and size.
      on_progress: called with the number of steps made since the last call.
    """
    start = time.perf_counter()
    method = METHODS[name]
    seeds: Sequence[int] = range(settings.num_seeds)
    lanes = training.make_lanes(
        images,
        seeds,
        [method.step_size] * len(seeds),
        num_steps=settings.num_steps,
        batch_size=settings.batch_size,
        hidden_widths=settings.hidden_widths,
    )
    trained = training.train(method.make, images, lanes, on_progress=on_progress)
    return Outcome(trained, method.step_size, time.perf_counter() - start)


def summary(outcome: Outcome, images: data.Data) -> dict[str, Any]:
    """Returns a method's entry of metrics.json, lists with one entry a seed."""
    trained = outcome.trained
    return {
        "val_accuracy": trained.val_accuracy[:, -1],
        "test_accuracy": trained.test_accuracy,
        "val_loss": trained.val_loss[:, -1],
        "test_loss": trained.test_loss,
        "final_learning_rate": trained.records["learning_rate"][:, -1],
        "diverged": training.diverged(trained, images.num_classes),
        "step_size": outcome.step_size,
        "seconds": round(outcome.seconds, 3),
    }


def describe(settings: Settings, images: data.Data) -> dict[str, Any]:
    """Returns the `config` of metrics.json: all that is needed to run the same again."""
    return {
        "experiment": "mnist",
        "data": images.source,
        "num_train": images.num_train,
        "num_val": images.num_val,
        "num_test": len(images.test_images),
        "seeds": list(range(settings.num_seeds)),
        "num_steps": settings.num_steps,
        "batch_size": settings.batch_size,
        "hidden_widths": settings.hidden_widths,
        "learning_rate": LEARNING_RATE,
        "step_sizes": {name: METHODS[name].step_size for name in settings.methods},
        "versions": {
            "hyperlr": hyperlr.__version__,
            "jax": jax.__version__,
            "optax": optax.__version__,
            "python": platform.python_version(),
        },
        "device": jax.devices()[0].device_kind,
    }


def _advance(progress: Progress, task: TaskID, cost: float, steps: int) -> None:
    """Moves the bar by a number of steps, each weighted by what it costs."""
    progress.advance(task, steps * cost)


def _curves(outcomes: dict[str, Outcome]) -> dict[str, np.ndarray]:
    """Returns all that was recorded on the way, as `method/quantity` → [seeds, steps]."""
    curves: dict[str, np.ndarray] = {}
    for name, outcome in outcomes.items():
        trained = outcome.trained
        curves |= {f"{name}/{quantity}": x for quantity, x in trained.records.items()}
        curves[f"{name}/curve_steps"] = trained.curve_steps
        curves[f"{name}/val_loss"] = trained.val_loss
        curves[f"{name}/val_accuracy"] = trained.val_accuracy
    return curves
