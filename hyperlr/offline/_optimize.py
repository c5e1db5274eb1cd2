"""LRS-OPT: the optimization of a whole schedule, outer iteration by outer iteration."""

import os
import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks
from hyperlr._trees import Tree
from hyperlr.offline import _loop
from hyperlr.offline._outer_step import OuterRecord, OuterState, init_outer_state, outer_step
from hyperlr.offline._progress import History, Progress, begin, with_record
from hyperlr.offline._schedule import Schedule, as_hyperparams


class OptimizedSchedule(NamedTuple):
    """Result of :func:`hyperlr.optimize_schedule`, of N iterations.

    Attributes:
      schedule: the best of the schedules that were evaluated, that of the least of ``values``; like
        the schedule that was passed, and that one itself where no value is finite. What the last
        step made of its schedule, which has not been evaluated, is ``state.schedule``.
      value: the least of ``values``, shape (); the largest finite number where none is finite.
      values: E(w_T), one for each iteration, shape [N], in JAX's default float dtype; each before
        the step, on the minibatches of the iteration.
      hypergradient_norms: ‖∇f(η)‖, one for each iteration, like ``values``.
      num_skipped: int32, shape (), how many iterations were skipped as not finite.
      state: the last :class:`OuterState`.
    """

    schedule: Schedule
    value: jax.Array
    values: jax.Array
    hypergradient_norms: jax.Array
    num_skipped: jax.Array
    state: OuterState


