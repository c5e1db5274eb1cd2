"""One online method over a grid of step sizes and seeds, all of it by one compiled program."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyperlr.experiments import parts, training
from hyperlr.experiments.data import Data
from hyperlr.experiments.methods import METHODS

# What the weights, the tangent, the gradients and their temporaries take, in copies of the weights.
_COPIES_OF_WEIGHTS = 12
_MEMORY = 1_000_000_000  # bytes


class Part(NamedTuple):
    """Lanes that are trained side by side, and the file that keeps what came of them."""

    path: Path
    lanes: tuple[tuple[float, int], ...]
    """The step size and the seed of every lane."""


class Grid(NamedTuple):
    """What one method did on G step sizes and S seeds."""

    step_sizes: tuple[float, ...]
    """[G]."""
    trained: training.Trained
    """G * S lanes: the seeds of the first step size, then those of the next."""
    seconds: float
    """Wall time, with compilation."""

    def by_size(self, lanes: np.ndarray) -> np.ndarray:
        """Returns an array of G * S lanes as [G, S, ...]."""
        return lanes.reshape(len(self.step_sizes), -1, *lanes.shape[1:])


def plan(
    name: str,
    step_sizes: Sequence[float],
    seeds: Sequence[int],
    *,
    at_once: int,
    config: Mapping[str, Any],
    folder: Path,
) -> list[Part]:
    """Divides every pair of a step size and a seed into parts of at most so many lanes.

    All parts have the same number of lanes, and so share one compiled program; the last lane is
    repeated to fill up the last part.

    Args:
      name: key of METHODS.
      step_sizes: β, κ or γ, [G].
      seeds: the seeds, [S].
      at_once: how many lanes fit in memory.
      config: all else that determines the results.
      folder: where the parts are kept.
    """
    pairs = [(size, seed) for size in step_sizes for seed in seeds]
    length = math.ceil(len(pairs) / math.ceil(len(pairs) / at_once))
    pairs += pairs[-1:] * (-len(pairs) % length)
    planned = []
    for start in range(0, len(pairs), length):
        lanes = tuple(pairs[start : start + length])
        path = parts.part_path(folder, name, {**config, "method": name, "lanes": lanes})
        planned.append(Part(path, lanes))
    return planned


def run(
    name: str,
    images: Data,
    step_sizes: Sequence[float],
    planned: Sequence[Part],
    make_lanes: Callable[[Sequence[int], Sequence[float]], training.Lanes],
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Grid:
    """Trains the parts that are not finished; each is stored as soon as it is.

    Args:
      name: key of METHODS.
      images: the data.
      step_sizes: those that `planned` was made for.
      planned: what `plan` returned.
      make_lanes: makes lanes from seeds and step sizes.
      on_progress: called with the number of steps made since the last call, over all lanes.
    """
    finished = []
    for part in planned:
        arrays = parts.load_part(part.path)
        if arrays is None:
            start = time.perf_counter()
            sizes, seeds = zip(*part.lanes, strict=True)
            advance = functools.partial(_scaled, on_progress, len(part.lanes))
            trained = training.train(
                METHODS[name].make, images, make_lanes(seeds, sizes), on_progress=advance
            )
            arrays = to_arrays(trained) | {"seconds": np.asarray(time.perf_counter() - start)}
            parts.save_part(part.path, arrays)
        finished.append(arrays)
    trained = training.concatenate([from_arrays(arrays) for arrays in finished])
    # Without the lanes that fill up the last part.
    num_pairs = len(dict.fromkeys(pair for part in planned for pair in part.lanes))
    return Grid(
        tuple(step_sizes),
        training.select(trained, slice(num_pairs)),
        sum(float(arrays["seconds"]) for arrays in finished),
    )


def best(grid: Grid, num_classes: int) -> int:
    """Returns the place of the step size with the best mean validation accuracy.

    A network that diverged counts with accuracy 0.
    """
    return int(np.argmax(mean_accuracies(grid, num_classes, diverged_as=0.0)))


def mean_accuracies(grid: Grid, num_classes: int, diverged_as: float = np.nan) -> np.ndarray:
    """Returns the validation accuracy of every step size, [G], a mean over the seeds.

    Args:
      grid: what the method did.
      num_classes: number of classes.
      diverged_as: what a network that diverged counts for; with NaN, one of them makes the mean
        NaN.
    """
    lost = grid.by_size(training.diverged(grid.trained, num_classes))
    accuracies = grid.by_size(grid.trained.val_accuracy[:, -1])
    return np.where(lost, diverged_as, accuracies).mean(axis=1)


def at_size(grid: Grid, place: int) -> training.Trained:
    """Returns the lanes of one step size, one a seed."""
    num_seeds = len(grid.trained.test_loss) // len(grid.step_sizes)
    return training.select(grid.trained, slice(place * num_seeds, (place + 1) * num_seeds))


def lanes_at_once(images: Data, hidden_widths: Sequence[int]) -> int:
    """Returns how many networks are trained side by side, at least one."""
    widths = (images.images.shape[1], *hidden_widths, images.num_classes)
    num_weights = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))
    return max(1, _MEMORY // (4 * num_weights * _COPIES_OF_WEIGHTS))


def to_arrays(trained: training.Trained) -> dict[str, np.ndarray]:
    """Returns the arrays of lanes as one flat dict, for a file."""
    arrays = {f"records/{name}": values for name, values in trained.records.items()}
    return arrays | {
        name: values for name, values in trained._asdict().items() if name != "records"
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> training.Trained:
    """Returns the lanes that `to_arrays` made a dict of; it may hold other arrays, too."""
    records = {
        name.removeprefix("records/"): values
        for name, values in arrays.items()
        if name.startswith("records/")
    }
    others = {name: arrays[name] for name in training.Trained._fields if name != "records"}
    return training.Trained(records=records, **others)


def _scaled(on_progress: Callable[[int], None], factor: int, steps: int) -> None:
    on_progress(factor * steps)
