"""The measurements of curvature: the parts, the numbers and the tables."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
from rich.table import Table

from hyperlr.experiments import data as datasets
from hyperlr.experiments.core import tables
from hyperlr.experiments.core.descent import float64
from hyperlr.experiments.core.experiment import Experiment, Part, Results, Summary
from hyperlr.experiments.curvature import figures, measurements
from hyperlr.experiments.curvature.measurements import FACTORS, SURFACES, Descent, Settings
from hyperlr.experiments.data import Data


def parts(settings: Settings, data: Data) -> Iterator[Part]:
    """Yields a part for each measurement; the costs are seconds, about."""
    network = {"hidden_widths": settings.hidden_widths, "marthe_steps": settings.marthe_steps}
    quadratic_steps = {"quadratic_steps": settings.quadratic_steps}
    network_steps = {"network_steps": settings.network_steps}
    followed = {
        "sharpness_every": settings.sharpness_every,
        "hyper_learning_rate": measurements.HYPER_LEARNING_RATE,
    }

    def part(name: str, cost: float, depends_on: Any, measure: Any, *args: Any, **kw: Any) -> Part:
        return Part(name, name, cost, depends_on, lambda work: measure(*args, **kw))

    def on_network(measure: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        return measure(*measurements.network(data, settings), *args, **kw)

    for name in SURFACES:
        yield part(f"one_step-{name}", 1, {}, on, name, measurements.one_step)
    yield part("one_step-network", 2, network, on_network, measurements.one_step)
    for factor in FACTORS:
        yield part(
            f"quadratic-{factor:g}", 1, quadratic_steps,
            measurements.descent_on_quadratic, factor, settings.quadratic_steps,
        )  # fmt: skip
    yield part(
        "bound-beale", 8, quadratic_steps,
        on, "beale", measurements.descent_with_bound, settings.quadratic_steps, lipschitz_every=1,
    )  # fmt: skip
    yield part(
        "bound-network", 32, network | network_steps,
        on_network, measurements.descent_with_bound, settings.network_steps, lipschitz_every=10,
    )  # fmt: skip
    follow = functools.partial(measurements.follow_marthe, data, settings)
    yield Part("sharpness", "sharpness", 55, network | followed, follow)


def on(name: str, measure: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Measures one of SURFACES, in float64."""
    loss, start = SURFACES[name]
    with float64():
        return measure(loss, jnp.asarray(start), *arguments, **options)


def study_of(results: Results) -> measurements.Study:
    """Puts together what came of the parts."""
    on_quadratic = {factor: results.read(f"quadratic-{factor:g}", Descent) for factor in FACTORS}
    return measurements.Study(
        one_step={
            name: results.read(f"one_step-{name}", measurements.OneStep)
            for name in (*SURFACES, "network")
        },
        on_quadratic=on_quadratic,
        bounded={
            "quadratic": on_quadratic[1.0],
            "beale": results.read("bound-beale", Descent),
            "network": results.read("bound-network", Descent),
        },
        sharpness=results.read("sharpness", measurements.Sharpness),
    )


def summarize(results: Results) -> Summary:
    """Returns what was measured, and as schedules the learning rates of the run."""
    study = study_of(results)
    sharpness = study.sharpness
    methods = {
        "one_step": {name: step._asdict() for name, step in study.one_step.items()},
        "descent": {f"{factor:g}/L": _ends(run) for factor, run in study.on_quadratic.items()},
        "bound": {
            name: {
                "lipschitz": run.lipschitz,
                **_ends(run),
                "smallest_share": run.share_of_bound.min(),
                "largest_share": run.share_of_bound.max(),
            }
            for name, run in study.bounded.items()
        },
        "sharpness": {
            "steps": sharpness.steps,
            "sharpness": sharpness.lipschitz,
            "along_gradient": sharpness.along_gradient,
            "two_over_learning_rate": 2 / sharpness.rates,
            "loss": sharpness.losses,
        },
    }
    schedules = {"marthe_fixed": sharpness.learning_rates[None]}
    config = {
        "num_digits": measurements.NUM_DIGITS,
        "spectrum": measurements.SPECTRUM,
        "method": measurements.LABEL,
        "hyper_learning_rate": measurements.HYPER_LEARNING_RATE,
    }
    return Summary(methods, {"schedules": schedules}, config)


def _ends(run: Descent) -> dict[str, Any]:
    return {"first_loss": run.values[0], "last_loss": run.values[-1]}


def table(summary: Summary) -> list[Table]:
    """Returns a table of bounds and descents, and one of what becomes of the quadratic."""
    methods = summary.methods
    headings = ("", "2gᵀg/gᵀHg", "L", "first loss", "last, ε = 1/L", "min ‖g‖² / bound")
    rows = [
        (
            figures.TITLES[name],
            f"{methods['one_step'][name]['bound']:.3g}",
            f"{run['lipschitz']:.3g}",
            f"{run['first_loss']:.3g}",
            f"{run['last_loss']:.2g}",
            f"at most {run['largest_share']:.0%}",
        )
        for name, run in methods["bound"].items()
    ]
    bounds = tables.new("Bounds and descent", headings, rows)
    losses = [f"{run['last_loss']:.1e}" for run in methods["descent"].values()]
    sides = tables.new("Quadratic, last loss", ("", *methods["descent"]), [("ε", *losses)])
    return [bounds, sides]


EXPERIMENT = Experiment(
    name="curvature",
    title="What curvature says of the step size",
    presets={
        "smoke": Settings(network_steps=12, marthe_steps=24, sharpness_every=4, hidden_widths=(8,)),
        "quick": Settings(),
        "paper": Settings(),
    },
    load=datasets.load,
    parts=parts,
    summarize=summarize,
    figures=lambda results: figures.figures(study_of(results), results.data.source),
    table=table,
)