def optimize_schedule(
    inner: Callable[..., optax.GradientTransformation],
    params: optax.Params,
    schedule: Schedule,
    sample_batches: Callable[[jax.Array], Tree],
    loss_fn: Callable[..., Any],
    objective_fn: Callable[..., jax.Array],
    *,
    optimizer: optax.GradientTransformation,
    num_iterations: int,
    key: jax.Array,
    model_state: Tree = None,
    callback: Callable[[OuterRecord], Any] | None = None,
    mode: str = "reverse",
    checkpointing: str = "chunk",
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
) -> OptimizedSchedule:
    r"""Optimizes a whole schedule, by hypergradients of the objective after all T steps.

    Every outer iteration i trains anew from the same w_0 = ``params``, on fresh minibatches, and
    moves the schedule along the gradient of f_i(η) = E(w_T(η))::

        η ← project(η + optimizer(∇f_i(η))),   i = 0 … num_iterations − 1

    where ``project`` is max(·, 0) on the learning rates. An iteration whose value, hypergradient or
    new schedule is not finite is skipped: schedule and optimizer state stay, and it is counted.

    The schedule that is returned is the one of the least f_i(η). Each has minibatches of its own,
    so among schedules that are nearly as good chance decides.

    Args:
      inner: factory of the inner optimizer, as for :func:`hyperlr.unroll`.
      params: w_0, the initial weights of every outer iteration.
      schedule: where to start, a floating-point array [T] or a dict of arrays [T]; constant, or one
        that an online method found.
      sample_batches: ``sample_batches(key)`` draws the minibatches of one outer iteration: a tree
        with leading axis T, of data or of the indices of examples.
      loss_fn: ``loss_fn(params, batch)``, the training loss as a scalar; with ``model_state``,
        ``loss_fn(params, model_state, batch)``, which returns (loss, model_state).
      objective_fn: ``objective_fn(params)``, E as a scalar; with ``model_state``,
        ``objective_fn(params, model_state)``.
      optimizer: optax transformation on the schedule, such as ``hyperlr.lrs_opt(0.1)`` or
        ``optax.adam(0.01)``. It is handed ``value`` and ``grad`` as extra args.
      num_iterations: number of outer iterations, ≥ 0.
      key: random key of the whole run; iteration i draws with ``jax.random.fold_in(key, i)``.
      model_state: what training moves beside the parameters, such as the running statistics of
        batch normalization, as for :func:`hyperlr.unroll`: its value at the start of every outer
        iteration. The default ``None`` is a model without.
      callback: called after each iteration with an :class:`hyperlr.offline.OuterRecord` of Python
        numbers and the schedule that was evaluated. Where it returns ``True``, this iteration is
        the last. (So does ``tqdm.update`` now and then: do not return what it does.) With a
        callback or checkpoints
        the iterations are a Python loop around one compiled step, without them one ``lax.scan``.
      mode: "reverse" or "forward", as for :func:`hyperlr.schedule_hypergradient`.
      checkpointing: "chunk" or "none", of the inner steps in memory, as for :func:`hyperlr.unroll`.
      checkpoint_dir: a directory for checkpoints of the run on disk, with the extra ``checkpoint``.
        If it holds one, the run resumes there, bit for bit as if it had not been interrupted;
        with a larger ``num_iterations``, a finished run goes on, and so does one that its callback
        stopped. Params, model state, starting schedule, key and structure must be those of the
        checkpoint. Functions cannot be compared: keep them the same.
        A damaged checkpoint is refused, and the run resumes from the one before it, or where there
        is none, from the beginning.
      checkpoint_every: iterations between checkpoints, ≥ 1; the last is always kept. An iteration
        after the last checkpoint is repeated on resuming, and so is its callback.

    Returns:
      An :class:`hyperlr.offline.OptimizedSchedule`. Supports ``vmap`` and ``jit`` where there is no
      callback and no ``checkpoint_dir``, over ``key`` for several seeds, ``params`` or
      ``schedule``.

    Raises:
      TypeError, ValueError: as :func:`hyperlr.schedule_hypergradient`; an ``optimizer`` that is not
        an optax transformation, numbers out of range, a callback or ``checkpoint_dir`` under
        ``vmap`` or ``jit``, a checkpoint of another run.
      ImportError: a ``checkpoint_dir`` without orbax.

    Warns:
      RuntimeWarning: if iterations were skipped (where their number is not traced), or a checkpoint
        was refused.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> result = hyperlr.optimize_schedule(
      ...     optax.sgd,
      ...     jnp.zeros(3),
      ...     jnp.full(4, 0.01),
      ...     lambda key: 1.0 + 0.1 * jax.random.normal(key, (4, 3)),
      ...     lambda w, x: jnp.sum((w - x) ** 2),
      ...     lambda w: jnp.sum((w - 1.0) ** 2),
      ...     optimizer=hyperlr.lrs_opt(0.01),
      ...     num_iterations=20,
      ...     key=jax.random.key(0),
      ... )
      >>> print(result.schedule.shape, bool(result.value < 0.1 * result.values[0]))
      (4,) True

    References:
      Donini et al., "MARTHE: scheduling the learning rate via online hypergradients", 2020, Eq. 1
      and Section 5.
    """
    as_hyperparams(schedule)
    _checks.check_transformation("optimizer", optimizer)
    _check_count("num_iterations", num_iterations, 0)
    _check_count("checkpoint_every", checkpoint_every, 1)

    def step(progress: Progress, _: None) -> tuple[Progress, OuterRecord]:
        state, record = outer_step(
            inner,
            params,
            progress.state,
            sample_batches,
            loss_fn,
            objective_fn,
            optimizer=optimizer,
            key=key,
            model_state=model_state,
            mode=mode,
            checkpointing=checkpointing,
        )
        return with_record(progress, state, record), record

    progress = begin(init_outer_state(schedule, optimizer))
    if callback is None and checkpoint_dir is None:

        def recorded(progress: Progress, _: None) -> tuple[Progress, History]:
            progress, record = step(progress, None)
            return progress, History(record.value, record.hypergradient_norm)

        progress, history = jax.lax.scan(recorded, progress, None, length=num_iterations)
    else:
        given = {"params": params, "key": key, "model state": model_state}
        if any(map(_checks.is_traced, jax.tree.leaves((given, schedule)))):
            raise ValueError(
                "callback and checkpoint_dir need numbers, and cannot be used under jit or vmap: "
                "leave them out, or write the loop around hyperlr.offline.outer_step"
            )
        progress, history = _loop.run(
            step, progress, num_iterations, callback, checkpoint_dir, checkpoint_every, given
        )
    values, norms = (jnp.asarray(x, jnp.result_type(float)) for x in history)
    _warn_of_skipped(progress.state.num_skipped, len(values))
    return OptimizedSchedule(
        schedule=progress.best_schedule,
        value=progress.best_value,
        values=values,
        hypergradient_norms=norms,
        num_skipped=progress.state.num_skipped,
        state=progress.state,
    )


def _check_count(name: str, value: Any, least: int) -> None:
    """Raises unless ``value`` is an integer of at least ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _warn_of_skipped(num_skipped: jax.Array, num_iterations: int) -> None:
    """Warns if iterations were skipped; where their number is traced the result alone tells."""
    if not _checks.is_traced(num_skipped) and num_skipped > 0:
        warnings.warn(
            f"{num_skipped} of {num_iterations} outer iterations were skipped, because the value, "
            "the hypergradient or the new schedule was not finite: start from a smaller schedule, "
            "or take smaller steps",
            RuntimeWarning,
            stacklevel=3,
        )
