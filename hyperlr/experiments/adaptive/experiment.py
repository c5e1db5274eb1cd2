"""The adaptive optimizers on two features: the parts, the numbers and the table."""

import functools
from typing import Any, NamedTuple

from rich.table import Table

from hyperlr.experiments.adaptive import descents as adaptive
from hyperlr.experiments.adaptive import figures
from hyperlr.experiments.adaptive.descents import OPTIMIZERS, RUNS, Study
from hyperlr.experiments.core import tables
from hyperlr.experiments.core.experiment import Experiment, Part, Results, Summary


class Settings(NamedTuple):
    """Size of the experiment."""

    num_steps: int = 300
    """T, more than COMPARED_STEP."""


def parts(settings: Settings, data: None) -> list[Part]:
    """Returns a part a run."""
    return [
        Part(
            name,
            run.optimizer.label,
            1.0,
            {
                **_PROBLEM,
                **settings._asdict(),
                "learning_rates": (run.optimizer.learning_rate, *run.others),
            },
            functools.partial(adaptive.compute, run, settings.num_steps),
        )
        for name, run in RUNS.items()
    ]


_PROBLEM = {
    "num_examples": adaptive.NUM_EXAMPLES,
    "num_sparse": adaptive.NUM_SPARSE,
    "batch_size": adaptive.BATCH_SIZE,
}


def summarize(results: Results) -> Summary:
    """Returns the optimizers, and as schedules their effective rates."""
    study, problem = adaptive.study(results.arrays), adaptive.make_problem()
    rates = {
        f"{name}/{feature}": descents.rates[:1, :, k]
        for name, descents in study.full.items()
        for k, feature in enumerate(("dense", "sparse"))
    }
    config = {
        **_PROBLEM,
        "compared_step": adaptive.COMPARED_STEP,
        "start": problem.start,
        "minimizer": problem.minimizer,
        "hessian": problem.hessian,
    }
    methods = {name: _summary(study, name) for name in OPTIMIZERS}
    return Summary(methods, {"schedules": rates}, config)


def _summary(study: Study, name: str) -> dict[str, Any]:
    """Returns a method's entry of metrics.json."""
    full = study.full[name]
    entry = {
        "learning_rate": full.learning_rates[0],
        "gap": full.gaps[0, -1],
        "gap_at_compared_step": full.gaps[0, adaptive.COMPARED_STEP],
        "compared_learning_rates": full.learning_rates[1:],
        "compared_gaps": full.gaps[1:, adaptive.COMPARED_STEP],
        "effective_rates_first": full.rates[0, 0],
        "effective_rates_last": full.rates[0, -1],
    }
    if name in study.mini:
        entry["gap_in_minibatches"] = study.mini[name].gaps[0, -1]
    return entry


def table(summary: Summary) -> list[Table]:
    """Returns the table of all optimizers."""
    headings = ("", "η₀", f"step {adaptive.COMPARED_STEP}", "last step", "first rates", "last")
    rows = [
        (
            OPTIMIZERS[name].label,
            "none" if name == "adadelta" else f"{method['learning_rate']:g}",
            f"{method['gap_at_compared_step']:.1e}",
            f"{method['gap']:.1e}",
            ", ".join(f"{rate:.2g}" for rate in method["effective_rates_first"]),
            ", ".join(f"{rate:.2g}" for rate in method["effective_rates_last"]),
        )
        for name, method in summary.methods.items()
    ]
    return [tables.new("L − min L, and effective rates (dense, sparse)", headings, rows)]


EXPERIMENT = Experiment(
    name="adaptive",
    title="Adaptive learning rates on a dense and a sparse feature",
    presets={
        "smoke": Settings(adaptive.COMPARED_STEP + 20),
        "quick": Settings(),
        "paper": Settings(),
    },
    parts=parts,
    summarize=summarize,
    figures=lambda results: figures.figures(adaptive.study(results.arrays)),
    table=table,
)
