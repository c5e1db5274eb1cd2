"""One run of Section 6: what becomes of its images, a step of training, and the evaluation.

All that is random is a function of the seed and of the step, so that a run that is taken up from a
checkpoint is the run that was left.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import hyperlr
from hyperlr.experiments.data import Data, as_inputs, batches, split_indices
from hyperlr.experiments.data.cifar import SHAPE, channel_statistics
from hyperlr.experiments.networks import mlp

WEIGHT_DECAY = 5e-4
"""Of L; E has none."""

_EVALUATION_BATCH = 500
_PADDING = 4


class Program(NamedTuple):
    """What a training step is compiled for."""

    network: nn.Module
    make_inner: Callable[[Any], optax.GradientTransformation]
    """The inner optimizer, from its learning rate."""
    make_online: Callable[[Any, Any, Any], optax.GradientTransformationExtraArgs] | None
    """The online method, from the inner optimizer, η_0 and a step size; None: a fixed schedule."""


class State(NamedTuple):
    """What training changes."""

    params: Any
    batch_stats: Any
    """Running statistics: moved by the training pass, and read by the evaluation."""
    opt_state: optax.OptState


class Source(NamedTuple):
    """The images of one seed, on the device, and its split."""

    images: jax.Array
    """uint8 [N, 32, 32, 3]."""
    labels: jax.Array
    """int32 [N]."""
    mean: jax.Array
    """float32 [3], of the training images."""
    deviation: jax.Array
    """float32 [3], of the training images."""
    train_indices: np.ndarray
    """int32 [num_train]."""
    val_indices: np.ndarray
    """int32 [num_val]."""


def make_source(data: Data, seed: int) -> Source:
    """Draws a seed's split, and measures the colours of its training images."""
    train_indices, val_indices = split_indices(data, seed, val_first=True)
    arrays = data.images, data.labels, *channel_statistics(data.images[train_indices])
    images, labels, mean, deviation = map(jnp.asarray, arrays)
    return Source(images, labels, mean, deviation, train_indices, val_indices)


@functools.partial(jax.jit, static_argnums=0)
def init(program: Program, seed: int, learning_rate: jax.Array, step_size: jax.Array) -> State:
    """Draws the weights that a seed starts from, the same for every method."""
    variables = program.network.init(jax.random.key(seed), jnp.zeros((1, *SHAPE)), train=False)
    tx = _transformation(program, learning_rate, step_size)
    return State(variables["params"], variables["batch_stats"], tx.init(variables["params"]))


def epoch_minibatches(
    source: Source, seed: int, epoch: int, num_steps: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the minibatches of an epoch, to train and to validate on: int32 [num_steps, batch]."""
    rng, split = np.random.default_rng([seed, 1, epoch]), (source.train_indices, source.val_indices)
    return batches.of_both(rng, *split, num_steps, batch_size)


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Crops images at random out of a black frame 4 pixels wide, and flips half of them.

    Both are uint8 [n, rows, columns, 3].
    """
    key_crop, key_flip = jax.random.split(key)
    num_images, *shape = images.shape
    frame = ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0))
    corners = jax.random.randint(key_crop, (num_images, 2), 0, 2 * _PADDING + 1)
    cropped = jax.vmap(
        lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), shape)
    )(jnp.pad(images, frame), corners)
    flips = jax.random.bernoulli(key_flip, 0.5, (num_images, 1, 1, 1))
    return jnp.where(flips, cropped[:, :, ::-1, :], cropped)


