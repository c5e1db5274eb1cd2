"""Section 5 of the paper: what is trained on the digits, and what one method needs of another."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax

from hyperlr import optimizers
from hyperlr.experiments import data as datasets
from hyperlr.experiments import training
from hyperlr.experiments.core.experiment import Arrays, Experiment, Part, Results, Work
from hyperlr.experiments.data import Data
from hyperlr.experiments.digits import figures, grid, lrs_opt, summary
from hyperlr.experiments.digits.summary import Outcomes
from hyperlr.experiments.methods import LEARNING_RATE, METHODS, maker
from hyperlr.experiments.networks import mlp

SEARCH_SEEDS = 3
"""How many seeds a candidate must survive; no more than the experiment has."""

# All others move plain gradient descent from η_0 = 0.01, as in the paper.
_INNER: Mapping[str, tuple[Any, float | None]] = {
    "adam": (optax.adam, 1e-3),
    "auto": (optimizers.adam, None),
}


class Settings(NamedTuple):
    """Size of the experiment; the defaults are the paper's."""

    num_seeds: int
    """Seeds 0, 1, … of the split, the initial weights and the minibatches."""
    numbers: Mapping[str, tuple[float, ...]]
    """Key of METHODS → the candidates for its β, κ or γ, of which a search takes one, or rates, of
    which validation does; in ascending order. So also which methods are run; one without a number
    has (0.0,)."""
    lrs: lrs_opt.Settings | None
    """How LRS-OPT is run; None leaves it out."""
    num_steps: int = 512
    """T."""
    batch_size: int = 100
    """Images in a minibatch of L, and of E."""
    hidden_widths: tuple[int, ...] = mlp.HIDDEN_WIDTHS
    """Units of the hidden layers."""
    search_steps: int = 128
    """First steps in which a number must not diverge; no more than T of them are made."""
    neighbours: int | None = None
    """How many candidates on each side of the one that was found are trained to the end, too, to
    show how much depends on it; None: all."""

    @property
    def search_seeds(self) -> list[int]:
        """The seeds that a candidate must survive."""
        return list(range(min(SEARCH_SEEDS, self.num_seeds)))

    @property
    def lrs_seeds(self) -> list[int]:
        """The seeds of LRS-OPT."""
        return list(range(min(self.lrs.num_seeds, self.num_seeds))) if self.lrs else []


_NAMES = (
    "constant", "constant_tuned", "cosine_tuned", "adam", "hd", "rtho", "marthe_fixed",
    "marthe_mu", "marthe", "marthe_scale_free", "auto",
)  # fmt: skip
# From a schedule that is good already, few iterations do.
_QUICK_LRS = lrs_opt.Settings(
    num_seeds=1, start="marthe_scale_free", num_iterations=8, distance=1.25, evaluate_every=2
)
_QUICK = Settings(
    num_seeds=1,
    numbers={name: METHODS[name].coarse_grid or (0.0,) for name in _NAMES},
    lrs=_QUICK_LRS,
    neighbours=1,
)
PRESETS = {
    "smoke": _QUICK._replace(
        num_steps=16,
        batch_size=20,
        hidden_widths=(16,),
        search_steps=8,
        lrs=_QUICK_LRS._replace(num_iterations=2),
    ),
    "quick": _QUICK,
    "paper": Settings(
        num_seeds=20,
        numbers={name: METHODS[name].grid or (0.0,) for name in _NAMES},
        lrs=lrs_opt.Settings(
            num_seeds=4, start="constant", num_iterations=100, distance=4.5, evaluate_every=5
        ),
    ),
}


def parts(settings: Settings, data: Data) -> Iterator[Part]:
    """Yields the searches, the groups of lanes of each method, and a part for each LRS-OPT."""
    for name in settings.numbers:
        yield from _method_parts(name, settings, data)
    for seed in settings.lrs_seeds:
        yield _lrs_part(seed, settings, data)


def outcomes(results: Results) -> Outcomes:
    """Puts together what came of the parts."""
    settings, data, arrays = results
    grids, searches, chosen = {}, {}, {}
    for name in settings.numbers:
        grids[name], chosen[name] = _grid(settings, data, name, arrays)
        if _searched(name):
            searches[name] = arrays[f"search-{name}"]
    optimized = [results.read(f"lrs_opt-{seed}", lrs_opt.Optimized) for seed in settings.lrs_seeds]
    return Outcomes(settings, data, searches, grids, chosen, optimized)


def _grid(
    settings: Settings, data: Data, name: str, arrays: Mapping[str, Arrays]
) -> tuple[grid.Grid, int]:
    """Returns what a method did, and the index of the number that it is shown with."""
    numbers = _numbers(settings, name, arrays)
    groups = [arrays[each] for each in _groups(settings, data, name)]
    whole = grid.collect(groups, numbers, settings.num_seeds)
    if _searched(name):
        return whole, numbers.index(float(arrays[f"search-{name}"]["number"]))
    return whole, whole.best(data.num_classes) if METHODS[name].symbol else 0


