"""Runs the measurements of curvature and writes their results: metrics.json, figures, README.md."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import hyperlr
from hyperlr.experiments import curvature, curvature_plots, data, parts, report, results, surfaces
from hyperlr.experiments.precision import float64

Kind = TypeVar("Kind")


class Study(NamedTuple):
    """All that is measured."""

    one_step: dict[str, curvature.OneStep]
    """On the quadratic, on Beale and on the network."""
    on_quadratic: dict[float, curvature.Descent]
    """ε in units of 1/L → descent."""
    bounded: dict[str, curvature.Descent]
    """With ε = 1/L, on the quadratic, on Beale and on the network."""
    sharpness: curvature.Sharpness
    """Along a MARTHE run."""


_DEFAULTS = curvature.Settings()


def run(
    data_dir: Path | None,
    out: Path,
    console: Console,
    settings: curvature.Settings = _DEFAULTS,
) -> None:
    """Measures what is not measured yet, and writes three figures and a page that explains them.

    What lies finished in `out/parts`, of the very same settings, is not measured again.

    Args:
      data_dir: as for `data.load`.
      out: directory of the results; made where it is missing.
      console: where the progress and the table go.
      settings: sizes.

    Raises:
      InputError: data cannot be read, or `out` cannot be written.
    """
    results.prepare_output(out)
    images = data.load(data_dir)
    study = measure(images, settings, out / "parts", console)
    results.write_metrics(out / "metrics.json", _describe(images, settings), summary(study))
    results.write_schedules(
        out / "schedules.npz", {"marthe_fixed": study.sharpness.learning_rates[None]}
    )
    for name, figure in (
        ("one_step", curvature_plots.one_step(study.one_step)),
        ("descent", curvature_plots.descent(study.on_quadratic, study.bounded)),
        ("sharpness", curvature_plots.sharpness(study.sharpness, curvature.MARTHE)),
    ):
        results.write_figure(out / f"{name}.png", figure)
    with results.atomic_file(out / "README.md") as file:
        file.write(explanation(study, images.source).encode())
    for table in _tables(study):
        console.print(table)
    console.print(f"Results in {out}", soft_wrap=True)


def measure(
    images: data.Data, settings: curvature.Settings, folder: Path, console: Console
) -> Study:
    """Makes all measurements, with a progress bar.

    Args:
      images: the digits.
      settings: sizes.
      folder: where finished measurements on the network are kept. Those of the very same settings
        are not made again; the others take seconds, and are.
      console: where the progress goes.
    """
    identity = _identity(images, settings)

    def finished(name: str, kind: type[Kind], compute: Callable[[], Kind]) -> Kind:
        return parts.finished(folder, name, identity | {"part": name}, kind, compute)

    loss, params = curvature.network(images, settings)
    with float64():
        quadratic_start = jnp.asarray(curvature.QUADRATIC_START)
        beale_start = jnp.asarray(curvature.BEALE_START)
    with report.progress_bar(console) as progress:
        # In seconds, about: the run with MARTHE is the longest part.
        shares = {"one step": 4, "either side of 2/L": 5, "O(1/t) bound": 40, "MARTHE": 55}
        task = progress.add_task("", total=sum(shares.values()))

        def begin(part: str) -> None:
            progress.update(task, description=part)

        begin("one step")
        with float64():
            one_step = {
                "quadratic": curvature.one_step(curvature.quadratic, quadratic_start),
                "beale": curvature.one_step(surfaces.beale, beale_start),
            }
        one_step["network"] = finished(
            "one_step", curvature.OneStep, lambda: curvature.one_step(loss, params)
        )
        progress.advance(task, shares["one step"])
        begin("either side of 2/L")
        on_quadratic = curvature.descents_on_quadratic(settings)
        progress.advance(task, shares["either side of 2/L"])
        begin("O(1/t) bound")
        with float64():
            beale = curvature.descent_with_bound(
                surfaces.beale, beale_start, settings.quadratic_steps, lipschitz_every=1
            )
        bounded = {"quadratic": on_quadratic[1.0], "beale": beale}
        progress.advance(task, 0.2 * shares["O(1/t) bound"])
        bounded["network"] = finished(
            "bound",
            curvature.Descent,
            lambda: curvature.descent_with_bound(
                loss, params, settings.network_steps, lipschitz_every=10
            ),
        )
        progress.advance(task, 0.8 * shares["O(1/t) bound"])
        begin("MARTHE")
        share_of_step = shares["MARTHE"] / settings.marthe_steps
        sharpness = finished(
            "sharpness",
            curvature.Sharpness,
            lambda: curvature.follow_marthe(
                images, settings, lambda made: progress.advance(task, share_of_step * made)
            ),
        )
        progress.update(task, completed=sum(shares.values()))
    return Study(one_step, on_quadratic, bounded, sharpness)


def summary(study: Study) -> dict[str, Any]:
    """Returns the `methods` of metrics.json."""
    sharpness = study.sharpness
    return {
        "one_step": {name: step._asdict() for name, step in study.one_step.items()},
        "descent": {
            f"{factor:g}/L": {"first_loss": run.values[0], "last_loss": run.values[-1]}
            for factor, run in study.on_quadratic.items()
        },
        "bound": {
            name: {
                "lipschitz": run.lipschitz,
                "first_loss": run.values[0],
                "last_loss": run.values[-1],
                "smallest_share": share_of_bound(run).min(),
                "largest_share": share_of_bound(run).max(),
            }
            for name, run in study.bounded.items()
        },
        "sharpness": {
            "steps": sharpness.steps,
            "sharpness": sharpness.lipschitz,
            "along_gradient": sharpness.along_gradient,
            "two_over_learning_rate": 2 / rates_at(sharpness),
            "loss": sharpness.losses,
        },
    }


def share_of_bound(run: curvature.Descent) -> np.ndarray:
    """Returns min ‖g‖² over the O(1/t) bound, [T]; the bound holds where it is at most 1."""
    steps = np.arange(1, len(run.values))
    smallest = np.minimum.accumulate(run.squared_norms)[:-1]
    return smallest * steps / (2 * run.lipschitz * run.values[0])


def rates_at(sharpness: curvature.Sharpness) -> np.ndarray:
    """Returns the learning rate of the step at every measurement, [M]; after the last, the last."""
    return sharpness.learning_rates[np.minimum(sharpness.steps, len(sharpness.learning_rates) - 1)]


def explanation(study: Study, source: str) -> str:
    """Returns the page beside the figures; its numbers are those of the study."""
    loss_at_bound = {
        name: np.interp(step.bound, step.epsilons, step.losses) / step.losses[0]
        for name, step in study.one_step.items()
    }
    above = study.sharpness.lipschitz > 2 / rates_at(study.sharpness)
    above_along = study.sharpness.along_gradient > 2 / rates_at(study.sharpness)
    last = {factor: run.values[-1] for factor, run in study.on_quadratic.items()}
    shares = {name: share_of_bound(run).max() for name, run in study.bounded.items()}
    sections = {
        "One step": (
            "one_step.png",
            f"""
            The loss after one step −ε g, to second order f − ε gᵀg + ½ ε² gᵀHg, is back where it
            was at ε = 2 gᵀg / gᵀHg, and lowest at half of that. On the quadratic this is exact. At
            the bound the loss is {loss_at_bound["beale"]:.2f} of what it was on Beale, and
            {loss_at_bound["network"]:.2f} with the network, on {curvature.NUM_DIGITS} digits
            ({source}): there the terms of higher order have their say, and the bound is of the
            right size but no guarantee.
            """,
        ),
        "Descent": (
            "descent.png",
            f"""
            *Either side of 2/L.* L is the largest eigenvalue of the Hessian. On the quadratic,
            ε = 1.99/L ends {len(study.on_quadratic[1.99].values) - 1} steps at a loss of
            {last[1.99]:.1e}; at 2/L the steepest direction neither shrinks nor grows, and the loss
            stays at {last[2.0]:.2f}; ε = 2.01/L, which at first descends as well, ends at
            {last[2.01]:.1e}.
            """,
            f"""
            *The O(1/t) bound.* With ε = 1/L the smallest ‖g‖² of the first t steps is at most
            2 L (f₀ − f*) / t. It never came to more than {shares["quadratic"]:.0%} of that on the
            quadratic, {shares["beale"]:.0%} on Beale and {shares["network"]:.0%} with the network.
            On the last two L is the largest sharpness measured on the way (with 10% to spare), and
            for the network f* is not known but at least 0.
            """,
        ),
        "Sharpness": (
            "sharpness.png",
            f"""
            {curvature.MARTHE} on the digits. Where the sharpness is above 2/η,
            gradient descent is unstable in the sharpest direction: so at {above.sum()} of
            {above.size} measurements. Along the gradient, which is what decides whether the next
            step lowers the loss, the curvature was above 2/η at {above_along.sum()} of them.
            """,
        ),
    }
    lines = ["# What curvature says of the step size", ""]
    for title, (figure, *paragraphs) in sections.items():
        lines += [f"## {title}", "", f"![{title}]({figure})", ""]
        for paragraph in paragraphs:
            lines += [textwrap.fill(" ".join(paragraph.split()), 100), ""]
    return "\n".join(lines)


def _identity(images: data.Data, settings: curvature.Settings) -> dict[str, Any]:
    """Returns what the measurements on the network have in common and depend on."""
    return {
        "experiment": "curvature",
        "data_digest": parts.data_digest(images.images, images.labels),
        "split": [images.num_train, images.num_val],
        "num_digits": curvature.NUM_DIGITS,
        "hyper_learning_rate": curvature.HYPER_LEARNING_RATE,
        "settings": settings._asdict(),
        "versions": parts.versions(),
    }


def _describe(images: data.Data, settings: curvature.Settings) -> dict[str, Any]:
    return {
        "experiment": "curvature",
        "data": images.source,
        "num_digits": curvature.NUM_DIGITS,
        "spectrum": curvature.SPECTRUM,
        "method": curvature.MARTHE,
        "hyper_learning_rate": curvature.HYPER_LEARNING_RATE,
        **settings._asdict(),
        "version": hyperlr.__version__,
    }


def _tables(study: Study) -> tuple[Table, Table]:
    bounds = Table(title="Bounds and descent", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    bounds.add_column("")
    for heading in ("2gᵀg/gᵀHg", "L", "first loss", "last, ε = 1/L", "min ‖g‖² / bound"):
        bounds.add_column(heading, justify="right")
    for name, run in study.bounded.items():
        bounds.add_row(
            curvature_plots.TITLES[name],
            f"{study.one_step[name].bound:.3g}",
            f"{run.lipschitz:.3g}",
            f"{run.values[0]:.3g}",
            f"{run.values[-1]:.2g}",
            f"at most {share_of_bound(run).max():.0%}",
        )
    sides = Table(title="Quadratic, last loss", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for factor in study.on_quadratic:
        sides.add_column(f"{factor:g}/L", justify="right")
    sides.add_row(*(f"{run.values[-1]:.1e}" for run in study.on_quadratic.values()))
    return bounds, sides
