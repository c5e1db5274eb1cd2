"""Runs the toy surfaces and writes their results: metrics.json, schedules.npz and toy.png."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import hyperlr
from hyperlr.experiments import report, results, toy, toy_plots


def run(out: Path, console: Console, num_steps: int = toy.NUM_STEPS) -> None:
    """Descends both surfaces with all methods and values of β, and writes the results.

    All takes seconds: a run that was killed is made anew, and comes to the same bits.

    Args:
      out: directory of the results; made where it is missing.
      console: where the tables go.
      num_steps: T.

    Raises:
      InputError: `out` cannot be written.
    """
    results.prepare_output(out)
    descents: dict[str, dict[str, toy.Descents]] = {surface: {} for surface in toy.PROBLEMS}
    with report.progress_bar(console) as progress:
        task = progress.add_task("", total=len(toy.PROBLEMS) * len(toy.METHODS))
        for surface, problem in toy.PROBLEMS.items():
            progress.update(task, description=problem.title)
            for method in toy.METHODS:
                descents[surface][method] = toy.descend(method, problem, problem.betas, num_steps)
                progress.advance(task)
        progress.update(task, description="both surfaces")
    methods = {
        method: {surface: _summary(surface, descents[surface][method]) for surface in descents}
        for method in toy.METHODS
    }
    results.write_metrics(out / "metrics.json", _describe(num_steps), methods)
    results.write_schedules(
        out / "schedules.npz",
        {
            f"{surface}/{method}": descent.learning_rates
            for surface, by_method in descents.items()
            for method, descent in by_method.items()
        },
    )
    results.write_figure(out / "toy.png", toy_plots.surfaces_and_schedules(descents))
    for surface in descents:
        console.print(_table(surface, descents[surface]))
    console.print(f"Results in {out}", soft_wrap=True)


def _summary(surface: str, descents: toy.Descents) -> dict[str, Any]:
    """Returns a method's results on one surface, lists with one entry a β."""
    problem = toy.PROBLEMS[surface]
    return {
        "hyper_learning_rate": problem.betas,
        "best_value": toy.best_values(descents),
        "best_gap": toy.best_values(descents) - problem.minimum,
        "diverged": toy.diverged(descents),
        "max_learning_rate": descents.learning_rates.max(axis=1),
        "final_learning_rate": descents.learning_rates[:, -1],
        "share_of_discount_0": (descents.discounts == 0).mean(axis=1),
        "share_of_discount_1": (descents.discounts == 1).mean(axis=1),
    }


def _describe(num_steps: int) -> dict[str, Any]:
    return {
        "experiment": "toy",
        "num_steps": num_steps,
        "surfaces": {
            name: {
                "title": problem.title,
                "start": problem.start,
                "learning_rate": problem.learning_rate,
                "minimum": problem.minimum,
            }
            for name, problem in toy.PROBLEMS.items()
        },
        "version": hyperlr.__version__,
    }


def _table(surface: str, by_method: dict[str, toy.Descents]) -> Table:
    """Returns the table of the best gap for every β, and of what MARTHE's μ did."""
    problem = toy.PROBLEMS[surface]
    table = Table(title=f"{problem.title}: best L − min L (η → 0: stopped)")
    table.add_column("β", justify="right")
    for method in by_method:
        table.add_column(toy.LABELS[method], justify="right")
    table.add_column("where μ = 0, 1", justify="right")
    for row, beta in enumerate(problem.betas):
        cells = [_cell(problem, descents, row) for descents in by_method.values()]
        discounts = by_method["marthe_mu"].discounts[row]
        shares = f"{np.mean(discounts == 0):.0%}, {np.mean(discounts == 1):.1%}"
        table.add_row(f"{beta:g}", *cells, shares)
    return table


def _cell(problem: toy.Problem, descents: toy.Descents, row: int) -> str:
    if toy.diverged(descents)[row]:
        return "diverged"
    gap = toy.best_values(descents)[row] - problem.minimum
    return f"{gap:.1e}" + (", η → 0" if descents.learning_rates[row, -1] == 0 else "")
