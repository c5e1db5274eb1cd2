"""One method with several numbers: the search for one, and training side by side in groups."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hyperlr
from hyperlr.experiments import training
from hyperlr.experiments.core.experiment import Arrays, unpack
from hyperlr.experiments.data import Data


class Grid(NamedTuple):
    """What one method did with G numbers on S seeds."""

    numbers: tuple[float, ...]
    """β, κ, γ or η, [G]."""
    trained: training.Trained
    """G * S lanes: the seeds of the first number, then those of the next."""
    seconds: float
    """Wall time, with compilation."""

    def by_number(self, lanes: np.ndarray) -> np.ndarray:
        """Returns an array of G * S lanes as [G, S, ...]."""
        return lanes.reshape(len(self.numbers), -1, *lanes.shape[1:])

    def at(self, index: int) -> training.Trained:
        """Returns the lanes of one number, one a seed."""
        num_seeds = len(self.trained.test_loss) // len(self.numbers)
        return training.select(self.trained, slice(index * num_seeds, (index + 1) * num_seeds))

    def mean_accuracies(self, num_classes: int, diverged_as: float = np.nan) -> np.ndarray:
        """Returns the validation accuracy of every number, [G], a mean over the seeds.

        A network that diverged counts as `diverged_as`; with NaN, one of them makes the mean NaN.
        """
        lost = self.by_number(training.diverged(self.trained, num_classes))
        accuracies = self.by_number(self.trained.val_accuracy[:, -1])
        return np.where(lost, diverged_as, accuracies).mean(axis=1)

    def best(self, num_classes: int) -> int:
        """Returns the index of the best mean validation accuracy; divergence counts as 0."""
        return int(np.argmax(self.mean_accuracies(num_classes, diverged_as=0.0)))


def search(
    make: training.MakeOptimizer,
    data: Data,
    lanes: training.Lanes,
    candidates: Sequence[float],
    *,
    margin: float,
    at_once: int,
) -> Arrays:
    """Searches for the largest β, κ or γ with a margin to divergence, on some seeds.

    Args:
      make: makes the method from its number.
      data: the digits.
      lanes: one a seed; a candidate has to survive all of them, for as many steps as they have.
      candidates: K numbers, in ascending order.
      margin: how many times as large as the one that is found a number must not diverge either.
      at_once: how many lanes fit in memory.

    Returns:
      `found` (NaN where no candidate survived with the margin) and `number`, which is the smallest
      candidate there; `survived`, bool [K], without regard to the margin; `growth`, float [K], the
      largest loss over the first one, inf where a loss is not finite; and `margin_seen`, whether
      the candidates reach as far beyond the one that was found as the margin does.
    """
    arrays = data.images, data.labels, lanes.train_batches, lanes.val_batches
    arguments = tuple(map(jnp.asarray, arrays))
    over_seeds = jax.vmap(
        functools.partial(training.train_steps, make), in_axes=(0, 0, None, None, None, 0, 0)
    )

    def first_steps(number: jax.Array) -> jax.Array:
        state = jax.vmap(make(number).init)(lanes.params)
        *_, records = over_seeds(lanes.params, state, number, *arguments)
        finite = jnp.isfinite(records["learning_rate"])
        losses = jnp.where(finite, records["train_loss"], jnp.nan)
        return jnp.max(losses, axis=0)  # of the seed that does worst; NaN prevails

    try:
        result = hyperlr.find_step_size(
            first_steps,
            candidates,
            margin=margin,
            batch_size=max(1, at_once // len(lanes.train_batches)),
        )
    except hyperlr.NoSurvivorError as error:
        result = error.result  # The method is shown as diverged, and the others go on.
    losses = np.asarray(result.losses)
    growth = losses.max(axis=1) / losses[:, 0]
    return {
        "found": result.value,
        "number": candidates[0] if np.isnan(result.value) else result.value,
        "survived": np.asarray(result.survived),
        "growth": np.where(np.isfinite(growth), growth, np.inf),
        "margin_seen": result.margin_seen,
        "losses": losses,
    }


def neighbourhood(
    candidates: Sequence[float], number: float, neighbours: int | None
) -> tuple[float, ...]:
    """Returns a number with so many candidates on each side; all of them with None."""
    if neighbours is None:
        return tuple(candidates)
    index = list(candidates).index(number)
    return tuple(candidates[max(0, index - neighbours) : index + neighbours + 1])


def num_groups(num_lanes: int, at_once: int) -> int:
    """Returns into how many groups so many lanes are divided."""
    return math.ceil(num_lanes / at_once)


def lanes_of(
    numbers: Sequence[float], seeds: Sequence[int], group: int, at_once: int
) -> list[tuple[float, int]]:
    """Returns the (number, seed) of every lane of a group; none of one past the last.

    All groups have the same number of lanes, and so share one compiled program; the last lane is
    repeated to fill up the last group.
    """
    pairs = [(number, seed) for number in numbers for seed in seeds]
    length = math.ceil(len(pairs) / num_groups(len(pairs), at_once))
    lanes = pairs[group * length : (group + 1) * length]
    return lanes + lanes[-1:] * (length - len(lanes))


def train_group(
    make: training.MakeOptimizer,
    data: Data,
    pairs: Sequence[tuple[float, int]],
    make_lanes: Callable[[Sequence[int], Sequence[float]], training.Lanes],
    share: float | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> training.Trained | dict[str, np.ndarray]:
    """Trains the lanes of a group, as `lanes_of` gives them; an empty dict where it has none."""
    if not pairs:
        return {}
    numbers, seeds = zip(*pairs, strict=True)
    lanes = make_lanes(seeds, numbers)
    return training.train(make, data, lanes, share=share, on_progress=on_progress)


def collect(groups: Sequence[Arrays], numbers: tuple[float, ...], num_seeds: int) -> Grid:
    """Puts the groups of one method together again."""
    trained = training.concatenate(
        [unpack(training.Trained, arrays) for arrays in groups if "test_loss" in arrays]
    )
    return Grid(
        numbers,
        training.select(trained, slice(len(numbers) * num_seeds)),
        sum(float(arrays.get("seconds", 0.0)) for arrays in groups),
    )
