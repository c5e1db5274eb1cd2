"""A linear model with a dense and a sparse feature, and the descents of many optimizers on it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperlr import optimizers
from hyperlr.experiments.adaptive_methods import (
    METHODS,
    UNCORRECTED_ADAM,
    Method,
    adadelta,
    adam_like,
)
from hyperlr.experiments.batches import independent_batches
from hyperlr.experiments.precision import float64

NUM_STEPS = 300
NUM_EXAMPLES = 200
NUM_SPARSE = 20
"""In how many examples the sparse feature is not zero."""
BATCH_SIZE = 10
COMPARED_STEP = 100
"""After how many steps losses are compared over η_0."""
SHORT_MEMORY = 0.9
"""A β₂ so small that one zero gradient shows in the effective rate."""
LEARNING_RATES = tuple(float(rate) for rate in np.geomspace(1e-3, 10.0, 25))
"""The η_0 over which the losses are compared."""
ADADELTA_EPS = (1e-6, 1e-4, 1e-2)
"""The ε over which AdaDelta is compared; the first is the customary one."""


class Problem(NamedTuple):
    """A linear regression, its loss ½ mean (x w − y)² a quadratic in two weights."""

    inputs: np.ndarray
    """float64 [n, 2], the dense feature and the sparse one."""
    targets: np.ndarray
    """float64 [n]."""
    start: np.ndarray
    """float64 [2]."""
    minimizer: np.ndarray
    """float64 [2]."""
    hessian: np.ndarray
    """float64 [2, 2]."""


class Descents(NamedTuple):
    """Descents of one optimizer from the same start, one for each of R values of η_0."""

    learning_rates: np.ndarray
    """float64 [R], η_0."""
    points: np.ndarray
    """float64 [R, T + 1, 2], from the start on."""
    gaps: np.ndarray
    """float64 [R, T + 1], the loss on all examples there, less its minimum."""
    rates: np.ndarray
    """float64 [R, T, 2], the effective rate of each feature at every step."""


class Study(NamedTuple):
    """All descents of the experiment; rows beyond the first are for LEARNING_RATES."""

    full: dict[str, Descents]
    """On all examples: the method's own η_0, then LEARNING_RATES."""
    mini: dict[str, Descents]
    """On minibatches, the same for every method; the method's own η_0."""
    oscillation: Descents
    """RMSprop on all examples, at its η_0 and half of it."""
    adadelta: tuple[Descents, ...]
    """On all examples, for each of ADADELTA_EPS."""
    uncorrected: Descents
    """Adam without bias correction, on all examples."""
    short_memory: dict[str, Descents]
    """Adam and Adam Max with a short memory, on minibatches."""


def make_problem() -> Problem:
    """Draws the data, always the same."""
    rng = np.random.default_rng(0)
    sparse = np.zeros(NUM_EXAMPLES)
    sparse[:NUM_SPARSE] = rng.normal(size=NUM_SPARSE)
    inputs = np.stack([rng.normal(size=NUM_EXAMPLES), rng.permutation(sparse)], axis=1)
    targets = inputs @ np.array([2.0, 2.0]) + 0.3 * rng.normal(size=NUM_EXAMPLES)
    hessian = inputs.T @ inputs / NUM_EXAMPLES
    return Problem(
        inputs=inputs,
        targets=targets,
        start=np.array([-1.0, -0.5]),
        minimizer=np.linalg.solve(hessian, inputs.T @ targets / NUM_EXAMPLES),
        hessian=hessian,
    )


def gap(problem: Problem, points: np.ndarray) -> np.ndarray:
    """Returns the loss on all examples, less its minimum, at points [..., 2]; exact near 0."""
    offset = points - problem.minimizer
    return 0.5 * np.einsum("...i,ij,...j", offset, problem.hessian, offset)


