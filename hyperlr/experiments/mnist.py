"""Section 5 of the paper: optimized and online schedules on a small set of digits."""

import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from rich.progress import Progress, TaskID

import hyperlr
from hyperlr.experiments import data, duration, grid, lrs, models, parts, report, training
from hyperlr.experiments.methods import LEARNING_RATE, METHODS


class Settings(NamedTuple):
    """Size of the experiment; the defaults are the paper's."""

    num_seeds: int
    """Seeds 0, 1, … of the split, the initial weights and the minibatches."""
    step_sizes: Mapping[str, tuple[float, ...]]
    """Key of METHODS → the step sizes that are tried; so also which methods are run."""
    lrs: lrs.Settings | None
    """How LRS-OPT is run; None leaves it out."""
    num_steps: int = 512
    """T."""
    batch_size: int = 100
    """Images in a minibatch of L, and of E."""
    hidden_widths: tuple[int, ...] = models.HIDDEN_WIDTHS
    """Units of the hidden layers."""


PRESETS = {
    "quick": Settings(
        num_seeds=1,
        step_sizes={name: method.short_grid for name, method in METHODS.items()},
        # From a schedule that is good already, few iterations do.
        lrs=lrs.Settings(
            num_seeds=1,
            start="marthe_scale_free",
            num_iterations=8,
            distance=1.25,
            evaluate_every=2,
        ),
    ),
    "paper": Settings(
        num_seeds=20,
        step_sizes={name: method.grid for name, method in METHODS.items()},
        lrs=lrs.Settings(
            num_seeds=4, start="constant", num_iterations=100, distance=4.5, evaluate_every=5
        ),
    ),
}


class Outcomes(NamedTuple):
    """What came of all methods."""

    grids: dict[str, grid.Grid]
    """Online method → all its step sizes and seeds."""
    chosen: dict[str, int]
    """Online method → the place of its best step size."""
    optimized: list[lrs.Optimized]
    """LRS-OPT, seed by seed; empty where it was left out."""


def compute(settings: Settings, images: data.Data, folder: Path, console: Console) -> Outcomes:
    """Trains with all methods, and optimizes schedules, unless that has been done before.

    Args:
      settings: what to run.
      images: the data.
      folder: where finished parts are kept. Those of the very same settings are not computed again.
      console: where the duration and the progress go.

    Raises:
      InputError: a finished part is damaged.
    """
    make_lanes = functools.partial(
        training.make_lanes,
        images,
        num_steps=settings.num_steps,
        batch_size=settings.batch_size,
        hidden_widths=settings.hidden_widths,
    )
    identity = _identity(settings, images)
    planned = {
        name: grid.plan(
            name,
            step_sizes,
            range(settings.num_seeds),
            at_once=grid.lanes_at_once(images, settings.hidden_widths),
            config=identity,
            folder=folder,
        )
        for name, step_sizes in settings.step_sizes.items()
    }
    work = _work_left(settings, planned)
    _announce(folder, planned, work, images, make_lanes([0], [0.0]), console)
    grids, optimized = {}, []
    with report.progress_bar(console) as progress:
        task = progress.add_task("", total=work)
        for name, step_sizes in settings.step_sizes.items():
            progress.update(task, description=METHODS[name].label)
            advance = functools.partial(_advance, progress, task, METHODS[name].cost)
            grids[name] = grid.run(
                name, images, step_sizes, planned[name], make_lanes, on_progress=advance
            )
        chosen = {name: grid.best(each, images.num_classes) for name, each in grids.items()}
        for seed in _lrs_seeds(settings):
            assert settings.lrs is not None
            progress.update(task, description=f"LRS-OPT, seed {seed}")
            start = _start(settings, grids, chosen, images, seed)
            optimized.append(
                lrs.optimize(
                    images,
                    seed,
                    start,
                    settings.lrs,
                    make_lanes,
                    lrs.result_path(folder, seed, start, settings.lrs, identity),
                    functools.partial(_advance, progress, task, lrs.COST * settings.num_steps),
                )
            )
        progress.update(task, description="all methods", completed=work)
    return Outcomes(grids, chosen, optimized)


