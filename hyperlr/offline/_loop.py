"""Outer iterations as a Python loop: with a callback, and with checkpoints on disk."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hyperlr import _files
from hyperlr.offline._outer_step import OuterRecord
from hyperlr.offline._progress import History, Progress

Step = Callable[[Progress, None], tuple[Progress, OuterRecord]]
Callback = Callable[[OuterRecord], Any]

# Changes when a checkpoint of this version can no longer be read.
_FORMAT = "3"


def run(
    step: Step,
    progress: Progress,
    num_iterations: int,
    callback: Callback | None,
    checkpoint_dir: str | os.PathLike[str] | None,
    checkpoint_every: int,
    identity: Mapping[str, Any],
) -> tuple[Progress, History]:
    """Iterates ``step`` up to ``num_iterations``, from the last checkpoint if there is one.

    ``identity`` holds what else makes the run the one that it is, besides its initial state.
    """
    history = History([], [])
    if checkpoint_dir is None:
        return _iterate(step, progress, history, num_iterations, callback, lambda *_: None)
    problem = {
        "format": _FORMAT,
        "schedule": _files.describe(progress.state.schedule),
        "optimizer state": _files.describe(progress.state.optimizer_state),
        "starting point": _files.digest(progress.state),
    } | {name: _files.digest(tree) for name, tree in identity.items()}

    with _files.open_directory(checkpoint_dir) as manager:
        found = _files.restore_latest(
            manager,
            lambda done: (progress, _arrays(History([0.0] * done, [0.0] * done))),
            problem,
        )
        if found is not None:
            done, (progress, arrays) = found
            if done > num_iterations:
                raise ValueError(
                    f"checkpoint_dir {checkpoint_dir} holds a run of {done} iterations, more than "
                    f"num_iterations = {num_iterations}: pass at least {done}, or another directory"
                )
            history = History(*(x.tolist() for x in arrays))

        def save(progress: Progress, history: History, is_last: bool) -> None:
            done = len(history.values)
            if is_last or done % checkpoint_every == 0:
                _files.save(manager, done, (progress, _arrays(history)), problem)

        return _iterate(step, progress, history, num_iterations, callback, save)


def _iterate(
    step: Step,
    progress: Progress,
    history: History,
    num_iterations: int,
    callback: Callback | None,
    save: Callable[[Progress, History, bool], None],
) -> tuple[Progress, History]:
    """The loop itself; the callback comes before the checkpoint, so that it misses no iteration."""
    for _ in range(len(history.values), num_iterations):
        evaluated = progress.state.schedule
        # A scan of one step, not a jit: data that the step closes over are then arguments of the
        # compiled program, not constants inside it.
        progress, records = jax.lax.scan(step, progress, None, length=1)
        record = _on_host(records, evaluated)
        history.values.append(record.value)
        history.hypergradient_norms.append(record.hypergradient_norm)
        is_last = callback is not None and _is_true(callback(record))
        save(progress, history, is_last or len(history.values) == num_iterations)
        if is_last:
            break
    return progress, history


def _on_host(records: OuterRecord, evaluated: Any) -> OuterRecord:
    """The only one of ``records`` in Python's numbers, brought over at once, and its schedule."""
    numbers = jax.device_get(records._replace(schedule={}))
    record = jax.tree.map(lambda x: x.item(), numbers)
    return record._replace(schedule=evaluated)


def _is_true(answer: Any) -> bool:
    """Whether it is a ``True`` of Python, NumPy or JAX; a number, as ``write`` returns, is not."""
    is_bool = isinstance(answer, bool) or getattr(answer, "dtype", None) == jnp.bool_
    return is_bool and bool(answer)


def _arrays(history: History) -> History:
    return History(*(jnp.asarray(x, jnp.result_type(float)) for x in history))
