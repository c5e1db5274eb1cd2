"""T inner steps in one scan, differentiable in the schedule with memory O(√T)."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _inner_step, _trees
from hyperlr._inner_step import Hyperparams, Inputs
from hyperlr._trees import Tree
from hyperlr.offline._model_state import StatefulLoss, stateful_loss
from hyperlr.offline._schedule import Schedule, as_hyperparams, check_leading_axis

CHECKPOINTING = ("none", "chunk")

# A chunk is unrolled up to this many steps: compiling takes time in proportion.
_MAX_UNROLL = 32

# Parameters, state of the inner optimizer, state of the model.
Carry = tuple[Tree, optax.OptState, Tree]


def unroll(
    inner: Callable[..., optax.GradientTransformation],
    params: optax.Params,
    schedule: Schedule,
    batches: Tree,
    loss_fn: Callable[..., Any],
    *,
    model_state: Tree = None,
    checkpointing: str = "chunk",
) -> tuple[Any, ...]:
    r"""Trains for T steps with a given schedule, as one differentiable function of the schedule.

    With w_0 = ``params``, s_0 the initial state of the inner optimizer, and Φ its step on the
    minibatch of step t with the hyperparameters η_t of the schedule::

        (w_{t+1}, s_{t+1}) = Φ_t(w_t, s_t, η_t),   t = 0 … T − 1

    A model may have a state r beside its parameters that training moves, such as the running
    statistics of batch normalization: r_0 = ``model_state``, and the loss of step t returns r_{t+1}
    with its value. Derivatives go through r as through w and s.

    Backpropagation needs every w_t again. With ``checkpointing="chunk"`` the steps are divided into
    chunks of about √T: only w and s at the start of a chunk are kept, and its steps are computed a
    second time when their derivatives are due. That costs one more gradient a step, and memory
    O(√T) in place of O(T).

    Args:
      inner: factory of the inner optimizer, called as ``inner(**hyperparams)`` with traced scalars
        of at least float32. It is handed ``value``, ``grad`` and ``value_fn`` as extra args.
      params: w_0, a tree of floating-point arrays.
      schedule: η, a floating-point array [T] of learning rates, or a dict of arrays [T], one for
        each hyperparameter by the name that ``inner`` gives it.
      batches: tree of arrays with leading axis T; minibatches, or the indices of their examples.
      loss_fn: ``loss_fn(params, batch)``, the loss L_t as a scalar; with ``model_state``,
        ``loss_fn(params, model_state, batch)``, which returns (L_t, r_{t+1}).
      model_state: r_0, a tree of arrays of any dtype; the default ``None`` is a model without.
      checkpointing: "chunk", memory O(√T); or "none", memory O(T).

    Returns:
      w_T, in the shapes and dtypes of ``params``, and the losses L_t(w_t), an array [T]; with
      ``model_state`` also r_T, third, in the shapes and dtypes of ``model_state``. Supports
      ``jvp``, ``vjp`` and ``vmap``, as far as ``inner`` and ``loss_fn`` do.

    Raises:
      TypeError: a schedule that is no floating-point array or dict of such, an ``inner`` that does
        not take its names, complex or integer ``params``, a loss that is not a scalar, or with
        ``model_state`` not a pair.
      ValueError: an empty schedule or lengths that differ, ``batches`` without leading axis T, an
        unknown ``checkpointing``, a model state that changes in structure or shape; a
        hyperparameter on which no update of ``inner`` depends.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> loss_fn = lambda w, target: jnp.sum((w - target) ** 2)
      >>> schedule = jnp.array([0.5, 0.25, 0.25])
      >>> targets = jnp.array([2.0, 0.0, 0.0])
      >>> w, losses = hyperlr.unroll(optax.sgd, jnp.zeros(()), schedule, targets, loss_fn)
      >>> print(w, losses)
      0.5 [4. 4. 1.]

      With a model state, here the mean of the targets so far.

      >>> def loss_fn(w, mean, target):
      ...     mean = 0.5 * mean + 0.5 * target
      ...     return jnp.sum((w - mean) ** 2), mean
      >>> w, losses, mean = hyperlr.unroll(
      ...     optax.sgd, jnp.zeros(()), schedule, targets, loss_fn, model_state=jnp.zeros(())
      ... )
      >>> print(w, losses, mean)
      0.5 [1.   0.25 0.25] 0.25

    References:
      Donini et al., "MARTHE: scheduling the learning rate via online hypergradients", 2020, Eq.
      1.
    """
    params, losses, final_state = unroll_with_state(
        inner,
        params,
        schedule,
        batches,
        loss_fn,
        model_state=model_state,
        checkpointing=checkpointing,
    )
    return (params, losses) if model_state is None else (params, losses, final_state)


def unroll_with_state(
    inner: Callable[..., optax.GradientTransformation],
    params: optax.Params,
    schedule: Schedule,
    batches: Tree,
    loss_fn: Callable[..., Any],
    *,
    model_state: Tree,
    checkpointing: str,
) -> tuple[optax.Params, jax.Array, Tree]:
    """:func:`unroll` with three results in any case; the third is ``None`` where r is."""
    _checks.check_choice("checkpointing", checkpointing, CHECKPOINTING)
    hyperparams = as_hyperparams(schedule)
    num_steps = len(next(iter(hyperparams.values())))
    _checks.check_inner(inner, hyperparams)
    _checks.check_differentiable(params)
    check_leading_axis("batches", batches, num_steps)
    step = functools.partial(_training_step, inner, stateful_loss(loss_fn, model_state))
    params = _trees.cast_like(params, params)
    first = {name: values[0] for name, values in hyperparams.items()}
    inner_state = inner(**first).init(params)
    inner_state = _trees.cast_like(inner_state, inner_state)
    _check_dependence(inner, first, params, inner_state)
    carry = (
        params,
        inner_state,
        _trees.cast_like(model_state, model_state),
    )
    if checkpointing == "none":
        carry, losses = jax.lax.scan(step, carry, (hyperparams, batches))
    else:
        carry, losses = _scan_in_chunks(step, carry, hyperparams, batches, num_steps)
    params, _, final_state = carry
    return params, losses, final_state


def _check_dependence(
    inner: Callable[..., optax.GradientTransformation],
    hyperparams: Hyperparams,
    params: Tree,
    inner_state: Tree,
) -> None:
    """Raises where a hyperparameter has no effect on the update, and its hypergradient would be 0.

    What else an optimizer may ask for stands for itself by shapes and dtypes; nothing is computed.
    """
    value = jax.ShapeDtypeStruct((), _trees.accumulation_dtype(params))
    inputs = Inputs(params, inner_state, params, {"value": value, "grad": params})
    given = {"value_fn": lambda params: jnp.zeros((), value.dtype)}
    step = _inner_step.inner_step(inner, given)
    _inner_step.movable(step, hyperparams, inputs, through_grads=False, needs_product=False)


def chunk_length(num_steps: int) -> int:
    """√(T/2) steps, rounded up: a step's residuals take about twice the memory of its state."""
    return math.ceil(math.sqrt(num_steps / 2))


