"""What `auto` is worth: methods beside one another on many tasks, at equal steps and equal cost."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from hyperlr.experiments.comparison import figures, summary
from hyperlr.experiments.comparison.entrants import ENTRANTS, num_steps_of
from hyperlr.experiments.comparison.outcomes import BUDGETS, Outcomes, part_name
from hyperlr.experiments.comparison.tasks import TASKS
from hyperlr.experiments.comparison.training import Runs, train
from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.core.experiment import Experiment, Part, Results, Work
from hyperlr.experiments.methods import INNER

# What it takes to compile a run, in gradients of the digits' MLP.
_COMPILING = 4_000
_QUICK = ("auto", "adam", "constant_tuned", "cosine_tuned", "prodigy", "schedule_free_adamw")


class Settings(NamedTuple):
    """Size of the experiment."""

    num_seeds: int = 5
    """Seeds 0, 1, … of the data, the weights and the minibatches."""
    length: float = 1.0
    """Of all runs, as a share of the steps that the tasks name."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Keys of `tasks.TASKS`."""
    methods: tuple[str, ...] = tuple(ENTRANTS)
    """Keys of `entrants.ENTRANTS`."""
    inner: tuple[str, ...] = tuple(INNER)
    """Keys of `methods.INNER`."""


PRESETS = {
    "smoke": Settings(
        1, 0.05, ("function", "trigrams"), ("auto", "adam", "constant_tuned"), ("adam",)
    ),
    "quick": Settings(1, 0.5, ("digits", "function", "trigrams"), _QUICK, ("adam",)),
    "paper": Settings(),
}


def parts(settings: Settings, data: None) -> Iterator[Part]:
    """Yields a part for each task, method, inner optimizer and number of steps."""
    for name, table in (("--task", TASKS), ("--method", ENTRANTS)):
        for key in settings.tasks if table is TASKS else settings.methods:
            if key not in table:
                raise InputError(f"{name} must be one of {', '.join(table)}; got {key}")
    done = set()
    for inner, task, method, budget in entries(settings):
        num_steps = steps_of(settings, task, method, budget)
        name = part_name(inner, task, method, num_steps)
        if name in done:  # where both budgets are the same run
            continue
        done.add(name)
        entrant = ENTRANTS[method]
        num_runs = settings.num_seeds * (len(TASKS[task].rates[inner]) if entrant.tuned else 1)
        yield Part(
            name,
            f"{task}: {entrant.label}",
            TASKS[task].gradient_cost * entrant.gradients(num_steps)[-1] * num_runs + _COMPILING,
            {"num_seeds": settings.num_seeds, "num_steps": num_steps},
            functools.partial(_compute, task, method, inner, num_steps, settings.num_seeds),
        )


def entries(settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    """Yields (inner, task, method, budget) of all that is compared."""
    for inner in settings.inner:
        for task in settings.tasks:
            for method in settings.methods:
                if inner in ENTRANTS[method].inner:
                    for budget in BUDGETS:
                        yield inner, task, method, budget


def steps_of(settings: Settings, task: str, method: str, budget: str) -> int:
    """How many steps a run makes."""
    num_steps = round(settings.length * TASKS[task].num_steps)
    return num_steps_of(ENTRANTS[method], budget, num_steps)


def _compute(
    task: str, method: str, inner: str, num_steps: int, num_seeds: int, work: Work
) -> Runs:
    return train(task, method, inner, num_steps, num_seeds, work.advance)


def seconds_per_gradient(settings: Settings, data: None) -> float:
    """Times a gradient of the digits' MLP on this machine."""
    num_steps = 200
    runs = train("digits", "adam", "adam", num_steps, 1, lambda share: None)
    return float(runs.run_seconds[0, 0]) / num_steps


def outcomes(results: Results) -> Outcomes:
    """Puts together what came of the parts."""
    settings: Any = results.settings
    runs = {}
    for inner, task, method, budget in entries(settings):
        num_steps = steps_of(settings, task, method, budget)
        name = part_name(inner, task, method, num_steps)
        runs[inner, task, method, budget] = results.read(name, Runs)
    return Outcomes(settings, runs)


EXPERIMENT = Experiment(
    name="compare",
    title="What a learned rate is worth: many tasks, equal steps, equal cost",
    presets=PRESETS,
    parts=parts,
    summarize=lambda results: summary.summarize(outcomes(results)),
    figures=lambda results: figures.figures(outcomes(results)),
    table=summary.table,
    unit_seconds=seconds_per_gradient,
)