def make_method(name: str, settings: Settings) -> training.MakeOptimizer:
    """Returns what makes a method from its number."""
    inner, rate = _INNER.get(name, (optax.sgd, LEARNING_RATE))
    return maker(name, inner, rate, settings.num_steps)


def _searched(name: str) -> bool:
    return bool(METHODS[name].symbol) and not METHODS[name].tuned


def _numbers(settings: Settings, name: str, arrays: Mapping[str, Arrays]) -> tuple[float, ...]:
    """Returns the numbers that a method is trained with, of which a search may have chosen."""
    candidates = settings.numbers[name]
    if not _searched(name):
        return candidates
    found = float(arrays[f"search-{name}"]["number"])
    return grid.neighbourhood(candidates, found, settings.neighbours)


def _num_lanes(settings: Settings, name: str) -> int:
    """Returns how many lanes a method has at most, before its numbers are known."""
    numbers = len(settings.numbers[name])
    if settings.neighbours is not None and _searched(name):
        numbers = min(numbers, 2 * settings.neighbours + 1)
    return numbers * settings.num_seeds


def _groups(settings: Settings, data: Data, name: str) -> list[str]:
    """Returns the names of the parts that hold the lanes of a method."""
    at_once = training.lanes_at_once(data, settings.hidden_widths)
    num_groups = grid.num_groups(_num_lanes(settings, name), at_once)
    return [f"{name}-{group}" for group in range(num_groups)]


def _method_parts(name: str, settings: Settings, data: Data) -> Iterator[Part]:
    method, make = METHODS[name], make_method(name, settings)
    candidates, seeds = settings.numbers[name], list(range(settings.num_seeds))
    at_once = training.lanes_at_once(data, settings.hidden_widths)
    make_lanes = training.lanes_maker(settings, data)
    determined_by = training.size_of(settings) | {
        "method": name,
        "learning_rate": _INNER.get(name, (None, LEARNING_RATE))[1],
        "candidates": candidates,
    }
    needs = {}
    if _searched(name):
        needs = {f"search-{name}": ["number"]}
        search_seeds, margin = settings.search_seeds, method.margin
        num_steps = min(settings.search_steps, settings.num_steps)

        def find(work: Work) -> Arrays:
            lanes = make_lanes(search_seeds, [0.0] * len(search_seeds))
            lanes = lanes._replace(
                train_batches=lanes.train_batches[:, :num_steps],
                val_batches=lanes.val_batches[:, :num_steps],
            )
            return grid.search(make, data, lanes, candidates, margin=margin, at_once=at_once)

        yield Part(
            f"search-{name}",
            f"{method.label}: {method.symbol}",
            method.plain_steps(num_steps) * len(candidates) * len(search_seeds),
            determined_by | {"seeds": search_seeds, "search_steps": num_steps, "margin": margin},
            find,
        )

    def train(group: int, work: Work) -> Any:
        pairs = grid.lanes_of(_numbers(settings, name, work.needed), seeds, group, at_once)
        return grid.train_group(make, data, pairs, make_lanes, method.share, work.advance)

    names = _groups(settings, data, name)
    for group, part in enumerate(names):
        yield Part(
            part,
            method.label,
            method.plain_steps(settings.num_steps) * _num_lanes(settings, name) / len(names),
            determined_by | {"seeds": seeds, "neighbours": settings.neighbours, "group": group},
            functools.partial(train, group),
            needs,
        )


def _lrs_part(seed: int, settings: Settings, data: Data) -> Part:
    how = settings.lrs
    assert how is not None
    needs: dict[str, list[str]] = {}
    if how.start in settings.numbers and how.start != "constant":
        arrays = ["records/learning_rate", *training.Trained._fields]
        needs = dict.fromkeys(_groups(settings, data, how.start), arrays)
        needs |= {f"search-{how.start}": ["number"]} if _searched(how.start) else {}

    def optimize(work: Work) -> lrs_opt.Optimized:
        start = np.full(settings.num_steps, LEARNING_RATE, np.float32)
        if work.needed:
            lanes, index = _grid(settings, data, how.start, work.needed)
            trained = lanes.at(index)
            # η_0 everywhere where that run diverged.
            if not training.diverged(trained, data.num_classes)[seed]:
                start = trained.records["learning_rate"][seed]
        lane = training.lanes_maker(settings, data)([seed], [start])
        return lrs_opt.optimize(data, seed, start, how, lane, work)

    return Part(
        f"lrs_opt-{seed}",
        f"LRS-OPT, seed {seed}",
        METHODS["lrs_opt"].cost * settings.num_steps * how.num_iterations,
        training.size_of(settings) | {"seed": seed, "lrs": how._replace(num_seeds=1)._asdict()},
        optimize,
        needs,
    )


EXPERIMENT = Experiment(
    name="mnist",
    title="Schedules of the learning rate on a small set of digits",
    presets=PRESETS,
    load=datasets.load,
    parts=parts,
    summarize=lambda results: summary.summarize(outcomes(results)),
    figures=lambda results: figures.figures(outcomes(results)),
    table=summary.table,
    unit_seconds=training.seconds_per_step,
)
