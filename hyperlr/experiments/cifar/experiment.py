"""Section 6 of the paper: VGG-11 on CIFAR-10, ResNet-18 on CIFAR-100, fixed and learned rates."""

import functools
import json
import platform
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from rich.progress import Progress, TaskID

import hyperlr
from hyperlr.experiments import (
    cifar_data,
    cifar_models,
    cifar_plots,
    cifar_runs,
    cifar_training,
    parts,
    report,
    results,
)
from hyperlr.experiments.cifar_log import Log
from hyperlr.experiments.cifar_methods import INNER, METHODS, initial_learning_rate, rates
from hyperlr.experiments.cifar_runs import History, Run, Size
from hyperlr.experiments.errors import InputError


class Settings(NamedTuple):
    """Size of the experiment; the defaults are the paper's."""

    num_seeds: int = 5
    """Seeds 0, 1, … of the split, the initial weights, the minibatches and their augmentation."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Keys of METHODS."""
    num_epochs: int = 200
    steps_per_epoch: int | None = None
    """None: as many as the training images fill."""
    batch_size: int = 128
    """Images in a minibatch of L, and of E."""
    width: int = 64
    """Filters of the network's first layer; the others are in proportion."""
    eval_epochs: int = 1
    checkpoint_epochs: int = 5
    search_steps: int = 200
    """Steps of a trial of κ."""


PRESETS = {
    "smoke": Settings(
        num_seeds=1,
        num_epochs=10,
        steps_per_epoch=4,
        batch_size=32,
        width=8,
        eval_epochs=5,
        checkpoint_epochs=5,
        search_steps=20,
    ),
    "paper": Settings(),
}


class Task(NamedTuple):
    """What the experiment is about."""

    form: cifar_data.Format
    network: type[cifar_models.Vgg11] | type[cifar_models.ResNet18]
    inner: str
    """Key of INNER."""


def make_task(name: str, inner: str) -> Task:
    """Returns the task of `cifar10` or `cifar100`, with a key of INNER."""
    if name == "cifar10":
        return Task(cifar_data.CIFAR10, cifar_models.Vgg11, inner)
    return Task(cifar_data.CIFAR100, cifar_models.ResNet18, inner)


def run(
    task: Task,
    settings: Settings,
    data_dir: Path | None,
    out: Path,
    console: Console,
    *,
    resume: bool = False,
    tensorboard: bool = False,
) -> None:
    """Runs the experiment and writes metrics.json, metrics.jsonl, schedules.npz and figures.

    Args:
      task: data, network and inner optimizer.
      settings: what to run.
      data_dir: as for `cifar_data.load`.
      out: directory of the results; made where it is missing.
      console: where the progress and the table go.
      resume: go on from the checkpoints in `out`.
      tensorboard: write event files, too.

    Raises:
      InputError: data cannot be read, `out` cannot be written or holds another run's checkpoints.
    """
    unknown = [name for name in settings.methods if name not in METHODS]
    if unknown:
        raise InputError(
            f"--method: there is no {unknown[0]}; the methods are {', '.join(METHODS)}"
        )
    results.prepare_output(out)
    images = cifar_data.load(task.form, data_dir)
    size = make_size(settings, len(cifar_data.split_indices(len(images.images), 0)[0]))
    config = describe(task, settings, size, images)
    check_resumption(out, fixed_config(config), resume)
    num_steps = size.num_epochs * size.steps_per_epoch * settings.num_seeds
    total = num_steps * sum(METHODS[name].cost for name in settings.methods)
    histories: dict[str, list[History]] = {}
    methods: dict[str, Any] = {}
    with Log(out, tensorboard) as log, report.progress_bar(console) as progress:
        bar = progress.add_task("", total=total)
        for name in settings.methods:
            progress.update(bar, description=f"{METHODS[name].label}, step size")
            start = time.perf_counter()
            template = make_run(task, settings, size, name, images)
            step_size = find_step_size(template, name, settings, images, out)
            template = template._replace(rates=template.rates._replace(step_size=step_size))
            histories[name] = []
            for seed in range(settings.num_seeds):
                progress.update(bar, description=f"{METHODS[name].label}, seed {seed}")
                history = cifar_runs.train(
                    template._replace(seed=seed),
                    images,
                    out / "checkpoints" / f"{name}-{seed}",
                    fixed_config(config)
                    | {"method": name, "seed": str(seed), "step_size": repr(step_size)},
                    on_epoch=functools.partial(_advance, progress, bar, METHODS[name].cost),
                    on_evaluation=functools.partial(log.write, name, seed),
                )
                histories[name].append(history)
            seconds = time.perf_counter() - start
            methods[name] = summary(template, histories[name], seconds)
        progress.update(bar, description="all methods", completed=total)
    write(out, config, methods, histories, size)
    labels = {name: METHODS[name].label for name in methods}
    seeds = "1 seed" if settings.num_seeds == 1 else f"{settings.num_seeds} seeds"
    title = f"{config['network']}, {config['inner']}, {size.num_epochs} epochs, {seeds}"
    console.print(report.results_table(title, methods, labels))
    console.print(f"Results in {out}", soft_wrap=True)


