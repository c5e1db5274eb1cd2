"""Section 6 of the paper: VGG-11 on CIFAR-10, ResNet-18 on CIFAR-100, fixed and learned rates."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from hyperlr.experiments.cifar import figures, runs, training
from hyperlr.experiments.cifar.methods import INNER, NUMBERS, SEARCHED, initial_learning_rate, rates
from hyperlr.experiments.cifar.runs import History, Run, Settings
from hyperlr.experiments.core import tables
from hyperlr.experiments.core.errors import InputError
from hyperlr.experiments.core.experiment import Arrays, Experiment, Part, Results, Summary, Work
from hyperlr.experiments.data import Data, cifar
from hyperlr.experiments.methods import METHODS
from hyperlr.experiments.networks import convolutional

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
    # As far as two cores come in half an hour: an eighth of the width, 32 minibatches an epoch.
    "quick": Settings(
        num_seeds=1,
        methods=("exponential", "staircase", "sgdr", "hd", "rtho", "marthe"),
        num_epochs=20,
        steps_per_epoch=32,
        batch_size=100,
        width=8,
        search_steps=60,
    ),
    "paper": Settings(),
}


class Task(NamedTuple):
    """What the experiment is about."""

    form: cifar.Format
    network: Any
    """The class of the network, a Flax module of the classes and the width."""
    inner: str
    """Key of INNER."""

    @property
    def title(self) -> str:
        """What is trained on what, and with what."""
        return f"{self.network.__name__} on {self.form.name}, {INNER[self.inner].label}"


def make_experiment(name: str, inner: str, network: Any = None) -> Experiment:
    """Returns `cifar10` or `cifar100`, with a key of INNER; `network` in place of the paper's."""
    form, usual = {
        "cifar10": (cifar.CIFAR10, convolutional.Vgg11),
        "cifar100": (cifar.CIFAR100, convolutional.ResNet18),
    }[name]
    task = Task(form, network or usual, inner)
    return Experiment(
        name=name,
        title=task.title,
        presets=PRESETS,
        load=functools.partial(cifar.load, form),
        parts=functools.partial(parts, task),
        summarize=functools.partial(summarize, task),
        figures=lambda results: figures.figures(
            _histories(results), make_size(*results[:2]).steps_per_epoch, task.title
        ),
        table=table,
    )