def descend(
    method: Method,
    problem: Problem,
    learning_rates: Sequence[float],
    batches: np.ndarray | None = None,
    num_steps: int = NUM_STEPS,
) -> Descents:
    """Descends the loss with one optimizer and several values of η_0, in float64.

    Args:
      method: the optimizer.
      problem: the data.
      learning_rates: the values of η_0, [R].
      batches: int32 [T, batch], the examples of every step; by default all examples, every time.
      num_steps: T, where there are no `batches`.
    """
    if batches is None:
        batches = np.tile(np.arange(len(problem.inputs), dtype=np.int32), (num_steps, 1))
    with float64():
        rates_0 = jnp.asarray(learning_rates, jnp.float64)
        points, rates = map(
            np.asarray,
            _descend(
                method.make,
                method.rates,
                jnp.asarray(problem.inputs),
                jnp.asarray(problem.targets),
                jnp.asarray(problem.start),
                rates_0,
                jnp.asarray(batches),
            ),
        )
    return Descents(np.asarray(learning_rates), points, gap(problem, points), rates)


def study(
    problem: Problem, num_steps: int = NUM_STEPS, on_progress: Callable[[], None] = lambda: None
) -> Study:
    """Runs every descent of the experiment.

    Args:
      problem: the data.
      num_steps: T.
      on_progress: called after each of NUM_RUNS runs.
    """
    batches = minibatches(problem, num_steps)

    def run(
        method: Method, others: Sequence[float] = (), batches: np.ndarray | None = None
    ) -> Descents:
        rates = (method.learning_rate, *others)
        descents = descend(method, problem, rates, batches, num_steps)
        on_progress()
        return descents

    rmsprop = METHODS["rmsprop"]
    short_memory = {"adam": optimizers.adam, "adam_max": optimizers.adam_max}
    return Study(
        full={name: run(method, LEARNING_RATES) for name, method in METHODS.items()},
        mini={name: run(METHODS[name], batches=batches) for name in _IN_MINIBATCHES},
        oscillation=run(rmsprop, [rmsprop.learning_rate / 2]),
        adadelta=tuple(run(adadelta(eps)) for eps in ADADELTA_EPS),
        uncorrected=run(UNCORRECTED_ADAM),
        short_memory={
            name: run(adam_like(METHODS[name].label, make, SHORT_MEMORY), batches=batches)
            for name, make in short_memory.items()
        },
    )


_IN_MINIBATCHES = ("gd", "gd_sparsity", "adagrad", "rmsprop", "adam")
NUM_RUNS = len(METHODS) + len(_IN_MINIBATCHES) + len(ADADELTA_EPS) + 4


def minibatches(problem: Problem, num_steps: int = NUM_STEPS) -> np.ndarray:
    """Draws the same minibatches for every optimizer, int32 [T, BATCH_SIZE]."""
    indices = np.arange(len(problem.inputs), dtype=np.int32)
    return independent_batches(np.random.default_rng(1), indices, num_steps, BATCH_SIZE)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _descend(
    make: Callable[[Any], optax.GradientTransformation],
    effective_rates: Callable[[Any, Any, Any, jax.Array], Any],
    inputs: jax.Array,
    targets: jax.Array,
    start: jax.Array,
    learning_rates: jax.Array,
    batches: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the points [R, T + 1, 2] and the effective rates [R, T, 2]."""

    def one_descent(learning_rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        optimizer = optax.with_extra_args_support(make(learning_rate))

        def step(carry: tuple[Any, Any], indices: jax.Array) -> tuple[Any, Any]:
            point, state = carry
            x = inputs[indices]
            grads = x.T @ (x @ point - targets[indices]) / len(indices)
            updates, new_state = optimizer.update(grads, state, point, inputs=x)
            point = optax.apply_updates(point, updates)
            return (point, new_state), (point, effective_rates(learning_rate, state, new_state, x))

        carry = (start, optimizer.init(start))
        _, (points, rates) = jax.lax.scan(step, carry, batches)
        return jnp.concatenate([start[None], points]), rates

    return jax.vmap(one_descent)(learning_rates)
