"""The search for a method's number, β, κ or γ: the largest with which the first steps go well."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import hyperlr
from hyperlr.experiments import training
from hyperlr.experiments.core.experiment import Arrays
from hyperlr.experiments.data import Data


def search(
    make: training.MakeOptimizer,
    data: Data,
    lanes: training.Lanes,
    candidates: Sequence[float],
    *,
    margin: float,
    at_once: int,
) -> Arrays:
    """Searches for the largest number with a margin to divergence, on some seeds.

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