def _training_step(
    inner: Callable[..., optax.GradientTransformation],
    loss: StatefulLoss,
    carry: Carry,
    inputs: tuple[Hyperparams, Tree],
) -> tuple[Carry, jax.Array]:
    """Φ_t: one gradient on the minibatch, one update with the hyperparameters of step t."""
    params, inner_state, model_state = carry
    hyperparams, batch = inputs
    (value, new_model_state), grads = jax.value_and_grad(loss, has_aux=True)(
        params, model_state, batch
    )
    given = {"value_fn": lambda params: loss(params, model_state, batch)[0]}
    inputs_of_inner = Inputs(grads, inner_state, params, {"value": value, "grad": grads})
    updates, inner_state = _inner_step.inner_step(inner, given)(hyperparams, inputs_of_inner)
    return (optax.apply_updates(params, updates), inner_state, new_model_state), value


def _scan_in_chunks(
    step: Callable[[Carry, tuple[Hyperparams, Tree]], tuple[Carry, jax.Array]],
    carry: Carry,
    hyperparams: Hyperparams,
    batches: Tree,
    num_steps: int,
) -> tuple[Carry, jax.Array]:
    """``jax.lax.scan`` of ``step`` whose residuals are kept for one chunk at a time.

    Inside a chunk the loop is unrolled: a loop would stack every residual into one array and slice
    it out again. The last chunk, which takes the remainder, is not checkpointed, since its
    derivatives are due at once.
    """
    length = chunk_length(num_steps)
    num_chunks = (num_steps - 1) // length
    rest = num_chunks * length

    def chunk(carry: Carry, inputs: tuple[Hyperparams, jax.Array]) -> tuple[Carry, jax.Array]:
        values, start = inputs
        size = len(next(iter(values.values())))
        # Taken out here: scanning over the batches themselves would first copy all of them.
        stack = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(jnp.asarray(x), start, size), batches
        )
        return jax.lax.scan(step, carry, (values, stack), unroll=min(size, _MAX_UNROLL))

    first = {name: x[:rest].reshape(num_chunks, length) for name, x in hyperparams.items()}
    last = {name: x[rest:] for name, x in hyperparams.items()}
    carry, losses = jax.lax.scan(
        jax.checkpoint(chunk, prevent_cse=False), carry, (first, length * jnp.arange(num_chunks))
    )
    carry, last_losses = chunk(carry, (last, jnp.asarray(rest)))
    return carry, jnp.concatenate([losses.reshape(rest), last_losses])
