"""One outer iteration: fresh minibatches, a hypergradient, one guarded step of the schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _numbers, _trees
from hyperlr._trees import Tree
from hyperlr.offline._hypergradient import schedule_hypergradient
from hyperlr.offline._schedule import Schedule, project


class OuterState(NamedTuple):
    """State of the optimization of a schedule; a valid ``lax.scan`` carry.

    Attributes:
      iteration: int32, shape (), the number of outer iterations so far, skipped ones too.
      schedule: η, an array [T] or a dict of arrays [T].
      optimizer_state: state of the optimizer of the schedule.
      num_skipped: int32, shape (), how many iterations were skipped.
    """

    iteration: jax.Array
    schedule: Schedule
    optimizer_state: optax.OptState
    num_skipped: jax.Array


class OuterRecord(NamedTuple):
    """What one outer iteration found.

    Attributes:
      iteration: int32, its number, from 0.
      value: E(w_T) for ``schedule``, a scalar.
      schedule: the schedule that was evaluated, before the step.
      hypergradient_norm: ‖∇f(η)‖, a scalar of at least float32.
      skipped: bool, whether the step was skipped since something was not finite.
      num_skipped: int32, how many iterations were skipped so far, this one included.
    """

    iteration: Any
    value: Any
    schedule: Schedule
    hypergradient_norm: Any
    skipped: Any
    num_skipped: Any


def init_outer_state(schedule: Schedule, optimizer: optax.GradientTransformation) -> OuterState:
    """The state before the first outer iteration.

    Args:
      schedule: the schedule to start from, an array [T] or a dict of arrays [T].
      optimizer: optax transformation on the schedule.

    Returns:
      The state at iteration 0. Supports ``vmap``.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr import offline
      >>> state = offline.init_outer_state(jnp.full(3, 0.1), optax.adam(0.1))
      >>> print(state.iteration, state.schedule)
      0 [0.1 0.1 0.1]
    """
    schedule = _trees.cast_like(schedule, schedule)
    optimizer_state = optimizer.init(schedule)
    return OuterState(
        iteration=jnp.zeros((), jnp.int32),
        schedule=schedule,
        optimizer_state=_trees.cast_like(optimizer_state, optimizer_state),
        num_skipped=jnp.zeros((), jnp.int32),
    )


def outer_step(
    inner: Callable[..., optax.GradientTransformation],
    params: optax.Params,
    state: OuterState,
    sample_batches: Callable[[jax.Array], Tree],
    loss_fn: Callable[..., Any],
    objective_fn: Callable[..., jax.Array],
    *,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    model_state: Tree = None,
    mode: str = "reverse",
    checkpointing: str = "chunk",
) -> tuple[OuterState, OuterRecord]:
    r"""One iteration of :func:`hyperlr.optimize_schedule`, a pure function of state and key.

    With f_i(η) = E(w_T) on the minibatches drawn with the i-th key::

        η ← project(η + optimizer(∇f_i(η))),   i ← i + 1

    where ``project`` is max(·, 0) on the learning rates. Where the value, the hypergradient or the
    new schedule is not finite, the schedule and the optimizer's state stay as they are.

    Args:
      inner, params, sample_batches, loss_fn: as for :func:`hyperlr.optimize_schedule`.
      state: from :func:`hyperlr.offline.init_outer_state`, or from the step before.
      objective_fn, optimizer, model_state: as for :func:`hyperlr.optimize_schedule`.
      mode, checkpointing, key: likewise; ``key`` is that of the whole run.

    Returns:
      The next state, in the same types, and the record of this iteration. Supports ``vmap``: over
      keys and states for several seeds, over params for several initial weights.

    Example:
      Two seeds side by side, under one ``jit``.

      >>> import functools, jax, jax.numpy as jnp, optax
      >>> from hyperlr import offline
      >>> sample_batches = lambda key: jax.random.normal(key, (8,))
      >>> loss_fn = lambda w, x: jnp.mean((w - x) ** 2)
      >>> optimizer = optax.adam(0.1)
      >>> @jax.jit
      ... @functools.partial(jax.vmap, in_axes=(None, 0))
      ... def step(state, key):
      ...     return offline.outer_step(
      ...         optax.sgd, jnp.ones(()), state, sample_batches, loss_fn, jnp.square,
      ...         optimizer=optimizer, key=key,
      ...     )
      >>> state = offline.init_outer_state(jnp.full(8, 0.1), optimizer)
      >>> state, record = step(state, jax.random.split(jax.random.key(0)))
      >>> print(state.schedule.shape, record.value.shape)
      (2, 8) (2,)

    References:
      Donini et al., "MARTHE: scheduling the learning rate via online hypergradients", 2020, Eq. 1
      and Section 5.
    """
    # The i-th key does not depend on the keys before it, so that a run can be taken up anywhere.
    batches = sample_batches(jax.random.fold_in(key, state.iteration))
    value, hypergradient = schedule_hypergradient(
        inner,
        params,
        state.schedule,
        batches,
        loss_fn,
        objective_fn,
        model_state=model_state,
        mode=mode,
        checkpointing=checkpointing,
    )
    updates, optimizer_state = optax.with_extra_args_support(optimizer).update(
        hypergradient, state.optimizer_state, state.schedule, value=value, grad=hypergradient
    )
    schedule = project(optax.apply_updates(state.schedule, updates))
    old = (state.schedule, state.optimizer_state)
    new = _trees.cast_like((schedule, optimizer_state), old)
    finite = _all_finite((value, hypergradient, schedule))
    schedule, optimizer_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    num_skipped = state.num_skipped + jnp.where(finite, 0, 1).astype(jnp.int32)
    record = OuterRecord(
        iteration=state.iteration,
        value=value,
        schedule=state.schedule,
        hypergradient_norm=_numbers.norm(hypergradient),
        skipped=~finite,
        num_skipped=num_skipped,
    )
    return OuterState(state.iteration + 1, schedule, optimizer_state, num_skipped), record


def _all_finite(tree: Tree) -> jax.Array:
    """Whether every number in a tree of floats is finite."""
    return jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]).all()