def make_size(settings: Settings, data: Data) -> Settings:
    """Settles how many minibatches make an epoch."""
    filled = max(1, data.num_train // settings.batch_size)
    return settings._replace(steps_per_epoch=settings.steps_per_epoch or filled)


def make_run(task: Task, settings: Settings, data: Data, name: str) -> Run:
    """Returns the run of a method on seed 0, with the number that a search starts from."""
    inner, size = INNER[task.inner], make_size(settings, data)
    schedule = rates(name, inner, size.num_epochs * size.steps_per_epoch)
    network = task.network(data.num_classes, settings.width)
    return Run(
        training.Program(network, inner.make, METHODS[name].online),
        schedule,
        NUMBERS[name],
        runaway=runs.RUNAWAY * inner.learning_rate,
        seed=0,
        size=size,
    )


def parts(task: Task, settings: Settings, data: Data) -> Iterator[Part]:
    """Yields the search for κ where there is one, and a part a method and seed.

    Raises:
      InputError: there is no method of some name.
    """
    unknown = [name for name in settings.methods if name not in NUMBERS]
    if unknown:
        raise InputError(
            f"--method: there is no {unknown[0]}; the methods are {', '.join(NUMBERS)}"
        )
    size = make_size(settings, data)
    num_steps = size.num_epochs * size.steps_per_epoch
    names = ("num_epochs", "steps_per_epoch", "batch_size", "width", "eval_epochs")
    determined_by = {
        "network": task.network.__name__,
        "inner": task.inner,
        "checkpoint_epochs": 0,  # how often one is written determines nothing
        **{name: getattr(size, name) for name in names},
    }
    for name in settings.methods:
        method, run = METHODS[name], make_run(task, settings, data, name)
        of_method = determined_by | {"number": NUMBERS[name]}
        if name in SEARCHED:
            yield Part(
                f"search-{name}",
                f"{method.label}: {method.symbol}",
                method.plain_steps(settings.search_steps),
                of_method | {"search_steps": settings.search_steps},
                functools.partial(_search, run, data, settings.search_steps),
            )
        for seed in range(settings.num_seeds):
            yield Part(
                f"{name}-{seed}",
                f"{method.label}, seed {seed}",
                method.plain_steps(num_steps),
                of_method | {"seed": seed},
                functools.partial(_train, run._replace(seed=seed), data),
                {f"search-{name}": ["number"]} if name in SEARCHED else {},
            )


def _search(run: Run, data: Data, num_steps: int, work: Work) -> Arrays:
    return {"number": runs.search_step_size(run, data, num_steps)}


def _train(run: Run, data: Data, work: Work) -> History:
    for found in work.needed.values():
        run = run._replace(step_size=float(found["number"]))
    return runs.train(run, data, work)


def _histories(results: Results) -> dict[str, list[History]]:
    return {
        name: [
            results.read(f"{name}-{seed}", History) for seed in range(results.settings.num_seeds)
        ]
        for name in results.settings.methods
    }


def summarize(task: Task, results: Results) -> Summary:
    """Returns the methods, lists with one entry a seed, and all that was recorded on the way."""
    settings, data, arrays = results
    inner, histories = INNER[task.inner], _histories(results)
    methods: dict[str, Any] = {}
    curves: dict[str, np.ndarray] = {}
    for name, of_seeds in histories.items():
        run = make_run(task, settings, data, name)
        searched = f"search-{name}" if name in SEARCHED else None
        number = float(arrays[searched]["number"]) if searched else NUMBERS[name]
        names = [*([searched] if searched else []), *(f"{name}-{k}" for k in range(len(of_seeds)))]
        recorded = [history.records | history.curves for history in of_seeds]
        stacked = {key: np.stack([each[key] for each in recorded]) for key in recorded[0]}
        final = ("val_accuracy", "test_accuracy", "val_loss", "test_loss")
        methods[name] = {
            **{quantity: stacked[quantity][:, -1] for quantity in final},
            "initial_learning_rate": run.schedule[0],
            "final_learning_rate": stacked["learning_rate"][:, -1],
            "diverged": [
                runs.diverged(run, history) or runs.ends_exploded(history) for history in of_seeds
            ],
            "step_size": number,
            "seconds": round(sum(float(arrays[each]["seconds"]) for each in names), 3),
        }
        curves |= {f"{name}/{quantity}": values for quantity, values in stacked.items()}
    config = {
        "steps_per_epoch": make_size(settings, data).steps_per_epoch,
        "network": task.network.__name__,
        "inner": inner.label,
        "weight_decay": training.WEIGHT_DECAY,
        "learning_rate": {name: initial_learning_rate(name, inner) for name in methods},
    }
    schedules = {name: curves[f"{name}/learning_rate"] for name in methods}
    return Summary(methods, {"schedules": schedules, "curves": curves}, config)


def table(summary: Summary) -> list[Table]:
    """Returns the table of all methods: what had to be given, how good they are, what they cost."""
    config = summary.config
    symbols = {name: METHODS[name].symbol for name in summary.methods}
    rows = [
        (
            METHODS[name].label,
            f"η₀, {symbols[name]} = {method['step_size']:g}" if symbols[name] else "η₀, schedule",
            *tables.accuracies(method),
            f"{method['seconds']:.0f} s",
        )
        for name, method in summary.methods.items()
    ]
    title = f"{config['network']}, {config['inner']}, {config['num_epochs']} epochs, "
    title += tables.seeds(config["num_seeds"])
    return [tables.new(title, ("method", "given", "validation\n%", "test\n%", "time"), rows)]