def normalize(images: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
    """Returns float32 images [n, rows, columns, 3] with each colour's mean 0 and deviation 1.

    The images are uint8; mean and deviation float32 [3], of the pixels over 255.
    """
    scaled = as_inputs(images)
    return (scaled - mean[None, None, None, :]) / deviation[None, None, None, :]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    program: Program,
    state: State,
    arrays: tuple[jax.Array, ...],
    minibatches: tuple[jax.Array, jax.Array],
    seed: jax.Array,
    step: jax.Array,
    learning_rate: jax.Array,
    step_size: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """Makes one step of training.

    Args:
      program: what to compile.
      state: donated.
      arrays: images, labels, mean and deviation of a `Source`.
      minibatches: indices of the training and of the validation minibatch, int32 [batch].
      seed: of the augmentation.
      step: of the run.
      learning_rate: of a fixed schedule at this step, or η_0.
      step_size: of an online method.

    Returns:
      The new state, and the scalars of the step: `train_loss` (without weight decay),
      `learning_rate` and what else `hyperlr.metrics` gives.
    """
    images, labels, mean, deviation = arrays
    train_indices, val_indices = minibatches
    # Not the key of the weights, which a run of as many steps as seeds would come upon.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)
    inputs = normalize(augment(key, images[train_indices]), mean, deviation)
    val_inputs = normalize(images[val_indices], mean, deviation)

    def cross_entropy(params: Any, inputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
        logits, changed = program.network.apply(
            {"params": params, "batch_stats": state.batch_stats},
            inputs,
            train=True,
            mutable=["batch_stats"],
        )
        return mlp.cross_entropy(logits, labels), changed["batch_stats"]

    def training_loss(params: Any) -> tuple[jax.Array, Any]:
        loss, batch_stats = cross_entropy(params, inputs, labels[train_indices])
        penalty = WEIGHT_DECAY / 2 * optax.tree.norm(params, squared=True)
        return loss + penalty, (loss, batch_stats)

    def objective(params: Any) -> jax.Array:
        # Normalized by the minibatch's own statistics: E is a function of the parameters alone, and
        # in the first steps the running statistics are those of no network. They are not written.
        return cross_entropy(params, val_inputs, labels[val_indices])[0]

    grads, (loss, batch_stats) = jax.grad(training_loss, has_aux=True)(state.params)
    extra_args: dict[str, Any] = {}
    if program.make_online is not None:
        extra_args["value_fn"] = lambda params: training_loss(params)[0]
        extra_args["val_grad"] = jax.grad(objective)(state.params)
    tx = _transformation(program, learning_rate, step_size)
    updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra_args)
    records = {"train_loss": loss, "learning_rate": learning_rate}
    if program.make_online is not None:
        records |= hyperlr.metrics(opt_state)
    return State(optax.apply_updates(state.params, updates), batch_stats, opt_state), records


def evaluate(
    program: Program, state: State, arrays: tuple[jax.Array, ...], indices: np.ndarray
) -> tuple[float, float]:
    """Returns loss and accuracy, by the running statistics, on the images that `indices` pick.

    The arrays are those of `train_step`, of these images; the indices int32 [n].
    """
    sums = np.zeros(2)
    for start in range(0, len(indices), _EVALUATION_BATCH):
        part = indices[start : start + _EVALUATION_BATCH]
        # One shape for all parts: the last is filled up with an image that does not count.
        padded = np.resize(part, min(_EVALUATION_BATCH, max(len(indices), 1)))
        counts = np.arange(len(padded)) < len(part)
        sums += np.asarray(_sums(program, state.params, state.batch_stats, arrays, padded, counts))
    loss, accuracy = sums / len(indices)
    return float(loss), float(accuracy)


@functools.partial(jax.jit, static_argnums=0)
def _sums(
    program: Program, params: Any, batch_stats: Any, arrays: Any, indices: Any, counts: Any
) -> jax.Array:
    images, labels, mean, deviation = arrays
    inputs = normalize(images[indices], mean, deviation)
    variables = {"params": params, "batch_stats": batch_stats}
    logits: Any = program.network.apply(variables, inputs, train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[indices])
    hits = (jnp.argmax(logits, axis=-1) == labels[indices]).astype(losses.dtype)
    # Among NaNs argmax picks class 0, and a diverged network would score a tenth.
    hits = jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), hits, jnp.nan)
    return jnp.stack([jnp.where(counts, x, 0.0).sum() for x in (losses, hits)])


def _transformation(program: Program, learning_rate: jax.Array, step_size: jax.Array) -> Any:
    if program.make_online is None:
        return optax.with_extra_args_support(program.make_inner(learning_rate))
    return program.make_online(program.make_inner, learning_rate, step_size)
