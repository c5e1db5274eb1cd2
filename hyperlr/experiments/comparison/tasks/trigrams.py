"""Which module is a line of source from? Linear in the line's trigrams: sparse gradients."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from hyperlr.experiments.comparison.tasks.source_text import MODULES, read_module
from hyperlr.experiments.comparison.tasks.task import Data, Task, grids, sample_rows, split_rows
from hyperlr.experiments.networks import mlp

_NUM_BUCKETS = 4_096
_SHORTEST, _LONGEST = 20, 64  # characters of a line that are looked at
_LINES_PER_MODULE = 400
_NUM_VAL, _NUM_TEST = 800, 1_600
_PADDING = -1

Params = dict[str, jax.Array]


def buckets_of(line: str) -> list[int]:
    """The hashed trigrams of a line, padded to the same length for all."""
    text = line[:_LONGEST].encode()[:_LONGEST]
    # Python's own hash of a string changes from one process to the next.
    found = [zlib.crc32(text[k : k + 3]) % _NUM_BUCKETS for k in range(len(text) - 2)]
    return found + [_PADDING] * (_LONGEST - 2 - len(found))


@functools.cache
def _rows() -> tuple[np.ndarray, np.ndarray]:
    """Trigrams int32 [n, 62] and module int32 [n] of lines, none of which comes twice."""
    lines: list[str] = []
    modules: list[int] = []
    for number, name in enumerate(MODULES):
        stripped = (line.strip() for line in read_module(name).splitlines())
        fresh = dict.fromkeys(line for line in stripped if len(line) >= _SHORTEST)
        # Whose line it is cannot be told where two modules have it.
        taken = set(lines)
        chosen = [line for line in fresh if line not in taken]
        order = np.random.default_rng(number).permutation(len(chosen))[:_LINES_PER_MODULE]
        lines += [chosen[k] for k in order]
        modules += [number] * len(order)
    return (
        np.array([buckets_of(line) for line in lines], np.int32),
        np.array(modules, np.int32),
    )


def make_data(seed: int) -> Data:
    """Trigrams and module of the lines of a seed."""
    return split_rows(_rows(), seed, _NUM_VAL, _NUM_TEST)


def init(key: jax.Array) -> Params:
    """Zeros: the problem is convex."""
    del key
    return {
        "weight": jnp.zeros((_NUM_BUCKETS, len(MODULES)), jnp.float32),
        "bias": jnp.zeros(len(MODULES), jnp.float32),
    }


def apply(params: Params, trigrams: jax.Array) -> jax.Array:
    """Returns the logits [n, modules]: rows of the weights, summed, over the root of how many."""
    present = (trigrams != _PADDING).astype(jnp.float32)
    rows = params["weight"][jnp.maximum(trigrams, 0)] * present[:, :, None]
    root = jnp.sqrt(jnp.sum(present, axis=1))
    return jnp.sum(rows, axis=1) / root[:, None] + params["bias"][None, :]


def loss(params: Params, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The mean cross-entropy."""
    trigrams, modules = examples
    return mlp.cross_entropy(apply(params, trigrams), modules)


def score(params: Params, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The accuracy."""
    trigrams, modules = examples
    return mlp.accuracy(apply(params, trigrams), modules)


TRIGRAMS = Task(
    name="trigrams",
    title="sparse trigrams of source lines, linear",
    score_name="accuracy",
    make_data=make_data,
    init=init,
    loss=loss,
    score=score,
    num_steps=500,
    batch_size=100,
    gradient_cost=0.7,
    rates=grids(3e-2, 3.0, 30.0),
    sample=sample_rows,
)
