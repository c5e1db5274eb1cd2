"""Training of many networks side by side: one lane a (step size, seed), one program for all.

Nothing here knows of seeds or methods: `make_optimizer` turns a traced step size into an optimizer,
and every array of `Lanes` leads with the lane, so that a grid of step sizes and seeds is only more
lanes.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hyperlr
from hyperlr.experiments.data import Data, as_inputs, batches, split_indices
from hyperlr.experiments.methods import following, step_records
from hyperlr.experiments.networks import mlp

MakeOptimizer = Callable[[Any], optax.GradientTransformationExtraArgs]

# What the weights, the tangent, the gradients and their temporaries take, in copies of the weights.
_COPIES_OF_WEIGHTS = 12
_MEMORY = 1_000_000_000  # bytes
_TIMED_STEPS = 8


class Lanes(NamedTuple):
    """What differs between the networks that are trained side by side; K lanes."""

    params: mlp.Params
    """Initial weights, each array [K, ...]."""
    step_sizes: jax.Array
    """float32 [K]: β, κ or γ; or [K, ...], whatever else `make_optimizer` takes."""
    train_batches: np.ndarray
    """int32 [K, T, batch], indices into the images."""
    val_batches: np.ndarray
    """int32 [K, T, batch], indices into the images: the minibatch of E at every step."""
    val_indices: np.ndarray
    """int32 [K, num_val], indices of the whole validation set."""


class Trained(NamedTuple):
    """What came out of K lanes."""

    records: dict[str, np.ndarray]
    """Scalars of every step, [K, T] each; `learning_rate` is the schedule."""
    curve_steps: np.ndarray
    """int [C], after how many steps the validation set was evaluated; the last is T."""
    val_loss: np.ndarray
    """float32 [K, C]."""
    val_accuracy: np.ndarray
    """float32 [K, C], NaN where the network is not finite."""
    test_loss: np.ndarray
    """float32 [K]."""
    test_accuracy: np.ndarray
    """float32 [K]."""


def make_lanes(
    data: Data,
    seeds: Sequence[int],
    step_sizes: Sequence[Any],
    *,
    num_steps: int,
    batch_size: int,
    hidden_widths: Sequence[int],
) -> Lanes:
    """Prepares one lane for each pair of a seed and a step size.

    A seed settles the split, the initial weights and the progression of the minibatches, so that
    whatever is trained with it starts from the same point and sees the same images.
    The T = `num_steps` of each have `batch_size` images.
    """
    widths = (data.images.shape[1], *hidden_widths, data.num_classes)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    drawn = []
    for seed in seeds:
        split, rng = split_indices(data, seed), np.random.default_rng([seed, 1])
        drawn.append((*batches.of_both(rng, *split, num_steps, batch_size), split[1]))
    return Lanes(
        jax.vmap(lambda key: mlp.init_mlp(key, widths))(keys),
        jnp.asarray(step_sizes, jnp.float32),
        *map(np.stack, zip(*drawn, strict=True)),
    )


def train(
    make_optimizer: MakeOptimizer,
    data: Data,
    lanes: Lanes,
    *,
    share: float | None = None,
    chunk_steps: int = 32,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Trained:
    """Trains the network of every lane, T steps each.

    The steps are scanned in chunks. After each the validation set is evaluated, at
    `hyperlr.eval_params`, and `on_progress` is called with the chunk's share of the steps.
    `make_optimizer` has to be one and the same function for one and the same method, for it is what
    the compiled program is found by; it and `share` are as for `train_steps`.
    """
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    # The chunks donate their state, and the caller may train these lanes again.
    params = jax.tree.map(jnp.copy, lanes.params)
    sizes = lanes.step_sizes
    state = _init(make_optimizer, params, sizes)
    num_steps = lanes.train_batches.shape[1]
    starts = range(0, num_steps, chunk_steps)
    records, evaluations = [], []
    for start in starts:
        steps = slice(start, start + chunk_steps)
        minibatches = lanes.train_batches[:, steps], lanes.val_batches[:, steps]
        params, state, chunk_records = _train_chunk(
            make_optimizer, share, params, state, sizes, images, labels, *minibatches
        )
        evaluated = hyperlr.eval_params(state, params)
        evaluations.append(_evaluate(evaluated, images, labels, lanes.val_indices))
        records.append(jax.tree.map(np.asarray, chunk_records))
        on_progress(min(chunk_steps, num_steps - start) / num_steps)
    test = _evaluate(evaluated, jnp.asarray(data.test_images), jnp.asarray(data.test_labels))
    return Trained(
        jax.tree.map(lambda *chunks: np.concatenate(chunks, axis=1), *records),
        np.array([min(start + chunk_steps, num_steps) for start in starts]),
        *(np.stack(of_points, axis=1) for of_points in zip(*evaluations, strict=True)),
        *map(np.asarray, test),
    )


def scores(trained: Trained, num_classes: int) -> dict[str, np.ndarray]:
    """Returns what each lane came to in the end, [K] each."""
    return {
        "val_accuracy": trained.val_accuracy[:, -1],
        "test_accuracy": trained.test_accuracy,
        "val_loss": trained.val_loss[:, -1],
        "test_loss": trained.test_loss,
        "final_learning_rate": trained.records["learning_rate"][:, -1],
        "diverged": diverged(trained, num_classes),
    }


def diverged(trained: Trained, num_classes: int) -> np.ndarray:
    """Returns whether each lane diverged, bool [K].

    It did if its validation loss or any learning rate is not finite, or if the loss ended above
    ln(classes), that of a uniform guess: a step too large often kills all units and leaves the
    network finite, but useless.
    """
    final_loss = trained.val_loss[:, -1]
    finite = np.isfinite(trained.records["learning_rate"]).all(axis=1) & np.isfinite(final_loss)
    return ~(finite & (final_loss < np.log(num_classes)))


def select(trained: Trained, lanes: slice) -> Trained:
    """Returns some of the lanes."""
    return jax.tree.map(lambda x: x[lanes], trained)._replace(curve_steps=trained.curve_steps)


def concatenate(trained: Sequence[Trained]) -> Trained:
    """Returns the lanes of all, one after the other."""
    together = jax.tree.map(lambda *lanes: np.concatenate(lanes), *trained)
    return together._replace(curve_steps=trained[0].curve_steps)


def lanes_at_once(data: Data, hidden_widths: Sequence[int]) -> int:
    """Returns how many networks are trained side by side, at least one."""
    widths = (data.images.shape[1], *hidden_widths, data.num_classes)
    num_weights = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))
    return max(1, _MEMORY // (4 * num_weights * _COPIES_OF_WEIGHTS))


def lanes_maker(settings: Any, data: Data) -> Callable[[Sequence[int], Sequence[Any]], Lanes]:
    """Returns `make_lanes` for the `num_steps`, `batch_size` and `hidden_widths` of settings."""
    return functools.partial(make_lanes, data, **size_of(settings))


def size_of(settings: Any) -> dict[str, Any]:
    """Returns those settings that every lane depends on."""
    return {name: getattr(settings, name) for name in ("num_steps", "batch_size", "hidden_widths")}


def seconds_per_step(settings: Any, data: Data) -> float:
    """Times plain gradient descent on one lane, without compilation."""
    lanes = lanes_maker(settings, data)([0], [0.0])
    params = jax.tree.map(lambda x: x[0], lanes.params)
    state, rate = _plain_descent(0.0).init(params), jnp.zeros(())
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    minibatches = (x[0, :_TIMED_STEPS] for x in (lanes.train_batches, lanes.val_batches))
    steps = jax.jit(functools.partial(train_steps, _plain_descent))
    run = functools.partial(steps, params, state, rate, images, labels, *minibatches)
    jax.block_until_ready(run())
    start = time.perf_counter()
    jax.block_until_ready(run())
    return (time.perf_counter() - start) / min(_TIMED_STEPS, lanes.train_batches.shape[1])


def _plain_descent(rate: Any) -> optax.GradientTransformationExtraArgs:
    return following(optax.sgd, optax.constant_schedule(rate))


def loss_fn(
    params: mlp.Params, images: jax.Array, labels: jax.Array, indices: jax.Array
) -> jax.Array:
    """Returns the cross-entropy on the images that `indices` [batch] pick."""
    logits = mlp.apply_mlp(params, as_inputs(images[indices]))
    return mlp.cross_entropy(logits, labels[indices])


def train_steps(
    make_optimizer: MakeOptimizer,
    params: mlp.Params,
    state: optax.OptState,
    step_size: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    train_batches: jax.Array,
    val_batches: jax.Array,
    *,
    share: float | None = None,
) -> tuple[mlp.Params, optax.OptState, dict[str, jax.Array]]:
    """Makes as many steps as there are minibatches, on one lane; a pure function to map and jit.

    Args:
      make_optimizer: builds the optimizer from `step_size`, a float scalar.
      params: weights of one network, `state` that of its optimizer.
      step_size: β, κ, γ or η.
      images: uint8 [N, pixels], `labels` int32 [N].
      train_batches: int32 [steps, batch], the minibatches of L, `val_batches` those of E.
      share: where set, E is the loss on that share of the training minibatch, and the validation
        minibatch is not used (`hyperlr.value_and_grad`).

    Returns:
      The new weights and state, and the records of every step, [steps] each.
    """
    optimizer = make_optimizer(step_size)

    def step(carry: tuple[Any, Any], indices: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
        params, state = carry
        train_indices, val_indices = indices

        def value_fn(params: mlp.Params, indices: jax.Array = train_indices) -> jax.Array:
            return loss_fn(params, images, labels, indices)

        if share is None:
            loss, grads = jax.value_and_grad(value_fn)(params)
            val_grad = jax.grad(loss_fn)(params, images, labels, val_indices)
            extra: dict[str, Any] = {"value_fn": value_fn, "val_grad": val_grad}
        else:
            evaluate = hyperlr.value_and_grad(value_fn, share=share)
            loss, grads, extra = evaluate(params, train_indices, state=state)
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), {"train_loss": loss, **step_records(state)}

    (params, state), records = jax.lax.scan(step, (params, state), (train_batches, val_batches))
    return params, state, records


@functools.partial(jax.jit, static_argnums=0)
def _init(make_optimizer: MakeOptimizer, params: mlp.Params, step_sizes: Any) -> optax.OptState:
    return jax.vmap(lambda params, size: make_optimizer(size).init(params))(params, step_sizes)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _train_chunk(
    make_optimizer: MakeOptimizer, share: float | None, params: Any, state: Any, *others: Any
) -> Any:
    """Makes the steps of `train_steps` on all lanes; `others` are its further arguments."""
    steps: Any = functools.partial(train_steps, make_optimizer, share=share)
    if share is None:
        return jax.vmap(steps, in_axes=(0, 0, 0, None, None, 0, 0))(params, state, *others)
    # One lane after another: side by side, what a method does in its first step alone, such as
    # seeking a rate, would be done by all lanes in every step.
    step_sizes, images, labels, *batches = others
    return jax.lax.map(
        lambda lane: steps(*lane[:3], images, labels, *lane[3:]),
        (params, state, step_sizes, *batches),
    )


@jax.jit
def _evaluate(
    params: mlp.Params, images: jax.Array, labels: jax.Array, indices: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns loss and accuracy [K]; where there are indices [K, n], on each lane's own images."""

    def of_lane(lane: tuple[mlp.Params, jax.Array | None]) -> tuple[jax.Array, jax.Array]:
        params, own = lane
        shown, expected = (images, labels) if own is None else (images[own], labels[own])
        logits = mlp.apply_mlp(params, as_inputs(shown))
        return mlp.cross_entropy(logits, expected), mlp.accuracy(logits, expected)

    # One lane after another: side by side, the activations of many lanes would take much memory.
    return jax.lax.map(of_lane, (params, indices))
