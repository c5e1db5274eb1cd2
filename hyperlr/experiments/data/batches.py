"""The minibatches of a whole run, as indices into the images; gathered inside the training scan."""

import numpy as np


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