def describe(settings: Settings, images: data.Data) -> dict[str, Any]:
    """Returns the `config` of metrics.json: all that is needed to run the same again."""
    return {
        **_identity(settings, images),
        "data": images.source,
        "num_train": images.num_train,
        "num_val": images.num_val,
        "num_test": len(images.test_images),
        "seeds": list(range(settings.num_seeds)),
        "step_sizes": settings.step_sizes,
        "lrs_opt": settings.lrs._asdict() if settings.lrs else None,
        "device": jax.devices()[0].device_kind,
    }


def _identity(settings: Settings, images: data.Data) -> dict[str, Any]:
    """Returns what all methods have in common and their results depend on."""
    arrays = (images.images, images.labels, images.test_images, images.test_labels)
    return {
        "experiment": "mnist",
        "data_digest": parts.data_digest(*arrays),
        "split": [images.num_train, images.num_val],
        "num_steps": settings.num_steps,
        "batch_size": settings.batch_size,
        "hidden_widths": settings.hidden_widths,
        "learning_rate": LEARNING_RATE,
        "versions": {
            "hyperlr": hyperlr.__version__,
            "jax": jax.__version__,
            "optax": optax.__version__,
            "python": platform.python_version(),
        },
    }


def _work_left(settings: Settings, planned: Mapping[str, list[grid.Part]]) -> float:
    """Returns the work of what is not finished; a plain step of one network is 1."""
    online = sum(
        METHODS[name].cost * len(part.lanes) * settings.num_steps
        for name, planned_parts in planned.items()
        for part in planned_parts
        if not part.path.is_file()
    )
    if settings.lrs is None:
        return online
    # A finished one passes at once: its start, and so its file, is not known yet.
    iterations = settings.lrs.num_iterations * len(_lrs_seeds(settings))
    return online + lrs.COST * settings.num_steps * iterations


def _announce(
    folder: Path,
    planned: Mapping[str, list[grid.Part]],
    work: float,
    images: data.Data,
    lanes: training.Lanes,
    console: Console,
) -> None:
    """Says what is there already, and how long the rest will take."""
    files = set(folder.glob("*.npz"))
    wanted = {part.path for planned_parts in planned.values() for part in planned_parts}
    if files & wanted:
        console.print(
            f"{len(files & wanted)} of {len(wanted)} parts of the grid are finished in {folder}",
            soft_wrap=True,
        )
    elif any(not path.name.startswith("lrs_opt") for path in files):
        console.print(
            f"The parts in {folder} are of other settings, and are left alone: starting anew",
            soft_wrap=True,
        )
    seconds = work * duration.seconds_per_step(images, lanes)
    console.print(f"This will take about {duration.in_words(seconds)} on this machine")


def _lrs_seeds(settings: Settings) -> range:
    return range(min(settings.lrs.num_seeds, settings.num_seeds) if settings.lrs else 0)


def _start(
    settings: Settings,
    grids: Mapping[str, grid.Grid],
    chosen: Mapping[str, int],
    images: data.Data,
    seed: int,
) -> np.ndarray:
    """Returns the schedule that LRS-OPT starts from; η_0 everywhere if the wanted one diverged."""
    name = settings.lrs.start if settings.lrs else "constant"
    if name in grids:
        trained = grid.at_size(grids[name], chosen[name])
        if not training.diverged(trained, images.num_classes)[seed]:
            return trained.records["learning_rate"][seed]
    return np.full(settings.num_steps, LEARNING_RATE, np.float32)


def _advance(progress: Progress, task: TaskID, cost: float, steps: int) -> None:
    """Moves the bar by a number of steps, each weighted by what it costs."""
    progress.advance(task, steps * cost)
