"""An experiment of a few lines, for tests of the runner: the squares of numbers, and their sum."""

import functools
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from hyperlr.experiments.core import runner, tables
from hyperlr.experiments.core.experiment import Experiment, Part, Shown, Summary
from hyperlr.experiments.core.store import open_checkpoints

TESTS = Path(__file__).parents[1]


class Settings(NamedTuple):
    num: int = 3
    scale: float = 1.0
    exact: bool = True


def make_experiment(computed, interrupt=None, slow=False):
    """`computed` is given the name of each part that is computed; one may be interrupted."""

    def begin(name):
        if name == interrupt:
            raise KeyboardInterrupt
        computed.append(name)

    def square(k, settings, work):
        with open_checkpoints(work.checkpoints if k == 2 else None) as checkpoints:
            found = checkpoints.restore(np.zeros(1, np.float32))
            begin(f"square-{k}" + (f" from {found[0]}" if found else ""))
            if found is None:
                checkpoints.save(1, np.full(1, k, np.float32))
            if slow and k == 2:
                time.sleep(60)
            value = np.float32(k) if found is None else np.asarray(found[1])[0]
        work.advance(0.5)
        return {"value": settings.scale * value**2, "unread": np.random.default_rng().random()}

    def add(work):
        begin("sum")
        return {"sum": sum(float(each["value"]) for each in work.needed.values())}

    def parts(settings, data):
        squares = [
            Part(
                f"square-{k}",
                f"the square of {k}",
                1.0,
                # 0 is 0 in any scale.
                {"scale": settings.scale if k else 1.0},
                functools.partial(square, k, settings),
            )
            for k in range(settings.num)
        ]
        needs = {part.name: ["value"] for part in squares}
        return [*squares, Part("sum", "the sum", 1.0, {"exact": settings.exact}, add, needs)]

    def values(results):
        return np.array(
            [results.arrays[f"square-{k}"]["value"] for k in range(results.settings.num)]
        )

    def summarize(results):
        methods = {"squares": {"values": values(results), "sum": results.arrays["sum"]["sum"]}}
        return Summary(methods, {"schedules": {"squares": values(results)}})

    def figures(results):
        figure = Figure()
        figure.subplots().plot(values(results))
        return [Shown("line", "A line", figure, "It\n  rises.")]

    def table(summary):
        made = tables.new("Squares", ("what",))
        made.add_row(f"the sum: {summary.methods['squares']['sum']:g}")
        return [made]

    return Experiment("squares", "Squares", {"quick": Settings()}, parts, summarize, figures, table)


def run_slowly(out):
    """What a process runs that is then killed."""
    runner.run(make_experiment([], slow=True), Settings(), Path(out), Console(width=300))
