"""LRS-OPT on the digits: a whole schedule by the exact gradient of the final validation loss."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperlr import offline
from hyperlr.experiments import training
from hyperlr.experiments.core.experiment import Work
from hyperlr.experiments.core.store import open_checkpoints
from hyperlr.experiments.data import Data, split_indices
from hyperlr.experiments.digits.log_space import smoothed_log_adam
from hyperlr.experiments.methods import following
from hyperlr.experiments.networks import mlp
from hyperlr.schedules import from_array


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


def optimize(
    data: Data, seed: int, start: np.ndarray, settings: Settings, lanes: training.Lanes, work: Work
) -> Optimized:
    """Optimizes the schedule of one seed, from the last checkpoint where there is one.

    The initial weights and the split are those of the online methods' lanes, here the one lane of
    the seed; the minibatches are drawn afresh for every outer iteration. The schedule to start from
    is float32 [T], and positive.
    """
    num_iterations = settings.num_iterations
    rule = smoothed_log_adam(settings.distance, num_iterations, settings.width)
    params = jax.tree.map(lambda x: x[0], lanes.params)
    train, val = (
        (jnp.asarray(data.images[indices]), jnp.asarray(data.labels[indices]))
        for indices in split_indices(data, seed)
    )
    # Not the key of the initial weights.
    key = jax.random.fold_in(jax.random.key(seed), 1)
    batch_size = lanes.train_batches.shape[2]
    step = functools.partial(_outer_step, rule, batch_size, params, train, val, key)
    ends = [*range(0, num_iterations, settings.evaluate_every), num_iterations]
    run, done = _start(start, rule, num_iterations, len(ends)), 0
    with open_checkpoints(work.checkpoints) as checkpoints:
        restored = checkpoints.restore(run)
        if restored is not None:
            done, run = restored
            run = run._replace(  # to be written to
                objectives=np.array(run.objectives),
                curve=np.array(run.curve),
                seconds=np.array(run.seconds),
            )
            work.advance(done / num_iterations)
        first = ends.index(done) + (restored is not None)
        for index, end in enumerate(ends[first:], start=first):
            for iteration in range(done, end):
                begun = time.perf_counter()
                state, record = jax.block_until_ready(step(run.state))
                run.objectives[iteration] = record.value
                run.seconds[0] += time.perf_counter() - begun
                run = run._replace(state=state)
                work.advance(1 / num_iterations)
            done, begun = end, time.perf_counter()
            run = _evaluated(run, index, done, follow(data, lanes, run.state.schedule))
            run.seconds[1] += time.perf_counter() - begun
            if end < num_iterations:
                checkpoints.save(end, run)
    return Optimized(
        start=np.asarray(start, np.float32),
        trained=follow(data, lanes, run.best_schedule),
        curve=Curve(*run.curve.T),
        objectives=run.objectives,
        num_skipped=int(run.state.num_skipped),
        seconds=float(run.seconds.sum()),
    )


def follow(data: Data, lanes: training.Lanes, schedule: Any) -> training.Trained:
    """Trains one lane with a given schedule [T], by plain gradient descent."""
    lanes = lanes._replace(step_sizes=jnp.asarray(schedule, jnp.float32)[None])
    return training.train(_following, data, lanes)


def _following(schedule: jax.Array) -> optax.GradientTransformationExtraArgs:
    return following(optax.sgd, from_array(schedule))


class _Run(NamedTuple):
    """An optimization on its way, which is also its checkpoint; its NumPy arrays are written to."""

    state: offline.OuterState
    objectives: np.ndarray
    """float32 [iterations], E of every outer iteration; NaN of those to come."""
    curve: np.ndarray
    """float32 [C, 5], rows of `Curve`; NaN of those to come."""
    best_schedule: jax.Array
    best_loss: Any
    """Its validation loss; infinite before the first evaluation."""
    seconds: np.ndarray
    """float32 [2], wall time of the iterations, and of the evaluations."""


def _start(
    start: np.ndarray, rule: optax.GradientTransformation, num_iterations: int, num_points: int
) -> _Run:
    schedule = jnp.asarray(start, jnp.float32)
    return _Run(
        state=offline.init_outer_state(schedule, rule),
        objectives=np.full(num_iterations, np.nan, np.float32),
        curve=np.full((num_points, len(Curve._fields)), np.nan, np.float32),
        best_schedule=schedule,
        best_loss=np.float32(np.inf),
        seconds=np.zeros(2, np.float32),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outer_step(
    rule: optax.GradientTransformation,
    batch_size: int,
    params: mlp.Params,
    train: tuple[jax.Array, jax.Array],
    val: tuple[jax.Array, jax.Array],
    key: jax.Array,
    state: offline.OuterState,
) -> tuple[offline.OuterState, offline.OuterRecord]:
    """One outer iteration; all arrays are arguments, so that all seeds share the program."""
    num_steps = len(jax.tree.leaves(state.schedule)[0])
    everything = jnp.arange(len(val[1]))
    return offline.outer_step(
        optax.sgd,
        params,
        state,
        lambda key: epoch_batches(key, len(train[1]), num_steps, batch_size),
        lambda params, batch: training.loss_fn(params, *train, batch),
        lambda params: training.loss_fn(params, *val, everything),
        optimizer=rule,
        key=key,
    )


def epoch_batches(key: jax.Array, num_images: int, num_steps: int, batch_size: int) -> jax.Array:
    """Draws minibatches [num_steps, batch_size] as `batches.epoch_batches`, but in a jit."""
    num_needed = num_steps * batch_size
    num_epochs = -(-num_needed // num_images)
    shuffle = jax.vmap(lambda key: jax.random.permutation(key, num_images))
    epochs = shuffle(jax.random.split(key, num_epochs))
    return epochs.reshape(-1)[:num_needed].reshape(num_steps, batch_size)


def _evaluated(run: _Run, index: int, done: int, trained: training.Trained) -> _Run:
    """Writes a point of the curve, and keeps the schedule if none before was as good."""
    loss = trained.val_loss[0, -1]
    accuracies = trained.val_accuracy[0, -1], loss, trained.test_accuracy[0]
    run.curve[index] = (done, run.seconds[0], *accuracies)
    if loss < run.best_loss:
        run = run._replace(best_schedule=jnp.asarray(run.state.schedule), best_loss=loss)
    return run