def make_size(settings: Settings, num_train: int) -> Size:
    """Settles how many minibatches make an epoch."""
    return Size(
        num_epochs=settings.num_epochs,
        steps_per_epoch=settings.steps_per_epoch or max(1, num_train // settings.batch_size),
        batch_size=settings.batch_size,
        eval_epochs=settings.eval_epochs,
        checkpoint_epochs=settings.checkpoint_epochs,
    )


def make_run(
    task: Task, settings: Settings, size: Size, name: str, images: cifar_data.Images
) -> Run:
    """Returns the run of a method on seed 0, with the step size that a search starts from."""
    method, inner = METHODS[name], INNER[task.inner]
    schedule = rates(method, inner, size.num_epochs * size.steps_per_epoch)
    return Run(
        program=cifar_training.Program(
            network=task.network(images.num_classes, settings.width),
            make_inner=inner.make,
            make_online=method.online,
        ),
        rates=cifar_training.Rates(schedule, method.step_size),
        runaway=cifar_runs.RUNAWAY * inner.learning_rate,
        seed=0,
        size=size,
    )


def find_step_size(
    template: Run, name: str, settings: Settings, images: cifar_data.Images, out: Path
) -> float:
    """Returns the step size of a method: its own, or the one that a search on seed 0 finds.

    What was found stays in a part, so that a run that is taken up does not search again.

    Raises:
      InputError: no step size was small enough.
    """
    if not METHODS[name].searched:
        return METHODS[name].step_size

    def search() -> _Found:
        return _Found(cifar_runs.search_step_size(template, images, settings.search_steps))

    # Network and inner optimizer are those that `check_resumption` found in this directory.
    config = {
        "method": name,
        "step_size": template.rates.step_size,
        "size": template.size._asdict(),
        "search_steps": settings.search_steps,
        "data_digest": parts.data_digest(images.images, images.labels),
        "versions": parts.versions(),
    }
    folder = out / "checkpoints"
    return float(parts.finished(folder, f"{name}-step-size", config, _Found, search).step_size)


class _Found(NamedTuple):
    """What a search found."""

    step_size: float


def fixed_config(config: dict[str, Any]) -> dict[str, str]:
    """Returns what must be the same of a run that goes on from checkpoints."""
    fixed = ("experiment", "network", "width", "inner", "num_train", "num_val", "num_epochs",
             "steps_per_epoch", "batch_size", "eval_epochs")  # fmt: skip
    return {key: str(config[key]) for key in fixed}


def check_resumption(out: Path, fixed: dict[str, str], resume: bool) -> None:
    """Checks that the checkpoints in `out` are to be taken up and can be, and notes whose they are.

    Before any file of the earlier run is touched.

    Raises:
      InputError: there are checkpoints and `resume` is not set, or they are of another run.
    """
    file = out / "checkpoints" / "config.json"
    if file.is_file() and not resume:
        raise InputError(
            f"--out: {out} holds checkpoints of an earlier run; pass --resume to go on with it, or "
            "name another directory"
        )
    if file.is_file():
        there = _read_config(file, fixed)
        for key, value in fixed.items():
            if there.get(key) != value:
                raise InputError(
                    f"--resume: {out} holds a run with another {key} ({there.get(key)} there, "
                    f"{value} here); pass what it was started with, or name another directory"
                )
    file.parent.mkdir(exist_ok=True)
    with results.atomic_file(file) as handle:
        handle.write(json.dumps(fixed, indent=2).encode() + b"\n")


def _read_config(file: Path, fixed: dict[str, str]) -> Any:
    """Returns what the file holds; `fixed` where it is damaged: every checkpoint tells its run."""
    try:
        there = json.loads(file.read_text())
    except ValueError:
        there = None
    if isinstance(there, dict):
        return there
    warnings.warn(f"{file} is damaged and written anew", RuntimeWarning, stacklevel=2)
    return fixed


def summary(template: Run, runs: list[History], seconds: float) -> dict[str, Any]:
    """Returns a method's entry of metrics.json, lists with one entry a seed."""
    return {
        name: np.array([history.curves[name][-1] for history in runs])
        for name in ("val_accuracy", "test_accuracy", "val_loss", "test_loss")
    } | {
        "initial_learning_rate": template.rates.schedule[0],
        "final_learning_rate": np.array([run.records["learning_rate"][-1] for run in runs]),
        "diverged": [
            cifar_runs.diverged(template, history) or cifar_runs.ends_exploded(history)
            for history in runs
        ],
        "step_size": template.rates.step_size,
        "seconds": round(seconds, 3),
    }


def describe(
    task: Task, settings: Settings, size: Size, images: cifar_data.Images
) -> dict[str, Any]:
    """Returns the `config` of metrics.json: all that is needed to run the same again."""
    train, val = cifar_data.split_indices(len(images.images), 0)
    return {
        "experiment": task.form.name,
        "data": images.source,
        "network": task.network.__name__,
        "width": settings.width,
        "inner": INNER[task.inner].label,
        "num_train": len(train),
        "num_val": len(val),
        "num_test": len(images.test_labels),
        "seeds": list(range(settings.num_seeds)),
        **size._asdict(),
        "search_steps": settings.search_steps,
        "weight_decay": cifar_training.WEIGHT_DECAY,
        "learning_rate": {
            name: initial_learning_rate(METHODS[name], INNER[task.inner])
            for name in settings.methods
        },
        "versions": {
            "hyperlr": hyperlr.__version__,
            "jax": jax.__version__,
            "optax": optax.__version__,
            "python": platform.python_version(),
        },
        "device": jax.devices()[0].device_kind,
    }


def write(
    out: Path,
    config: dict[str, Any],
    methods: dict[str, Any],
    histories: dict[str, list[History]],
    size: Size,
) -> None:
    """Writes metrics.json, schedules.npz, curves.npz and the two figures."""
    results.write_metrics(out / "metrics.json", config, methods)
    results.write_schedules(
        out / "schedules.npz",
        {name: _stack(runs, "records", "learning_rate") for name, runs in histories.items()},
    )
    quantities = [
        (kind, quantity)
        for kind in ("records", "curves")
        for quantity in getattr(next(iter(histories.values()))[0], kind)
    ]
    results.write_schedules(
        out / "curves.npz",
        {
            f"{name}/{quantity}": _stack(runs, kind, quantity)
            for name, runs in histories.items()
            for kind, quantity in quantities
        },
    )
    # The paper draws its two SGDRs in figures of their own.
    for file, other in (("curves.png", "sgdr_2264"), ("curves_sgdr_2264.png", "sgdr")):
        shown = {name: runs for name, runs in histories.items() if name != other}
        if shown:
            title = f"{config['network']} on {config['experiment']}, {config['inner']}"
            figure = cifar_plots.curves(shown, size.steps_per_epoch, title)
            results.write_figure(out / file, figure)


def _stack(runs: list[History], kind: str, quantity: str) -> np.ndarray:
    return np.stack([getattr(history, kind)[quantity] for history in runs])


def _advance(progress: Progress, bar: TaskID, cost: float, steps: int) -> None:
    """Moves the bar by a number of steps, each weighted by what it costs."""
    progress.advance(bar, steps * cost)
