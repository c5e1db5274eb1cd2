"""How much the start matters: online methods from learning rates far too small or too large."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hyperlr.experiments import data as datasets
from hyperlr.experiments import training
from hyperlr.experiments.core.experiment import Experiment, Part, Results, Work
from hyperlr.experiments.data import Data
from hyperlr.experiments.methods import INNER, METHODS, Method, maker, marthe_fixed
from hyperlr.experiments.robustness import figures, summary
from hyperlr.experiments.robustness.summary import BASELINES, Cell, Outcomes

# The β, κ and γ that are best for SGD from η_0 = 0.01 on a larger network, and the same for
# all inner optimizers; auto has none.
NUMBERS = {"auto": 0.0, "hd": 1e-4, "marthe": 1e-8, "marthe_scale_free": 0.2}

GRID = tuple(float(f"{rate:.3g}") for rate in np.geomspace(1e-4, 3.0, 20))


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
    """Learning rates among which the best constant and the best cosine are sought."""
    inner: tuple[str, ...] = ("sgd", "momentum", "adam")
    """Keys of INNER."""
    starts: tuple[float, ...] = (1e-6, 1e-4, 1e-2, 1e-1, 1.0)
    """η_0."""
    discounts: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)
    """μ of the sensitivity to μ and η_0."""
    betas: tuple[float, ...] = (1e-5, 1e-4)
    """β of the same."""
    sensitive_inner: str = "momentum"
    """The inner optimizer of the same, as in the paper."""


PRESETS = {
    "smoke": Settings(
        num_seeds=1, num_steps=8, batch_size=20, hidden_widths=(16,), grid=(1e-3, 0.03, 0.3)
    ),
    "quick": Settings(num_seeds=1),
    "paper": Settings(num_seeds=5),
}


def parts(settings: Settings, data: Data) -> Iterator[Part]:
    """Yields a part a method and inner optimizer, all its starts and seeds side by side."""
    common = training.size_of(settings) | {"num_seeds": settings.num_seeds}

    def part(
        name: str, label: str, method: Method, make: Any, points: Sequence[Any], number: float = 0.0
    ) -> Part:
        return Part(
            name,
            label,
            method.plain_steps(settings.num_steps) * len(points) * settings.num_seeds,
            common | {"points": points, "number": number, "share": method.share},
            functools.partial(train_points, make, points, settings, data, method.share),
        )

    for key in settings.inner:
        label, inner = INNER[key]
        for name, number in NUMBERS.items():
            make: Any = functools.partial(_from_start, METHODS[name], inner, number)
            yield part(f"{key}-{name}", label, METHODS[name], make, settings.starts, number)
        for name in BASELINES:
            make = maker(f"{name}_tuned", inner, None, settings.num_steps)
            yield part(f"{key}-{name}", label, METHODS[f"{name}_tuned"], make, settings.grid)
        make = functools.partial(_of_its_own, inner)
        yield part(f"{key}-auto-alone", label, METHODS["auto"], make, (0.0,))
    pairs = [(start, discount) for start in settings.starts for discount in settings.discounts]
    for beta in settings.betas:
        make = functools.partial(_fixed, beta, INNER[settings.sensitive_inner][1])
        method = METHODS["marthe_fixed"]
        yield part(f"sensitivity-{beta:g}", "sensitivity to μ", method, make, pairs)


def outcomes(results: Results) -> Outcomes:
    """Puts together what came of the parts."""
    settings, data, _ = results
    cell = functools.partial(results.read, kind=Cell)
    return Outcomes(
        settings,
        data,
        methods={
            key: {name: cell(f"{key}-{name}") for name in (*NUMBERS, *BASELINES)}
            for key in settings.inner
        },
        auto_alone={key: cell(f"{key}-auto-alone") for key in settings.inner},
        sensitivity={beta: cell(f"sensitivity-{beta:g}") for beta in settings.betas},
    )


def train_points(
    make: Any,
    points: Sequence[Any],
    settings: Settings,
    data: Data,
    share: float | None,
    work: Work,
) -> Cell:
    """Trains every point on every seed, as lanes of one program."""
    seeds = range(settings.num_seeds)
    of_lanes = [(seed, point) for point in points for seed in seeds]
    lanes = training.lanes_maker(settings, data)(*zip(*of_lanes, strict=True))
    trained = training.train(make, data, lanes, share=share, on_progress=work.advance)
    found = training.scores(trained, data.num_classes)
    return Cell(*(found[name].reshape(len(points), len(seeds)) for name in Cell._fields))


def _from_start(method: Method, inner: Any, number: float, start: Any) -> Any:
    assert method.online is not None
    return method.online(inner, start, number)


def _of_its_own(inner: Any, point: Any) -> Any:
    del point  # auto finds its own first rate
    return _from_start(METHODS["auto"], inner, 0.0, None)


def _fixed(beta: float, inner: Any, start_and_discount: Any) -> Any:
    start, discount = start_and_discount
    return marthe_fixed(inner, start, beta, discount)


EXPERIMENT = Experiment(
    name="robustness",
    title="Starting from learning rates that are far too small or too large",
    presets=PRESETS,
    load=datasets.load,
    parts=parts,
    summarize=lambda results: summary.summarize(outcomes(results)),
    figures=lambda results: figures.figures(outcomes(results)),
    table=summary.table,
    unit_seconds=training.seconds_per_step,
)
