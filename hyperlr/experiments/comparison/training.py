"""One run of one method on one task: a single program, of which seeds and rates are arguments."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hyperlr
from hyperlr.experiments.comparison.entrants import ENTRANTS, Entrant
from hyperlr.experiments.comparison.tasks import TASKS, Data, Task

NUM_POINTS = 10
"""How often a run is evaluated, C."""


class Runs(NamedTuple):
    """What came out of R rates on S seeds; R is 1 where nothing is tuned."""

    steps: np.ndarray
    """int [C], after how many steps the scores were taken; the last is the end."""
    val_score: np.ndarray
    """float32 [R, S, C]; NaN where the model has diverged."""
    test_score: np.ndarray
    """float32 [R, S, C]."""
    train_loss: np.ndarray
    """float32 [R, S, C], the mean over the minibatches since the last point."""
    learning_rate: np.ndarray
    """float32 [R, S, C], learned, or that of the grid, which a cosine begins with; else NaN."""
    rates: np.ndarray
    """float [R], the grid; NaN where there is none."""
    run_seconds: np.ndarray
    """float [R, S], wall time of the run, evaluations included, compilation not."""


def train(
    task_name: str, entrant_name: str, inner: str, num_steps: int, num_seeds: int, advance: Any
) -> Runs:
    """Trains one method on one task, all rates and seeds one after another.

    Args:
      task_name: key of `tasks.TASKS`.
      entrant_name: key of `entrants.ENTRANTS`.
      inner: key of `methods.INNER`.
      num_steps: of each run, NUM_POINTS at least.
      num_seeds: seeds 0, 1, … of the data, the weights and the minibatches.
      advance: called with the share of all runs that was done since the last call.
    """
    task = TASKS[task_name]
    rates = task.rates[inner] if ENTRANTS[entrant_name].tuned else (float("nan"),)
    points = _points(num_steps)
    of_rates: list[list[dict[str, Any]]] = [[] for _ in rates]
    run, compiled = _run(task, ENTRANTS[entrant_name], inner, num_steps), None
    for seed in range(num_seeds):
        data = jax.tree.map(jnp.asarray, task.make_data(seed))
        key = jax.random.key(seed)
        if compiled is None:  # data of all seeds have the same shapes
            compiled = jax.jit(run).lower(jnp.asarray(rates[0]), key, data).compile()
        for index, rate in enumerate(rates):
            start = time.perf_counter()
            found = jax.block_until_ready(compiled(jnp.asarray(rate), key, data))
            seconds = time.perf_counter() - start
            of_rates[index].append({**found, "run_seconds": seconds})
            advance(1.0 / (len(rates) * num_seeds))
    stacked = {
        name: np.array([[np.asarray(each[name]) for each in seeds] for seeds in of_rates])
        for name in of_rates[0][0]
    }
    return Runs(steps=np.array(points), rates=np.array(rates), **stacked)


def _points(num_steps: int) -> list[int]:
    """After how many steps a run is evaluated: in equal distances up to the end."""
    span = num_steps // NUM_POINTS
    return [num_steps - span * i for i in reversed(range(NUM_POINTS))]


def _run(task: Task, entrant: Entrant, inner: str, num_steps: int) -> Any:
    """The run, a function (rate, key, data) → scores, losses and rates at every point, [C] each."""
    # All spans have one length; what is left over is made first, before the first of them.
    span = num_steps // NUM_POINTS

    def run(rate: jax.Array, key: jax.Array, data: Data) -> dict[str, jax.Array]:
        tx = optax.with_extra_args_support(entrant.make(inner, rate, num_steps))
        init_key, batch_key = jax.random.split(key)
        params = task.init(init_key)
        value_and_grad = hyperlr.value_and_grad(task.loss, share=entrant.share)

        def step(carry: Any, number: jax.Array) -> Any:
            params, state = carry
            batch = task.sample(jax.random.fold_in(batch_key, number), data.train, task.batch_size)
            value, grads, extra = value_and_grad(params, batch, *data.frozen, state=state)
            updates, state = tx.update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), value

        def point(carry: Any, start: jax.Array) -> Any:
            carry, losses = jax.lax.scan(step, carry, start + jnp.arange(span))
            params, state = carry
            kept = entrant.evaluated(state, params)
            return carry, {
                "val_score": task.score(kept, data.val, *data.frozen),
                "test_score": task.score(kept, data.test, *data.frozen),
                "train_loss": jnp.mean(losses),
                "learning_rate": hyperlr.metrics(state)["learning_rate"]
                if entrant.learns
                else rate,
            }

        left_over = num_steps - NUM_POINTS * span
        carry = (params, tx.init(params))
        carry, _ = jax.lax.scan(step, carry, jnp.arange(left_over))
        return jax.lax.scan(point, carry, left_over + span * jnp.arange(NUM_POINTS))[1]

    return run
