"""What came of all methods on the digits, and its numbers: metrics.json, the arrays, the table."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from hyperlr.experiments import training
from hyperlr.experiments.core import tables
from hyperlr.experiments.core.experiment import Arrays, Summary
from hyperlr.experiments.data import Data
from hyperlr.experiments.digits import lrs_opt
from hyperlr.experiments.digits.grid import Grid
from hyperlr.experiments.methods import LEARNING_RATE, METHODS


class Outcomes(NamedTuple):
    """What came of all methods."""

    settings: Any
    data: Data
    searches: Mapping[str, Arrays]
    """Method → what the search for its number returned, and `seconds`."""
    grids: Mapping[str, Grid]
    """Method → all the numbers that were trained to the end, on all seeds."""
    chosen: Mapping[str, int]
    """Method → the index among them of the one that the search found, or validation chose."""
    optimized: Sequence[lrs_opt.Optimized]
    """LRS-OPT, seed by seed; empty where it was left out."""

    @property
    def shown(self) -> dict[str, training.Trained]:
        """Method → its lanes with the chosen number, one a seed."""
        shown = {name: each.at(self.chosen[name]) for name, each in self.grids.items()}
        if self.optimized:
            shown["lrs_opt"] = training.concatenate([each.trained for each in self.optimized])
        return shown

    @property
    def labels(self) -> dict[str, str]:
        """Method → its name."""
        labels = {name: METHODS[name].label for name in self.grids}
        if self.optimized:
            start = self.settings.lrs.start
            origin = "η₀" if start == "constant" else METHODS[start].label
            labels["lrs_opt"] = f"LRS-OPT (from {origin})"
        return labels

    def diverged(self, trained: training.Trained) -> np.ndarray:
        """Returns whether each lane diverged, bool [K]."""
        return training.diverged(trained, self.data.num_classes)


def summarize(outcomes: Outcomes) -> Summary:
    """Returns the methods of metrics.json, lists with one entry a seed.

    A method is there with the number that was found, of which `search` tells, and with its
    neighbours, or all of its grid, under `grid`. `cost` is what it takes to get there on one seed.
    """
    shown = outcomes.shown
    methods: dict[str, Any] = {}
    for name, trained in shown.items():
        methods[name] = {"label": METHODS[name].label}
        methods[name] |= training.scores(trained, outcomes.data.num_classes)
    for name, each in outcomes.grids.items():
        found, number = outcomes.searches.get(name), each.numbers[outcomes.chosen[name]]
        seconds = each.seconds + (float(found["seconds"]) if found else 0.0)
        methods[name] |= {
            "step_size": number,
            "given": _given(name, number),
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
        if found:
            methods[name]["search"] = {
                "found": found["found"],
                "candidates": outcomes.settings.numbers[name],
                "survived": found["survived"],
                "loss_growth": found["growth"],
                "margin": METHODS[name].margin,
                "margin_seen": found["margin_seen"],
                "num_steps": found["losses"].shape[1],
                "seeds": outcomes.settings.search_seeds,
                "seconds": np.round(found["seconds"], 3),
            }
    if outcomes.optimized:
        methods["lrs_opt"] |= _of_lrs_opt(outcomes)
    schedules = {name: trained.records["learning_rate"] for name, trained in shown.items()}
    return Summary(methods, {"schedules": schedules, "curves": _curves(outcomes, shown)})


def table(summary: Summary) -> list[Table]:
    """Returns the table of all methods: what had to be given, how good they are, what they cost."""
    config = summary.config
    title = f"{config['num_steps']} steps, {tables.seeds(config['num_seeds'])}, {config['data']}"
    headings = ("method", "given", "validation\n%", "test\n%", "runs", "plain\nsteps")
    rows = [
        (
            method["label"],
            method["given"],
            *tables.accuracies(method),
            f"{method['cost']['runs']:.3g}",
            f"{method['cost']['plain_steps']:,.0f}",
        )
        for method in summary.methods.values()
    ]
    return [tables.new(title, headings, rows)]


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
        losses = outcomes.searches[name]["losses"]
        runs += len(outcomes.settings.search_seeds) * losses.size / num_steps
    return {"runs": runs, "plain_steps": runs * method.plain_steps(num_steps)}


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
        "by_outer_iteration": _of_curves(outcomes),
    }


def _of_curves(outcomes: Outcomes) -> dict[str, list[np.ndarray]]:
    curves = [each.curve._asdict() for each in outcomes.optimized]
    return {name: [curve[name] for curve in curves] for name in lrs_opt.Curve._fields}


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
        for name, values in _of_curves(outcomes).items():
            curves[f"lrs_opt/outer/{name}"] = np.stack(values)
    return curves
