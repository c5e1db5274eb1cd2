"""The search for a method's step size on the digits, kept on disk once it is done."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hyperlr
from hyperlr.experiments import parts, training
from hyperlr.experiments.data import Data
from hyperlr.experiments.methods import METHODS

NUM_SEEDS = 3
"""How many seeds a candidate must survive; no more than the experiment has."""
PREFIX = "search-"
"""Of the names of the files."""


class Plan(NamedTuple):
    """A search, and the file that keeps what came of it."""

    path: Path
    name: str
    """Key of METHODS."""
    candidates: tuple[float, ...]
    """β, κ or γ, [K], in ascending order."""
    seeds: tuple[int, ...]
    """A candidate has to survive all of them."""
    num_steps: int
    """N, how many first steps are made."""


class Search(NamedTuple):
    """What the first steps told of K candidates."""

    plan: Plan
    survived: np.ndarray
    """bool [K], without regard to the margin."""
    growth: np.ndarray
    """float [K], the largest loss over the first one; inf where a loss is not finite."""
    found: float
    """NaN where no candidate survived with the margin."""
    margin_seen: bool
    """Whether the candidates reach as far beyond the found one as the margin does."""
    seconds: float
    """Wall time, with compilation."""

    @property
    def step_size(self) -> float:
        """The step size that was found; the smallest candidate where none was."""
        return self.plan.candidates[0] if np.isnan(self.found) else self.found

    def neighbourhood(self, neighbours: int | None) -> tuple[float, ...]:
        """Returns that step size with so many candidates on each side; all of them with None."""
        candidates = self.plan.candidates
        if neighbours is None:
            return candidates
        place = candidates.index(self.step_size)
        return candidates[max(0, place - neighbours) : place + neighbours + 1]


def plan(
    name: str,
    candidates: Sequence[float],
    seeds: Sequence[int],
    num_steps: int,
    *,
    config: Mapping[str, Any],
    folder: Path,
) -> Plan:
    """Returns the plan of a search.

    Args:
      name: key of METHODS.
      candidates: β, κ or γ, in ascending order.
      seeds: those that a candidate must survive.
      num_steps: how many first steps are made.
      config: all else that determines the result.
      folder: where the result is kept.
    """
    identity = {
        **config,
        "method": name,
        "candidates": list(candidates),
        "margin": METHODS[name].margin,
        "search_seeds": list(seeds),
        "search_steps": num_steps,
    }
    path = parts.part_path(folder, f"{PREFIX}{name}", identity)
    return Plan(path, name, tuple(candidates), tuple(seeds), num_steps)


def load(plan: Plan) -> Search | None:
    """Returns the result of a search, or None where it has not been done.

    Raises:
      InputError: the file is damaged.
    """
    arrays = parts.load_part(plan.path)
    if arrays is None:
        return None
    return Search(
        plan,
        survived=arrays["survived"],
        growth=arrays["growth"],
        found=float(arrays["found"]),
        margin_seen=bool(arrays["margin_seen"]),
        seconds=float(arrays["seconds"]),
    )


def run(
    plan: Plan,
    images: Data,
    make_lanes: Callable[[Sequence[int], Sequence[float]], training.Lanes],
    *,
    at_once: int,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Search:
    """Searches for the largest step size with a margin to divergence, unless that has been done.

    Args:
      plan: what to search.
      images: the data.
      make_lanes: makes lanes from seeds and step sizes.
      at_once: how many lanes fit in memory.
      on_progress: called with the number of steps, over all lanes.

    Raises:
      InputError: the file of a search that was done is damaged.
    """
    done = load(plan)
    if done is not None:
        return done
    start = time.perf_counter()
    first_steps = _first_steps(plan, images, make_lanes(plan.seeds, [0.0] * len(plan.seeds)))
    try:
        result = hyperlr.find_step_size(
            first_steps,
            plan.candidates,
            margin=METHODS[plan.name].margin,
            batch_size=max(1, at_once // len(plan.seeds)),
        )
    except hyperlr.NoSurvivorError as error:
        result = error.result  # The method is shown as diverged, and the others go on.
    losses = np.asarray(result.losses)
    growth = losses.max(axis=1) / losses[:, 0]
    found = Search(
        plan,
        survived=np.asarray(result.survived),
        growth=np.where(np.isfinite(growth), growth, np.inf),
        found=result.value,
        margin_seen=result.margin_seen,
        seconds=time.perf_counter() - start,
    )
    arrays = {name: np.asarray(x) for name, x in found._asdict().items() if name != "plan"}
    parts.save_part(plan.path, arrays | {"losses": losses})
    on_progress(plan.num_steps * len(plan.seeds) * len(plan.candidates))
    return found


def _first_steps(
    plan: Plan, images: Data, lanes: training.Lanes
) -> Callable[[jax.Array], jax.Array]:
    """Returns what a search asks for: the losses of the first steps, a function of a step size."""
    make_optimizer = METHODS[plan.name].make
    pixels, labels = jnp.asarray(images.images), jnp.asarray(images.labels)
    train_batches, val_batches = (
        jnp.asarray(indices[:, : plan.num_steps])
        for indices in (lanes.train_batches, lanes.val_batches)
    )
    over_seeds = jax.vmap(
        functools.partial(training.train_steps, make_optimizer),
        in_axes=(0, 0, None, None, None, 0, 0),
    )

    def first_steps(step_size: jax.Array) -> jax.Array:
        state = jax.vmap(make_optimizer(step_size).init)(lanes.params)
        *_, records = over_seeds(
            lanes.params, state, step_size, pixels, labels, train_batches, val_batches
        )
        finite = jnp.isfinite(records["learning_rate"])
        losses = jnp.where(finite, records["train_loss"], jnp.nan)
        return jnp.max(losses, axis=0)  # of the seed that does worst; NaN prevails

    return first_steps
