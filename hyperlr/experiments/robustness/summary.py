"""What came of all starting points, and its numbers: metrics.json and the table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from hyperlr.experiments.core import tables
from hyperlr.experiments.core.experiment import Summary
from hyperlr.experiments.data import Data
from hyperlr.experiments.methods import INNER, METHODS

BASELINES = ("constant", "cosine")
"""Schedules whose rate is the best of a grid, on validation data."""


class Cell(NamedTuple):
    """What came of P starting points or learning rates, on S seeds."""

    val_accuracy: np.ndarray
    """float [P, S]."""
    test_accuracy: np.ndarray
    """float [P, S]."""
    diverged: np.ndarray
    """bool [P, S]."""
    final_learning_rate: np.ndarray
    """float [P, S]."""

    @property
    def best(self) -> int:
        """The index of the best mean validation accuracy; what diverged counts as 0."""
        return int(np.argmax(np.where(self.diverged, 0.0, self.val_accuracy).mean(axis=1)))


class Outcomes(NamedTuple):
    """What came of everything."""

    settings: Any
    data: Data
    methods: Mapping[str, Mapping[str, Cell]]
    """Inner optimizer → method or baseline → over the starts, or over the grid."""
    auto_alone: Mapping[str, Cell]
    """Inner optimizer → auto, which finds its first rate itself; one point."""
    sensitivity: Mapping[float, Cell]
    """β → over starts × discounts, the discounts of the first start before those of the next."""


def summarize(outcomes: Outcomes) -> Summary:
    """Returns the methods of metrics.json: method → inner optimizer → lists [points][seeds]."""
    settings = outcomes.settings
    methods: dict[str, Any] = {}
    for inner, by_method in outcomes.methods.items():
        for name, cell in by_method.items():
            points = settings.grid if name in BASELINES else settings.starts
            entry = {"learning_rate": points, **cell._asdict()}
            if name in BASELINES:
                entry["best"] = points[cell.best]
            methods.setdefault(name, {})[inner] = entry
        alone = outcomes.auto_alone[inner]._asdict()
        methods["auto"][inner]["without_start"] = {key: x[0] for key, x in alone.items()}
    shape = (len(settings.starts), len(settings.discounts), settings.num_seeds)
    methods["marthe_fixed"] = {
        settings.sensitive_inner: {
            "learning_rate": settings.starts,
            "discount": settings.discounts,
            "hyper_learning_rate": {
                f"{beta:g}": {name: x.reshape(shape) for name, x in cell._asdict().items()}
                for beta, cell in outcomes.sensitivity.items()
            },
        }
    }
    return Summary(methods, {}, {"labels": {key: INNER[key][0] for key in outcomes.methods}})


def table(summary: Summary) -> list[Table]:
    """Returns the table of mean test accuracies, methods and inner optimizers by η_0."""
    config, methods = summary.config, summary.methods
    made = tables.new(
        f"Test accuracy, %, after {config['num_steps']} steps, "
        f"{tables.seeds(config['num_seeds'])}, {config['data']}",
        ("η₀", *(f"{start:g}" for start in config["starts"])),
    )
    for inner, label in config["labels"].items():
        made.add_section()
        made.add_row(f"[bold]{label}[/bold]")
        for name, by_inner in methods.items():
            if inner not in by_inner or name == "marthe_fixed":
                continue
            cell = by_inner[inner]
            pairs = zip(cell["test_accuracy"], cell["diverged"], strict=True)
            shares = [tables.percent(accuracies, lost, spread=False) for accuracies, lost in pairs]
            if name in BASELINES:
                best = shares[cell["learning_rate"].index(cell["best"])]
                made.add_row(f"{name}, best: η = {cell['best']:g}", best)
                continue
            made.add_row(METHODS[name].label, *shares)
            if name == "auto":
                alone = cell["without_start"]
                share = tables.percent(alone["test_accuracy"], alone["diverged"], spread=False)
                made.add_row("auto, no η₀", share)
    return [made]
