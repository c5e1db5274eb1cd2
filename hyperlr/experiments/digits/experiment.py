"""Section 5 of the paper: optimized and online schedules on a small set of digits."""

import functools
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from rich.progress import Progress, TaskID

import hyperlr
from hyperlr.experiments import data, duration, grid, lrs, models, parts, report, search, training
from hyperlr.experiments.methods import LEARNING_RATE, METHODS


class Settings(NamedTuple):
    """Size of the experiment; the defaults are the paper's."""

    num_seeds: int
    """Seeds 0, 1, … of the split, the initial weights and the minibatches."""
    step_sizes: Mapping[str, tuple[float, ...]]
    """Key of METHODS → the candidates of the search for its step size, in ascending order; so also
    which methods are run. A method without a step size has one, which is not searched for."""
    lrs: lrs.Settings | None
    """How LRS-OPT is run; None leaves it out."""
    num_steps: int = 512
    """T."""
    batch_size: int = 100
    """Images in a minibatch of L, and of E."""
    hidden_widths: tuple[int, ...] = models.HIDDEN_WIDTHS
    """Units of the hidden layers."""
    search_steps: int = 128
    """First steps in which a step size must not diverge; no more than T of them are made."""
    neighbours: int | None = None
    """How many candidates on each side of the one that was found are trained to the end, too, to
    show how much depends on it; None: all."""


PRESETS = {
    "quick": Settings(
        num_seeds=1,
        step_sizes={name: method.coarse_grid for name, method in METHODS.items()},
        # From a schedule that is good already, few iterations do.
        lrs=lrs.Settings(
            num_seeds=1,
            start="marthe_scale_free",
            num_iterations=8,
            distance=1.25,
            evaluate_every=2,
        ),
        neighbours=1,
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

    searches: dict[str, search.Search]
    """Online method → the search for its step size."""
    grids: dict[str, grid.Grid]
    """Method → all the step sizes that were trained to the end, on all seeds."""
    chosen: dict[str, int]
    """Method → the place among them of the one that the search found."""
    optimized: list[lrs.Optimized]
    """LRS-OPT, seed by seed; empty where it was left out."""


def compute(settings: Settings, images: data.Data, folder: Path, console: Console) -> Outcomes:
    """Trains with all methods, and optimizes schedules, unless that has been done before.

    Args:
      settings: what to run.
      images: the data.
      folder: where finished parts are kept. Those of the very same settings are not computed again.
      console: where the duration and the progress go.

    Warns:
      RuntimeWarning: a finished part is damaged, and so is computed again.
    """
    make_lanes = functools.partial(
        training.make_lanes,
        images,
        num_steps=settings.num_steps,
        batch_size=settings.batch_size,
        hidden_widths=settings.hidden_widths,
    )
    identity = _identity(settings, images)
    at_once = grid.lanes_at_once(images, settings.hidden_widths)
    searching = {
        name: search.plan(
            name,
            candidates,
            range(min(search.NUM_SEEDS, settings.num_seeds)),
            min(settings.search_steps, settings.num_steps),
            config=identity,
            folder=folder,
        )
        for name, candidates in settings.step_sizes.items()
        if METHODS[name].step_size_name
    }

    def plan(name: str, step_sizes: Sequence[float]) -> list[grid.Part]:
        seeds = range(settings.num_seeds)
        return grid.plan(name, step_sizes, seeds, at_once=at_once, config=identity, folder=folder)

    planned = {
        name: plan(name, _expected_sizes(settings, name, searching)) for name in settings.step_sizes
    }
    work = _work_left(settings, searching, planned)
    _announce(folder, planned, work, images, make_lanes([0], [0.0]), console)
    searches: dict[str, search.Search] = {}
    grids, chosen, optimized = {}, {}, []
    with report.progress_bar(console) as progress:
        task = progress.add_task("", total=work)
        for name, step_sizes in settings.step_sizes.items():
            progress.update(task, description=METHODS[name].label)
            advance = functools.partial(_advance, progress, task, METHODS[name].cost)
            if name in searching:
                searches[name] = search.run(
                    searching[name], images, make_lanes, at_once=at_once, on_progress=advance
                )
                step_sizes = searches[name].neighbourhood(settings.neighbours)
            grids[name] = grid.run(
                name, images, step_sizes, plan(name, step_sizes), make_lanes, on_progress=advance
            )
            chosen[name] = step_sizes.index(searches[name].step_size) if name in searching else 0
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
    return Outcomes(searches, grids, chosen, optimized)


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
        "search_steps": settings.search_steps,
        "neighbours": settings.neighbours,
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


def _expected_sizes(
    settings: Settings, name: str, searching: Mapping[str, search.Plan]
) -> tuple[float, ...]:
    """Returns the step sizes to train with, or as many others while they are not known."""
    candidates = settings.step_sizes[name]
    if name not in searching or settings.neighbours is None:
        return candidates
    done = search.load(searching[name])
    if done is not None:
        return done.neighbourhood(settings.neighbours)
    return candidates[: 2 * settings.neighbours + 1]


def _work_left(
    settings: Settings,
    searching: Mapping[str, search.Plan],
    planned: Mapping[str, list[grid.Part]],
) -> float:
    """Returns the work of what is not finished; a plain step of one network is 1."""
    online = sum(
        METHODS[name].cost * len(part.lanes) * settings.num_steps
        for name, planned_parts in planned.items()
        for part in planned_parts
        if not part.path.is_file()
    )
    online += sum(
        METHODS[name].cost * each.num_steps * len(each.candidates) * len(each.seeds)
        for name, each in searching.items()
        if not each.path.is_file()
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
    files = set(folder.glob("*.npz")) - set(folder.glob(f"{search.PREFIX}*"))
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
