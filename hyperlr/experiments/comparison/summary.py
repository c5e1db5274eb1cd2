"""The results in numbers: metrics.json and a table for each inner optimizer and budget."""

from typing import Any

import numpy as np
from rich.table import Table

from hyperlr.experiments.comparison.entrants import ENTRANTS
from hyperlr.experiments.comparison.outcomes import BUDGETS, Outcomes
from hyperlr.experiments.comparison.tasks import TASKS
from hyperlr.experiments.core import tables
from hyperlr.experiments.core.experiment import Summary
from hyperlr.experiments.methods import INNER


def summarize(outcomes: Outcomes) -> Summary:
    """Returns method → inner optimizer → task → budget → lists over the seeds."""
    settings = outcomes.settings
    methods: dict[str, Any] = {}
    schedules: dict[str, np.ndarray] = {}
    for inner, task, method, budget in outcomes.runs:
        runs, entrant = outcomes.chosen(inner, task, method, budget), ENTRANTS[method]
        num_runs = len(TASKS[task].rates[inner]) if entrant.tuned else 1
        entry = {
            "test_score": runs.test_score[:, -1],
            "val_score": runs.val_score[:, -1],
            "train_loss": runs.train_loss[:, -1],
            "steps": int(runs.steps[-1]),
            "gradients": float(entrant.gradients(int(runs.steps[-1]))[-1]) * num_runs,
            "seconds": runs.run_seconds,
        }
        if entrant.tuned:
            entry["rate"] = runs.rates
        of_task = methods.setdefault(method, {}).setdefault(inner, {}).setdefault(task, {})
        of_task[budget] = entry
        schedules[f"{inner}-{task}-{method}-{budget}"] = runs.learning_rate
    ranks = {
        inner: {
            budget: dict(
                zip(
                    outcomes.methods(inner), outcomes.ranks(inner, budget).mean(axis=0), strict=True
                )
            )
            for budget in BUDGETS
        }
        for inner in settings.inner
    }
    times = {
        inner: dict(zip(outcomes.methods(inner), outcomes.times(inner), strict=True))
        for inner in settings.inner
    }
    labels = {task: TASKS[task].score_name for task in settings.tasks}
    config = {"mean_rank": ranks, "time": times, "scores": labels}
    return Summary(methods, {"schedules": schedules}, config)


def table(summary: Summary) -> list[Table]:
    """Returns a table for each inner optimizer and budget: methods by tasks, test scores."""
    config, methods = summary.config, summary.methods
    made = []
    for inner in config["inner"]:
        for budget, in_words in BUDGETS.items():
            of_budget = tables.new(
                f"Test score, {INNER[inner][0]}, {in_words}, {tables.seeds(config['num_seeds'])}",
                ("", "given", "time", "rank", *config["tasks"]),
            )
            ranks = config["mean_rank"][inner][budget]
            for method in sorted(ranks, key=ranks.get):
                cells = [
                    _cell(methods[method][inner][task][budget]["test_score"])
                    for task in config["tasks"]
                ]
                entrant = ENTRANTS[method]
                time = config["time"][inner][method]
                of_budget.add_row(
                    entrant.label,
                    entrant.given,
                    "" if time is None or np.isnan(time) else f"{time:.1f}",
                    f"{ranks[method]:.1f}",
                    *cells,
                )
            of_budget.caption = (
                "Higher is better; ± is the standard deviation over seeds. A grid costs five runs, "
                "of which validation data chose one. Time is that of a step, in plain steps: the "
                "median over the tasks."
            )
            made.append(of_budget)
    return made


def _cell(scores: np.ndarray) -> str:
    lost = int(np.isnan(scores).sum())
    if lost == len(scores):
        return "diverged"
    mean = f"{_short(np.nanmean(scores))}"
    spread = f"\n±{_short(np.nanstd(scores, ddof=1))}" if len(scores) - lost > 1 else ""
    return mean + spread + (f"\n({lost} div.)" if lost else "")


def _short(value: float) -> str:
    """Three digits behind the point for shares, and as many in all for larger numbers."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"
