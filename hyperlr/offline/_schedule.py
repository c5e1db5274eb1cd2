"""A schedule of hyperparameters: an array [T] of learning rates, or a dict of arrays [T]."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hyperlr import _trees
from hyperlr._inner_step import Hyperparams
from hyperlr._trees import Tree

Schedule = jax.Array | Mapping[str, jax.Array]


def as_hyperparams(schedule: Schedule) -> Hyperparams:
    """The schedule as a dict of arrays [T] in at least float32; an error if it is none."""
    remedy = "pass an array [T] of learning rates, or a dict of arrays [T], all of one length"
    named = schedule if isinstance(schedule, Mapping) else {"learning_rate": schedule}
    if not named:
        raise ValueError(f"schedule is an empty dict: {remedy}")
    for name, values in named.items():
        label = f"schedule[{name!r}]" if isinstance(schedule, Mapping) else "schedule"
        if callable(values):
            raise TypeError(
                f"{label} must be an array, got a function of the step: pass its values, "
                "jax.vmap(schedule)(jnp.arange(T))"
            )
        if not hasattr(values, "dtype") or not _trees.is_float(values):
            raise TypeError(f"{label} must be a floating-point array, got {values!r}: {remedy}")
        if len(values.shape) != 1 or values.shape[0] == 0:
            raise ValueError(
                f"{label} must have shape [T] with T ≥ 1, got {values.shape}: {remedy}"
            )
    lengths = {name: values.shape[0] for name, values in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"schedule has arrays of different lengths, {lengths}: {remedy}")
    return {
        name: jnp.asarray(values, _trees.accumulation_dtype(values))
        for name, values in named.items()
    }


def check_leading_axis(name: str, tree: Tree, length: int) -> None:
    """Raises unless every leaf of ``tree`` has ``length`` entries along its first axis."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.shape(leaf)[:1] != (length,):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, but the schedule "
                f"has T = {length} steps: stack one minibatch for each step along the first axis"
            )


def project(schedule: Schedule) -> Schedule:
    """The schedule with learning rates max(η, 0): all of it, or the entry of a dict so named."""

    def projected(path: tuple[Any, ...], values: jax.Array) -> jax.Array:
        name = getattr(path[0], "key", "learning_rate") if path else "learning_rate"
        return jnp.maximum(values, 0) if name == "learning_rate" else values

    return jax.tree_util.tree_map_with_path(projected, schedule)
