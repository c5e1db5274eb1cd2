"""Labelled images, how a seed splits them, and the minibatches of a run: indices into them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Data(NamedTuple):
    """Labelled images, and how many of `images` a run trains on and validates on.

    A run draws its training and validation images from `images` (`split_indices`); `test_images`
    are for the final test alone.
    """

    source: str
    """Where the images come from, in words."""
    images: np.ndarray
    """uint8 [N, rows * columns]; of colour images [N, rows, columns, 3]."""
    labels: np.ndarray
    """int32 [N]."""
    test_images: np.ndarray
    """uint8 [M, …], as `images`."""
    test_labels: np.ndarray
    """int32 [M]."""
    num_classes: int
    """One more than the largest label."""
    num_train: int
    """How many images a run trains on."""
    num_val: int
    """How many images a run validates on."""


def split_indices(data: Data, seed: int, val_first: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draws a seed's training and validation images; which come first changes what is drawn.

    Returns:
      (training, validation): int32 indices into `data.images`, [num_train] and [num_val], disjoint.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(data.images)).astype(np.int32)
    order = order[: data.num_train + data.num_val]
    if val_first:
        return order[data.num_val :], order[: data.num_val]
    return order[: data.num_train], order[data.num_train :]


def as_inputs(images: jax.Array) -> jax.Array:
    """Turns bytes into float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def epoch_batches(
    rng: np.random.Generator, indices: np.ndarray, num_steps: int, batch_size: int
) -> np.ndarray:
    """Goes through shuffled epochs of indices [n]: none comes again before all others have come.

    A minibatch may reach from the end of an epoch into the next, so that none is smaller.

    Returns:
      int32 [num_steps, batch_size].
    """
    num_needed = num_steps * batch_size
    num_epochs = -(-num_needed // len(indices))
    shuffled = np.concatenate([rng.permutation(indices) for _ in range(num_epochs)])
    return shuffled[:num_needed].reshape(num_steps, batch_size)


def independent_batches(
    rng: np.random.Generator, indices: np.ndarray, num_steps: int, batch_size: int
) -> np.ndarray:
    """Draws a fresh minibatch of indices [n] at every step, without repetition within it.

    Returns:
      int32 [num_steps, min(batch_size, n)].
    """
    # The positions of the smallest of random keys are a uniform draw without repetition.
    keys = rng.random((num_steps, len(indices)))
    return indices[np.argsort(keys, axis=1)[:, :batch_size]]


def of_both(
    rng: np.random.Generator, train: np.ndarray, val: np.ndarray, num_steps: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the minibatches to train on, in epochs, and those to validate on, afresh."""
    return (
        epoch_batches(rng, train, num_steps, batch_size),
        independent_batches(rng, val, num_steps, batch_size),
    )
