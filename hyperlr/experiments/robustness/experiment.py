"""How much the starting point matters: online methods from learning rates far too small or large.

The inner optimizers are plain gradient descent, momentum and Adam; each method has one and the same
setting for all of them.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax

import hyperlr
from hyperlr.experiments import parts, training
from hyperlr.experiments.data import Data

INNER = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    # The square root of Adam in optax has no derivative at 0, where ε is outside of it.
    "adam": hyperlr.optimizers.adam,
}
LABELS = {"sgd": "SGD", "momentum": "momentum 0.9", "adam": "Adam"}

STARTS = (1e-6, 1e-4, 1e-2, 1e-1, 1.0)
"""η_0."""
DISCOUNTS = (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)
"""μ of the sensitivity to μ and η_0."""
BETAS = (1e-5, 1e-4)
"""β of the same."""
SENSITIVE_INNER = "momentum"
"""The inner optimizer of the same, as in the paper."""

GRID = tuple(float(f"{rate:.3g}") for rate in np.geomspace(1e-4, 3.0, 20))
"""Learning rates among which the best constant and the best cosine are sought."""


class Settings(NamedTuple):
    """Size of the experiment."""

    num_seeds: int
    """Seeds 0, 1, … of the split, the initial weights and the minibatches."""
    num_steps: int = 512
    """T."""
    batch_size: int = 100
    """Images in a minibatch."""
    hidden_widths: tuple[int, ...] = (100,)
    """Units of the hidden layers."""
    grid: tuple[float, ...] = GRID
    """Learning rates of the constant and the cosine schedules."""


PRESETS = {"quick": Settings(num_seeds=1), "paper": Settings(num_seeds=5)}


class Method(NamedTuple):
    """An online method, a function of the inner optimizer and η_0."""

    label: str
    make: Callable[[Any, Any], optax.GradientTransformationExtraArgs]
    cost: float
    """FLOPs of a step over those of a plain one."""


def _hd(inner: Any, start: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.hd(inner, start, 1e-4)


def _marthe(inner: Any, start: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.marthe(inner, start, meta_learning_rate=1e-8)


def _scale_free(inner: Any, start: Any) -> optax.GradientTransformationExtraArgs:
    rule = hyperlr.exponentiated_gradient(0.2)
    return hyperlr.marthe(inner, start, discount=0.99, hyper_optimizer=rule)


def _constant(inner: Any, rate: Any) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(inner(learning_rate=rate))


def _fixed(
    beta: float, inner: Any, start_and_discount: Any
) -> optax.GradientTransformationExtraArgs:
    start, discount = start_and_discount
    return hyperlr.marthe(inner, start, hyper_learning_rate=beta, discount=discount)


# The settings that are best for SGD from η_0 = 0.01 on a larger network (methods.py).
METHODS = {
    "hd": Method("HD", _hd, 2.0),
    "marthe": Method("MARTHE (μ, β adapted)", _marthe, 3.67),
    "marthe_scale_free": Method("MARTHE (scale-free)", _scale_free, 3.67),
}
BASELINES = ("constant", "cosine")


class Cell(NamedTuple):
    """What came of P starting points or learning rates, on S seeds."""

    val_accuracy: np.ndarray
    """float [P, S]."""
    test_accuracy: np.ndarray
    """float [P, S]."""
    diverged: np.ndarray
    """bool [P, S]."""
    final_learning_rate: np.ndarray
    """float [P, S]."""


class Outcomes(NamedTuple):
    """What came of everything."""

    methods: dict[str, dict[str, Cell]]
    """Inner optimizer → method or baseline → over STARTS, or over the grid."""
    sensitivity: dict[float, Cell]
    """β → over STARTS × DISCOUNTS, the discounts of the first start before those of the next."""


def work(settings: Settings) -> float:
    """Returns the work of everything; a plain step of one network is 1."""
    of_methods = len(STARTS) * sum(method.cost for method in METHODS.values())
    of_inner = of_methods + len(BASELINES) * len(settings.grid)
    of_sensitivity = 3.67 * len(BETAS) * len(STARTS) * len(DISCOUNTS)
    return settings.num_seeds * settings.num_steps * (len(INNER) * of_inner + of_sensitivity)


def compute(
    settings: Settings,
    images: Data,
    folder: Path,
    on_progress: Callable[[str, float], None] = lambda description, work: None,
) -> Outcomes:
    """Trains everything, each method with all its starts and seeds side by side.

    Args:
      settings: size of the experiment.
      images: the data.
      folder: where finished parts are kept. Those of the very same settings are not computed again.
      on_progress: called with what is being trained, and the work done since the last call.
    """
    cosine = functools.partial(_cosine, settings.num_steps)
    identity = _identity(settings, images)

    def train(
        part: str,
        make: training.MakeOptimizer,
        points: Sequence[Any],
        cost: float,
        report: Callable[[float], None],
    ) -> Cell:
        work = cost * len(points) * settings.num_seeds * settings.num_steps
        done: list[float] = []

        def advance(share: float) -> None:
            done.append(share * work)
            report(share * work)

        cell = parts.finished(
            folder,
            part,
            identity | {"part": part, "points": points},
            Cell,
            lambda: _train(make, images, points, settings, advance),
        )
        report(work - sum(done))
        return cell

    methods: dict[str, dict[str, Cell]] = {}
    for name, inner in INNER.items():
        report = functools.partial(on_progress, LABELS[name])
        methods[name] = {
            key: train(
                f"{name}-{key}", functools.partial(method.make, inner), STARTS, method.cost, report
            )
            for key, method in METHODS.items()
        }
        for key, make in (("constant", _constant), ("cosine", cosine)):
            methods[name][key] = train(
                f"{name}-{key}", functools.partial(make, inner), settings.grid, 1.0, report
            )
    pairs = [(start, discount) for start in STARTS for discount in DISCOUNTS]
    sensitivity = {}
    for beta in BETAS:
        make = functools.partial(_fixed, beta, INNER[SENSITIVE_INNER])
        report = functools.partial(on_progress, "sensitivity to μ")
        sensitivity[beta] = train(f"sensitivity-{beta:g}", make, pairs, 3.67, report)
    return Outcomes(methods, sensitivity)


def best_place(cell: Cell) -> int:
    """Returns the place of the best mean validation accuracy; what diverged counts as 0."""
    return int(np.argmax(np.where(cell.diverged, 0.0, cell.val_accuracy).mean(axis=1)))


def _identity(settings: Settings, images: Data) -> dict[str, Any]:
    """Returns what all parts have in common and their results depend on."""
    arrays = (images.images, images.labels, images.test_images, images.test_labels)
    return {
        "experiment": "robustness",
        "data_digest": parts.data_digest(*arrays),
        "split": [images.num_train, images.num_val],
        # The grid is among the points of the parts that depend on it.
        "settings": {key: x for key, x in settings._asdict().items() if key != "grid"},
        "versions": parts.versions(),
    }


def _cosine(num_steps: int, inner: Any, rate: Any) -> optax.GradientTransformationExtraArgs:
    schedule = hyperlr.schedules.cosine_annealing(rate, num_steps)
    return optax.with_extra_args_support(inner(learning_rate=schedule))


def _train(
    make: training.MakeOptimizer,
    images: Data,
    points: Sequence[Any],
    settings: Settings,
    on_progress: Callable[[float], None],
) -> Cell:
    """Trains every point on every seed, as lanes of one program; told is the share done since."""
    seeds = range(settings.num_seeds)
    lanes = training.make_lanes(
        images,
        [seed for _ in points for seed in seeds],
        [point for point in points for _ in seeds],
        num_steps=settings.num_steps,
        batch_size=settings.batch_size,
        hidden_widths=settings.hidden_widths,
    )
    trained = training.train(
        make, images, lanes, on_progress=lambda steps: on_progress(steps / settings.num_steps)
    )
    shape = (len(points), len(seeds))
    return Cell(
        val_accuracy=trained.val_accuracy[:, -1].reshape(shape),
        test_accuracy=trained.test_accuracy.reshape(shape),
        diverged=training.diverged(trained, images.num_classes).reshape(shape),
        final_learning_rate=trained.records["learning_rate"][:, -1].reshape(shape),
    )
