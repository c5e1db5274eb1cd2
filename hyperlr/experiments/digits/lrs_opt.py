"""LRS-OPT on the digits: a whole schedule by the exact gradient of the final validation loss."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperlr import offline
from hyperlr.experiments import grid, models, parts, training
from hyperlr.experiments.data import Data, split_indices
from hyperlr.experiments.log_space import smoothed_log_adam
from hyperlr.schedules import from_array

COST = 4.0
"""Time of a hypergradient, over that of as many plain steps as the schedule has."""


class Settings(NamedTuple):
    """How LRS-OPT is run."""

    num_seeds: int
    """Seeds 0, 1, …; no more than the experiment has."""
    start: str
    """The method whose schedule it starts from; "constant" starts from η_0 everywhere."""
    num_iterations: int
    """Outer iterations, each a hypergradient on fresh minibatches."""
    distance: float
    """How far log η can move."""
    evaluate_every: int
    """Outer iterations between two evaluations, each of which is also a checkpoint."""
    width: int = 31
    """Neighbours over which the hypergradient is averaged."""


class Curve(NamedTuple):
    """How good the schedule was on the way, at C evaluations, the first before any iteration.

    Each evaluation trains with the schedule as it is then, on the minibatches of the seed.
    """

    iterations: np.ndarray
    """int [C], outer iterations done."""
    seconds: np.ndarray
    """float [C], wall time of these iterations, evaluations left out."""
    val_accuracy: np.ndarray
    """float [C]."""
    val_loss: np.ndarray
    """float [C]."""
    test_accuracy: np.ndarray
    """float [C]."""


class Optimized(NamedTuple):
    """What LRS-OPT did on one seed."""

    start: np.ndarray
    """float32 [T], the schedule it started from."""
    trained: training.Trained
    """One lane, trained with the best schedule of the evaluations, by validation loss; that
    schedule is `records["learning_rate"]`."""
    curve: Curve
    objectives: np.ndarray
    """float [iterations], E on the fresh minibatches of every outer iteration."""
    num_skipped: int
    """Outer iterations whose hypergradient was not finite."""
    seconds: float
    """Wall time, with compilation and evaluations."""


def result_path(
    folder: Path, seed: int, start: np.ndarray, settings: Settings, config: Mapping[str, Any]
) -> Path:
    """Returns where the result of one seed is kept, whether it exists or not."""
    identity = {
        **config,
        "method": "lrs_opt",
        "seed": seed,
        "start": parts.data_digest(start),
        "settings": settings._replace(num_seeds=1)._asdict(),
    }
    return parts.part_path(folder, f"lrs_opt-seed{seed}", identity)


def optimize(
    images: Data,
    seed: int,
    start: np.ndarray,
    settings: Settings,
    make_lanes: Callable[[Sequence[int], Sequence[Any]], training.Lanes],
    path: Path,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> Optimized:
    """Optimizes the schedule of one seed, from where an interrupted run stopped.

    The initial weights and the split are those of the online methods' lanes; the minibatches are
    drawn afresh for every outer iteration.

    Args:
      images: the data.
      seed: settles the initial weights, the split and the draws.
      start: float32 [T], the schedule to start from, positive.
      settings: how LRS-OPT is run.
      make_lanes: makes lanes from seeds and schedules.
      path: where the result is kept, and beside it the last two checkpoints.
      on_progress: called with the number of outer iterations done since the last call.
    """
    stored = parts.load_part(path)
    if stored is not None:
        parts.remove_checkpoints(path)
        return _from_arrays(stored)
    lanes = make_lanes([seed], [start])
    rule = smoothed_log_adam(settings.distance, settings.num_iterations, settings.width)
    run = _resume(path, offline.init_outer_state(jnp.asarray(start, jnp.float32), rule))
    on_progress(len(run.objectives))
    step = _compiled_step(images, seed, lanes, rule)
    ends = [*range(0, settings.num_iterations, settings.evaluate_every), settings.num_iterations]
    for end in ends[len(run.curve) :]:
        while len(run.objectives) < end:
            run = _iterate(step, run)
            on_progress(1)
        begun = time.perf_counter()
        run = _evaluated(run, follow(images, lanes, run.state.schedule))
        seconds = run.evaluation_seconds + time.perf_counter() - begun
        run = run._replace(evaluation_seconds=seconds)
        if end < settings.num_iterations:
            parts.save_checkpoint(path, end, _run_to_arrays(run))
    optimized = Optimized(
        start=np.asarray(start, np.float32),
        trained=follow(images, lanes, run.best_schedule),
        curve=Curve(*np.asarray(run.curve).T),
        objectives=np.asarray(run.objectives),
        num_skipped=int(run.state.num_skipped),
        seconds=run.step_seconds + run.evaluation_seconds,
    )
    parts.save_part(path, _to_arrays(optimized))
    parts.remove_checkpoints(path)
    return optimized


def follow(images: Data, lanes: training.Lanes, schedule: Any) -> training.Trained:
    """Trains one lane with a given schedule [T], by plain gradient descent."""
    lanes = lanes._replace(step_sizes=jnp.asarray(schedule, jnp.float32)[None])
    trained = training.train(_following, images, lanes)
    return trained._replace(records=trained.records | {"learning_rate": np.asarray(schedule)[None]})


def _following(schedule: jax.Array) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(optax.sgd(from_array(schedule)))


class _Run(NamedTuple):
    """An optimization on its way."""

    state: offline.OuterState
    objectives: tuple[float, ...]
    """E of every outer iteration done."""
    curve: tuple[tuple[float, ...], ...]
    """Rows of `Curve`."""
    best_schedule: jax.Array
    best_loss: float
    """Its validation loss; infinite before the first evaluation."""
    step_seconds: float
    evaluation_seconds: float


def _compiled_step(
    images: Data, seed: int, lanes: training.Lanes, rule: optax.GradientTransformation
) -> Callable[[offline.OuterState], tuple[offline.OuterState, offline.OuterRecord]]:
    """Returns the outer iteration of one seed."""
    train_indices, val_indices = split_indices(images, seed)
    batch_size = lanes.train_batches.shape[2]
    arguments = (
        jax.tree.map(lambda x: x[0], lanes.params),
        jnp.asarray(images.images[train_indices]),
        jnp.asarray(images.labels[train_indices]),
        jnp.asarray(images.images[val_indices]),
        jnp.asarray(images.labels[val_indices]),
        # Not the key of the initial weights.
        jax.random.fold_in(jax.random.key(seed), 1),
    )
    return lambda state: _outer_step(rule, batch_size, state, *arguments)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outer_step(
    rule: optax.GradientTransformation,
    batch_size: int,
    state: offline.OuterState,
    params: models.Params,
    images: jax.Array,
    labels: jax.Array,
    val_images: jax.Array,
    val_labels: jax.Array,
    key: jax.Array,
) -> tuple[offline.OuterState, offline.OuterRecord]:
    """One outer iteration; all arrays are arguments, so that all seeds share the program."""
    num_steps = len(jax.tree.leaves(state.schedule)[0])
    everything = jnp.arange(len(val_labels))
    return offline.outer_step(
        optax.sgd,
        params,
        state,
        lambda key: epoch_batches(key, len(labels), num_steps, batch_size),
        lambda params, batch: training.loss_fn(params, images, labels, batch),
        lambda params: training.loss_fn(params, val_images, val_labels, everything),
        optimizer=rule,
        key=key,
    )


def epoch_batches(key: jax.Array, num_images: int, num_steps: int, batch_size: int) -> jax.Array:
    """Draws minibatches [num_steps, batch_size] as `batches.epoch_batches`, but inside a jit."""
    num_needed = num_steps * batch_size
    num_epochs = -(-num_needed // num_images)
    shuffle = jax.vmap(lambda key: jax.random.permutation(key, num_images))
    epochs = shuffle(jax.random.split(key, num_epochs))
    return epochs.reshape(-1)[:num_needed].reshape(num_steps, batch_size)


def _iterate(
    step: Callable[[offline.OuterState], tuple[offline.OuterState, offline.OuterRecord]],
    run: _Run,
) -> _Run:
    begun = time.perf_counter()
    state, record = jax.block_until_ready(step(run.state))
    return run._replace(
        state=state,
        objectives=(*run.objectives, float(record.value)),
        step_seconds=run.step_seconds + time.perf_counter() - begun,
    )


def _evaluated(run: _Run, trained: training.Trained) -> _Run:
    """Adds a point to the curve, and keeps the schedule if none before was as good."""
    loss = float(trained.val_loss[0, -1])
    accuracy, test_accuracy = float(trained.val_accuracy[0, -1]), float(trained.test_accuracy[0])
    point = (len(run.objectives), run.step_seconds, accuracy, loss, test_accuracy)
    run = run._replace(curve=(*run.curve, point))
    if loss < run.best_loss:
        run = run._replace(best_schedule=jnp.asarray(run.state.schedule), best_loss=loss)
    return run


def _resume(path: Path, fresh: offline.OuterState) -> _Run:
    """Returns the run of the last good checkpoint, or one that has not begun."""
    saved = parts.load_checkpoint(path)
    if saved is None:
        return _Run(fresh, (), (), jnp.asarray(fresh.schedule), np.inf, 0.0, 0.0)
    leaves, structure = jax.tree.flatten(fresh)
    leaves = [jnp.asarray(saved[f"state/{place}"]) for place in range(len(leaves))]
    return _Run(
        state=jax.tree.unflatten(structure, leaves),
        objectives=tuple(saved["objectives"].tolist()),
        curve=tuple(map(tuple, saved["curve"].tolist())),
        best_schedule=jnp.asarray(saved["best_schedule"]),
        best_loss=float(saved["best_loss"]),
        step_seconds=float(saved["step_seconds"]),
        evaluation_seconds=float(saved["evaluation_seconds"]),
    )


def _run_to_arrays(run: _Run) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves(run.state)
    return {f"state/{place}": np.asarray(leaf) for place, leaf in enumerate(leaves)} | {
        "objectives": np.asarray(run.objectives),
        "curve": np.asarray(run.curve),
        "best_schedule": np.asarray(run.best_schedule),
        "best_loss": np.asarray(run.best_loss),
        "step_seconds": np.asarray(run.step_seconds),
        "evaluation_seconds": np.asarray(run.evaluation_seconds),
    }


def _to_arrays(optimized: Optimized) -> dict[str, np.ndarray]:
    return {
        "start": optimized.start,
        "objectives": optimized.objectives,
        "num_skipped": np.asarray(optimized.num_skipped),
        "seconds": np.asarray(optimized.seconds),
        **{f"curve/{name}": values for name, values in optimized.curve._asdict().items()},
        **grid.to_arrays(optimized.trained),
    }


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Optimized:
    return Optimized(
        start=arrays["start"],
        trained=grid.from_arrays(arrays),
        curve=Curve(*(arrays[f"curve/{name}"] for name in Curve._fields)),
        objectives=arrays["objectives"],
        num_skipped=int(arrays["num_skipped"]),
        seconds=float(arrays["seconds"]),
    )
