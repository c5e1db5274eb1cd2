"""Outer iterations as a Python loop: with a callback, and with checkpoints on disk."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyperlr import _files
from hyperlr.offline._outer_step import OuterRecord, OuterState

Step = Callable[[OuterState, None], tuple[OuterState, OuterRecord]]

# Changes when a checkpoint of this version can no longer be read.
_FORMAT = "2"


class History(NamedTuple):
    """Values and norms of the iterations so far: lists of floats, or arrays."""

    values: Any
    hypergradient_norms: Any


def run(
    step: Step,
    state: OuterState,
    num_iterations: int,
    callback: Callable[[OuterRecord], None] | None,
    checkpoint_dir: str | os.PathLike[str] | None,
    checkpoint_every: int,
    identity: Mapping[str, Any],
) -> tuple[OuterState, History]:
    """Iterates ``step`` up to ``num_iterations``, from the last checkpoint if there is one.

    ``identity`` holds what else makes the run the one that it is, besides its initial state.
    """
    history = History([], [])
    if checkpoint_dir is None:
        return _iterate(step, state, history, num_iterations, callback, lambda *_: None)
    problem = {
        "format": _FORMAT,
        "schedule": _files.describe(state.schedule),
        "optimizer state": _files.describe(state.optimizer_state),
        "starting point": _files.digest(state),
    } | {name: _files.digest(tree) for name, tree in identity.items()}

    with _files.open_directory(checkpoint_dir) as manager:
        found = _files.restore_latest(
            manager,
            lambda done: (state, _arrays(History([0.0] * done, [0.0] * done))),
            problem,
        )
        if found is not None:
            done, (state, arrays) = found
            if done > num_iterations:
                raise ValueError(
                    f"checkpoint_dir {checkpoint_dir} holds a run of {done} iterations, more than "
                    f"num_iterations = {num_iterations}: pass at least {done}, or another directory"
                )
            history = History(*(x.tolist() for x in arrays))

        def save(state: OuterState, history: History) -> None:
            done = len(history.values)
            if done % checkpoint_every == 0 or done == num_iterations:
                _files.save(manager, done, (state, _arrays(history)), problem)

        return _iterate(step, state, history, num_iterations, callback, save)


def _iterate(
    step: Step,
    state: OuterState,
    history: History,
    num_iterations: int,
    callback: Callable[[OuterRecord], None] | None,
    save: Callable[[OuterState, History], None],
) -> tuple[OuterState, History]:
    """The loop itself; the callback comes before the checkpoint, so that it misses no iteration."""
    for _ in range(len(history.values), num_iterations):
        # A scan of one step, not a jit: data that the step closes over are then arguments of the
        # compiled program, not constants inside it.
        state, records = jax.lax.scan(step, state, None, length=1)
        record = _on_host(jax.tree.map(lambda x: x[0], records))
        history.values.append(record.value)
        history.hypergradient_norms.append(record.hypergradient_norm)
        if callback is not None:
            callback(record)
        save(state, history)
    return state, history


def _on_host(record: OuterRecord) -> OuterRecord:
    """The record with Python numbers; its schedule stays as it is."""
    return OuterRecord(
        iteration=int(record.iteration),
        value=float(record.value),
        schedule=record.schedule,
        hypergradient_norm=float(record.hypergradient_norm),
        skipped=bool(record.skipped),
        num_skipped=int(record.num_skipped),
    )


def _arrays(history: History) -> History:
    return History(*(jnp.asarray(x, jnp.result_type(float)) for x in history))
