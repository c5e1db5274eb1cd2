"""The minibatches of a whole run, as indices into the images; gathered inside the training scan."""

import numpy as np


def epoch_batches(
    rng: np.random.Generator, indices: np.ndarray, num_steps: int, batch_size: int
) -> np.ndarray:
    """Goes through shuffled epochs: no image comes again before all others have come.

    A minibatch may reach from the end of an epoch into the next, so that none is smaller.

    Args:
      rng: source of the shuffles.
      indices: int32 [n], the images to go through.
      num_steps: how many minibatches.
      batch_size: images in each.

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
    """Draws a fresh minibatch at every step, without repetition within it.

    Args:
      rng: source of the draws.
      indices: int32 [n], the images to draw from.
      num_steps: how many minibatches.
      batch_size: images in each; all of them, where there are fewer.

    Returns:
      int32 [num_steps, min(batch_size, n)].
    """
    # The positions of the smallest of random keys are a uniform draw without repetition.
    keys = rng.random((num_steps, len(indices)))
    return indices[np.argsort(keys, axis=1)[:, :batch_size]]
