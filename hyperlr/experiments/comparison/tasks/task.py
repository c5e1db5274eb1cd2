"""What a task is: data, a model, a loss, a score, and how long it is trained."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

INNER_OPTIMIZERS = ("adam", "momentum", "sgd")


class Data(NamedTuple):
    """A seed's examples, as pytrees of NumPy arrays with one leading axis.

    Those of different seeds have the same shapes, so that runs can be stacked.
    """

    train: Any
    """What minibatches are drawn from."""
    val: Any
    """Held-out examples, for choosing among runs."""
    test: Any
    """Held-out examples, for the final score alone."""
    frozen: tuple[Any, ...] = ()
    """Further arguments of the loss and the score that are not trained."""


class Task(NamedTuple):
    """A task: pure functions and the numbers that go with them.

    `loss` and `score` take examples as they are in `Data.val`, or a minibatch of `sample`; both
    end in `*data.frozen`.
    """

    name: str
    """What it is called on the command line."""
    title: str
    """What it is, in a few words, for tables and figures."""
    score_name: str
    """What the score means; higher is better."""
    make_data: Callable[[int], Data]
    """The data of a seed; deterministic."""
    init: Callable[[jax.Array], Any]
    """Draws the parameters from a key."""
    loss: Callable[..., jax.Array]
    """`loss(params, examples, *frozen)`: a scalar, the mean over the examples."""
    score: Callable[..., jax.Array]
    """`score(params, examples, *frozen)`: a scalar, NaN where the model has diverged."""
    num_steps: int
    """Training steps of a run."""
    batch_size: int
    """Examples in a minibatch."""
    gradient_cost: float
    """What a gradient takes, in gradients of the digits' MLP, about: to tell how long runs take."""
    rates: Mapping[str, tuple[float, ...]]
    """Five learning rates a factor of about 3 apart, for each of `INNER_OPTIMIZERS`."""
    sample: Callable[[jax.Array, Any, int], Any]
    """`sample(key, train, size)`: a minibatch; works under `jit`, `vmap` and `scan`."""


def sample_rows(key: jax.Array, train: Any, size: int) -> Any:
    """Draws rows, with replacement.

    Args:
      key: a PRNG key.
      train: a pytree of arrays [n, ...].
      size: how many rows.

    Returns:
      The same rows of every array, [size, ...].
    """
    num_rows = len(jax.tree.leaves(train)[0])
    indices = jax.random.randint(key, (size,), 0, num_rows)
    return jax.tree.map(lambda x: x[indices], train)


def split_rows(rows: Any, seed: int, num_val: int, num_test: int) -> Data:
    """Shuffles rows and divides them into training, validation and test.

    The test rows are the same for every seed; which of the others are for validation is drawn.

    Args:
      rows: a pytree of NumPy arrays [n, ...].
      seed: which draw.
      num_val: rows to validate on.
      num_test: rows to test on.

    Returns:
      The data of the seed; n − num_val − num_test rows are to train on.
    """
    num_rows = len(jax.tree.leaves(rows)[0])
    order = np.random.default_rng(0).permutation(num_rows)
    test, others = order[:num_test], order[num_test:]
    others = np.random.default_rng([seed, 1]).permutation(others)
    val, train = others[:num_val], others[num_val:]
    return Data(*(jax.tree.map(lambda x, i=i: x[i], rows) for i in (train, val, test)))


def grids(*middles: float) -> Mapping[str, tuple[float, ...]]:
    """The grids of the inner optimizers, each around its middle rate.

    Args:
      *middles: 1 or 3 times a power of ten, one for each of `INNER_OPTIMIZERS`.

    Returns:
      Five rates for each, two to a decade: such as 0.1, 0.3, 1, 3 and 10.
    """
    return {
        name: tuple(float(f"{middle * 10 ** (k / 2):.0e}") for k in range(-2, 3))
        for name, middle in zip(INNER_OPTIMIZERS, middles, strict=True)
    }
