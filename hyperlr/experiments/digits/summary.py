"""Runs the digits experiment and writes its results: JSON, arrays, four figures and a table."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hyperlr.experiments import (
    data,
    grid,
    lrs,
    mnist,
    mnist_plots,
    report,
    results,
    search,
    training,
)
from hyperlr.experiments.methods import METHODS


def run(settings: mnist.Settings, data_dir: Path | None, out: Path, console: Console) -> None:
    """Runs the experiment, or what is left of it, and writes its results.

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
    outcomes = mnist.compute(settings, images, out / "parts", console)
    methods = summaries(outcomes, images)
    shown = {
        name: grid.at_size(each, outcomes.chosen[name]) for name, each in outcomes.grids.items()
    }
    if outcomes.optimized:
        shown["lrs_opt"] = training.concatenate([each.trained for each in outcomes.optimized])
    results.write_metrics(out / "metrics.json", mnist.describe(settings, images), methods)
    results.write_schedules(
        out / "schedules.npz",
        {name: trained.records["learning_rate"] for name, trained in shown.items()},
    )
    results.write_schedules(out / "curves.npz", _curves(outcomes, shown))
    labels = _labels(settings, outcomes)
    _write_figures(out, outcomes, shown, labels, images)
    seeds = "1 seed" if settings.num_seeds == 1 else f"{settings.num_seeds} seeds"
    title = f"{settings.num_steps} steps, {seeds}, {images.source}"
    console.print(report.results_table(title, methods, labels))
    console.print(f"Results in {out}", soft_wrap=True)


def summaries(outcomes: mnist.Outcomes, images: data.Data) -> dict[str, dict[str, Any]]:
    """Returns the `methods` of metrics.json, lists with one entry a seed.

    An online method is there with the step size that the search found, of which `search` tells, and
    with its neighbours under `grid`.
    """
    methods = {}
    for name, each in outcomes.grids.items():
        place = outcomes.chosen[name]
        methods[name] = {
            **_summary(grid.at_size(each, place), images),
            "step_size": each.step_sizes[place],
            "seconds": round(each.seconds, 3),
        }
        if name in outcomes.searches:
            found = outcomes.searches[name]
            methods[name]["seconds"] = round(each.seconds + found.seconds, 3)
            methods[name]["search"] = _of_search(found)
        methods[name] |= {
            "grid": {
                "step_size": each.step_sizes,
                "best": each.step_sizes[grid.best(each, images.num_classes)],
                "val_accuracy": each.by_size(each.trained.val_accuracy[:, -1]),
                "test_accuracy": each.by_size(each.trained.test_accuracy),
                "diverged": each.by_size(training.diverged(each.trained, images.num_classes)),
            },
        }
    if outcomes.optimized:
        optimized = outcomes.optimized
        methods["lrs_opt"] = {
            **_summary(training.concatenate([each.trained for each in optimized]), images),
            "step_size": 0.0,
            "seconds": round(sum(each.seconds for each in optimized), 3),
            "outer_iterations": [len(each.objectives) for each in optimized],
            "skipped": [each.num_skipped for each in optimized],
            "by_outer_iteration": {
                name: [getattr(each.curve, name) for each in optimized]
                for name in lrs.Curve._fields
            },
        }
    return methods


def _of_search(found: search.Search) -> dict[str, Any]:
    return {
        "found": found.found,
        "candidates": found.plan.candidates,
        "survived": found.survived,
        "loss_growth": found.growth,
        "margin": METHODS[found.plan.name].margin,
        "margin_seen": found.margin_seen,
        "num_steps": found.plan.num_steps,
        "seeds": found.plan.seeds,
        "seconds": round(found.seconds, 3),
    }


def _summary(trained: training.Trained, images: data.Data) -> dict[str, Any]:
    return {
        "val_accuracy": trained.val_accuracy[:, -1],
        "test_accuracy": trained.test_accuracy,
        "val_loss": trained.val_loss[:, -1],
        "test_loss": trained.test_loss,
        "final_learning_rate": trained.records["learning_rate"][:, -1],
        "diverged": training.diverged(trained, images.num_classes),
    }


def _labels(settings: mnist.Settings, outcomes: mnist.Outcomes) -> dict[str, str]:
    labels = {name: METHODS[name].label for name in outcomes.grids}
    if settings.lrs and outcomes.optimized:
        origin = "η₀" if settings.lrs.start == "constant" else "MARTHE's"
        labels["lrs_opt"] = f"LRS-OPT (from {origin})"
    return labels


def _write_figures(
    out: Path,
    outcomes: mnist.Outcomes,
    shown: dict[str, training.Trained],
    labels: dict[str, str],
    images: data.Data,
) -> None:
    lost = {name: training.diverged(trained, images.num_classes) for name, trained in shown.items()}
    figures = {
        "schedules": mnist_plots.optimized_and_online(outcomes, shown, labels, images),
        "accuracies": mnist_plots.accuracies(shown, lost, labels, images.source),
    }
    if outcomes.optimized:
        figures["lrs_opt"] = mnist_plots.outer_iterations(outcomes.optimized, images.source)
    if len(outcomes.optimized) > 1:
        figures["schedules_other_seeds"] = mnist_plots.other_seeds(
            shown, labels, len(outcomes.optimized)
        )
    for name, figure in figures.items():
        results.write_figure(out / f"{name}.png", figure)


def _curves(outcomes: mnist.Outcomes, shown: dict[str, training.Trained]) -> dict[str, np.ndarray]:
    """Returns all that was recorded on the way, as `method/quantity` → [seeds, …]."""
    curves: dict[str, np.ndarray] = {}
    for name, trained in shown.items():
        curves |= {f"{name}/{quantity}": x for quantity, x in trained.records.items()}
        curves[f"{name}/curve_steps"] = trained.curve_steps
        curves[f"{name}/val_loss"] = trained.val_loss
        curves[f"{name}/val_accuracy"] = trained.val_accuracy
    if outcomes.optimized:
        optimized = outcomes.optimized
        curves["lrs_opt/start"] = np.stack([each.start for each in optimized])
        curves["lrs_opt/objective"] = np.stack([each.objectives for each in optimized])
        for name in lrs.Curve._fields:
            curves[f"lrs_opt/outer/{name}"] = np.stack(
                [getattr(each.curve, name) for each in optimized]
            )
    return curves
