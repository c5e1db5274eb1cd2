"""Runs the robustness experiment and writes its results: metrics.json, two heatmaps, a table."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

import hyperlr
from hyperlr.experiments import data, report, results, robustness, robustness_plots


def run(settings: robustness.Settings, data_dir: Path | None, out: Path, console: Console) -> None:
    """Runs the experiment, or what is left of it, and writes metrics.json and two figures.

    What lies finished in `out/parts`, of the very same settings, is not computed again.

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
    with report.progress_bar(console) as progress:
        task = progress.add_task("", total=robustness.work(settings))
        outcomes = robustness.compute(
            settings, images, out / "parts", on_progress=functools.partial(_advance, progress, task)
        )
        progress.update(task, description="all methods")
    results.write_metrics(
        out / "metrics.json", _describe(settings, images), _methods(settings, outcomes)
    )
    results.write_figure(
        out / "robustness.png",
        robustness_plots.starting_points(outcomes, settings.grid, images.source),
    )
    results.write_figure(
        out / "sensitivity.png", robustness_plots.sensitivity(outcomes, images.source)
    )
    console.print(_table(settings, outcomes, images))
    console.print(f"Results in {out}", soft_wrap=True)


def _methods(settings: robustness.Settings, outcomes: robustness.Outcomes) -> dict[str, Any]:
    """Returns the `methods` of metrics.json: method → inner optimizer → lists [points][seeds]."""
    methods: dict[str, Any] = {}
    for inner, by_method in outcomes.methods.items():
        for name, cell in by_method.items():
            points = settings.grid if name in robustness.BASELINES else robustness.STARTS
            entry = {"learning_rate": points, **cell._asdict()}
            if name in robustness.BASELINES:
                entry["best"] = points[robustness.best_place(cell)]
            methods.setdefault(name, {})[inner] = entry
    shape = (len(robustness.STARTS), len(robustness.DISCOUNTS), settings.num_seeds)
    methods["marthe_fixed"] = {
        robustness.SENSITIVE_INNER: {
            "learning_rate": robustness.STARTS,
            "discount": robustness.DISCOUNTS,
            "hyper_learning_rate": {
                f"{beta:g}": {name: x.reshape(shape) for name, x in cell._asdict().items()}
                for beta, cell in outcomes.sensitivity.items()
            },
        }
    }
    return methods


def _describe(settings: robustness.Settings, images: data.Data) -> dict[str, Any]:
    return {
        "experiment": "robustness",
        "data": images.source,
        "num_train": images.num_train,
        "num_val": images.num_val,
        "num_test": len(images.test_images),
        **settings._asdict(),
        "versions": {
            "hyperlr": hyperlr.__version__,
            "jax": jax.__version__,
            "optax": optax.__version__,
        },
    }


def _table(
    settings: robustness.Settings, outcomes: robustness.Outcomes, images: data.Data
) -> Table:
    """Returns the table of mean test accuracies, methods and inner optimizers by η_0."""
    seeds = "1 seed" if settings.num_seeds == 1 else f"{settings.num_seeds} seeds"
    title = f"Test accuracy after {settings.num_steps} steps, {seeds}, {images.source}"
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("η₀", no_wrap=True)
    for start in robustness.STARTS:
        table.add_column(f"{start:g}", justify="right", no_wrap=True)
    for inner, by_method in outcomes.methods.items():
        table.add_section()
        table.add_row(f"[bold]{robustness.LABELS[inner]}[/bold]")
        for name, method in robustness.METHODS.items():
            cell = by_method[name]
            table.add_row(
                method.label,
                *(
                    _percent(accuracies, lost)
                    for accuracies, lost in zip(cell.test_accuracy, cell.diverged, strict=True)
                ),
            )
        for name in robustness.BASELINES:
            cell = by_method[name]
            place = robustness.best_place(cell)
            best = _percent(cell.test_accuracy[place], cell.diverged[place])
            table.add_row(f"best {name}, {settings.grid[place]:g}", best)
    return table


def _percent(accuracies: np.ndarray, lost: np.ndarray) -> str:
    if lost.all():
        return "diverged"
    text = f"{100 * accuracies[~lost].mean():.1f}"
    return text + (f" ({lost.sum()} div.)" if lost.any() else "")


def _advance(progress: Progress, task: TaskID, description: str, work: float) -> None:
    progress.update(task, description=description, advance=work)
