"""The results on the digits in numbers: metrics.json, the arrays, and the table."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from hyperlr.experiments import training
from hyperlr.experiments.core import tables
from hyperlr.experiments.core.experiment import Summary
from hyperlr.experiments.digits import lrs_opt
from hyperlr.experiments.digits.outcomes import Outcomes, Search
from hyperlr.experiments.methods import LEARNING_RATE, METHODS


def summarize(outcomes: Outcomes) -> Summary:
    """Returns the methods of metrics.json, lists with one entry a seed.

    A method is there with the number that was found, of which `search` tells, and with its
    neighbours, or all of its grid, under `grid`. `cost` is what it takes to get there on one seed.
    """
    shown = outcomes.shown
    methods: dict[str, Any] = {}
    for name, trained in shown.items():
        methods[name] = {"label": METHODS[name].label, **_of_seeds(outcomes, trained)}
    for name, each in outcomes.grids.items():
        searched = outcomes.searches.get(name)
        seconds = each.seconds + (float(searched.found["seconds"]) if searched else 0.0)
        methods[name] |= {
            "step_size": each.numbers[outcomes.chosen[name]],
            "given": _given(name, each.numbers[outcomes.chosen[name]]),
            "cost": _cost(outcomes, name),
            "seconds": round(seconds, 3),
            "grid": {
                "step_size": each.numbers,
                "best": each.numbers[each.best(outcomes.data.num_classes)],
                "val_accuracy": each.by_number(each.trained.val_accuracy[:, -1]),
                "test_accuracy": each.by_number(each.trained.test_accuracy),
                "diverged": each.by_number(outcomes.diverged(each.trained)),
            },
        }
        if searched:
            methods[name]["search"] = _of_search(outcomes, name, searched)
    if outcomes.optimized:
        methods["lrs_opt"] |= _of_lrs_opt(outcomes)
    schedules = {name: trained.records["learning_rate"] for name, trained in shown.items()}
    return Summary(methods, {"schedules": schedules, "curves": _curves(outcomes, shown)})


def table(summary: Summary) -> list[Table]:
    """Returns the table of all methods: what had to be given, how good they are, what they cost."""
    config = summary.config
    made = tables.new(
        f"{config['num_steps']} steps, {tables.seeds(config['num_seeds'])}, {config['data']}",
        ("method", "given", "validation\n%", "test\n%", "runs", "plain\nsteps"),
    )
    for method in summary.methods.values():
        made.add_row(
            method["label"],
            method["given"],
            tables.percent(method["val_accuracy"], method["diverged"]),
            tables.percent(method["test_accuracy"], method["diverged"]),
            f"{method['cost']['runs']:.3g}",
            f"{method['cost']['plain_steps']:,.0f}",
        )
    return [made]


def _given(name: str, number: float) -> str:
    """Says which numbers a method was given."""
    method = METHODS[name]
    if name == "auto":
        return "nothing"
    if name == "adam":
        return "η = 0.001"
    if method.schedule is not None:
        return f"η = {number if method.symbol else LEARNING_RATE:g}"
    return f"η₀, {method.symbol} = {number:g}"


def _cost(outcomes: Outcomes, name: str) -> dict[str, float]:
    """Returns what it takes to come to one run with a number that is not known, with that run.

    In runs of T steps of the method itself, and in plain steps of gradient descent.
    """
    num_steps, method = outcomes.settings.num_steps, METHODS[name]
    runs = 1.0
    if method.tuned:
        runs = len(outcomes.grids[name].numbers)
    elif name in outcomes.searches:
        each = outcomes.searches[name]
        first_steps = len(each.seeds) * each.found["losses"].size
        runs += first_steps / num_steps
    return {"runs": runs, "plain_steps": runs * method.plain_steps(num_steps)}


def _of_seeds(outcomes: Outcomes, trained: training.Trained) -> dict[str, Any]:
    return {
        "val_accuracy": trained.val_accuracy[:, -1],
        "test_accuracy": trained.test_accuracy,
        "val_loss": trained.val_loss[:, -1],
        "test_loss": trained.test_loss,
        "final_learning_rate": trained.records["learning_rate"][:, -1],
        "diverged": outcomes.diverged(trained),
    }


def _of_search(outcomes: Outcomes, name: str, search: Search) -> dict[str, Any]:
    found = search.found
    return {
        "found": found["found"],
        "candidates": search.candidates,
        "survived": found["survived"],
        "loss_growth": found["growth"],
        "margin": METHODS[name].margin,
        "margin_seen": found["margin_seen"],
        "num_steps": found["losses"].shape[1],
        "seeds": search.seeds,
        "seconds": np.round(found["seconds"], 3),
    }


def _of_lrs_opt(outcomes: Outcomes) -> dict[str, Any]:
    optimized, settings = outcomes.optimized, outcomes.settings
    how = settings.lrs
    num_points = len(optimized[0].curve.iterations)
    start = _cost(outcomes, how.start) if how.start in outcomes.grids else {}
    iterations = METHODS["lrs_opt"].cost * how.num_iterations
    return {
        "step_size": 0.0,
        "given": f"{how.num_iterations} iterations",
        "cost": {
            "runs": how.num_iterations + num_points + start.get("runs", 0),
            "plain_steps": (iterations + num_points) * settings.num_steps
            + start.get("plain_steps", 0),
        },
        "seconds": round(sum(each.seconds for each in optimized), 3),
        "outer_iterations": [len(each.objectives) for each in optimized],
        "skipped": [each.num_skipped for each in optimized],
        "by_outer_iteration": {
            name: [getattr(each.curve, name) for each in optimized]
            for name in lrs_opt.Curve._fields
        },
    }


def _curves(outcomes: Outcomes, shown: Mapping[str, training.Trained]) -> dict[str, np.ndarray]:
    """Returns all that was recorded on the way, as `method/quantity` → [seeds, …]."""
    curves: dict[str, np.ndarray] = {}
    for name, trained in shown.items():
        curves |= {f"{name}/{quantity}": x for quantity, x in trained.records.items()}
        for quantity in ("curve_steps", "val_loss", "val_accuracy"):
            curves[f"{name}/{quantity}"] = getattr(trained, quantity)
    if outcomes.optimized:
        optimized = outcomes.optimized
        curves["lrs_opt/start"] = np.stack([each.start for each in optimized])
        curves["lrs_opt/objective"] = np.stack([each.objectives for each in optimized])
        for name in lrs_opt.Curve._fields:
            curves[f"lrs_opt/outer/{name}"] = np.stack(
                [getattr(each.curve, name) for each in optimized]
            )
    return curves
