"""T inner steps in one scan, differentiable in the schedule with memory O(√T)."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks, _inner_step, _trees
from hyperlr._inner_step import Hyperparams, Inputs
from hyperlr._trees import Tree

CHECKPOINTING = ("none", "chunk")

# A chunk is unrolled up to this many steps: compiling takes time in proportion.
_MAX_UNROLL = 32

Schedule = jax.Array | Mapping[str, jax.Array]
Carry = tuple[Tree, optax.OptState]


def unroll(
    inner: Callable[..., optax.GradientTransformation],
    params: optax.Params,
    schedule: Schedule,
    batches: Tree,
    loss_fn: Callable[[optax.Params, Any], jax.Array],
    *,
    checkpointing: str = "chunk",
) -> tuple[optax.Params, jax.Array]:
    r"""Trains for T steps with a given schedule, as one differentiable function of the schedule.

    With w_0 = ``params``, s_0 the initial state of the inner optimizer, and Φ its step on the
    minibatch of step t with the hyperparameters η_t of the schedule::

        (w_{t+1}, s_{t+1}) = Φ_t(w_t, s_t, η_t),   t = 0 … T − 1

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
      loss_fn: ``loss_fn(params, batch)``, the loss L_t as a scalar.
      checkpointing: "chunk", memory O(√T); or "none", memory O(T).

    Returns:
      w_T, in the shapes and dtypes of ``params``, and the losses L_t(w_t), an array [T].
      Supports ``jvp``, ``vjp`` and ``vmap``, as far as ``inner`` and ``loss_fn`` do.

    Raises:
      TypeError: a schedule that is no floating-point array or dict of such, an ``inner`` that does
        not take its names, complex or integer ``params``, a loss that is not a scalar.
      ValueError: an empty schedule or lengths that differ, ``batches`` without leading axis T, an
        unknown ``checkpointing``.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> loss_fn = lambda w, target: jnp.sum((w - target) ** 2)
      >>> schedule = jnp.array([0.5, 0.25, 0.25])
      >>> targets = jnp.array([2.0, 0.0, 0.0])
      >>> w, losses = hyperlr.unroll(optax.sgd, jnp.zeros(()), schedule, targets, loss_fn)
      >>> print(w, losses)
      0.5 [4. 4. 1.]

    References:
      [P] "Scheduling the Learning Rate via Hypergradients: New Insights and a New Algorithm", Eq. 1
      (Donini et al., 2020).
    """
    _checks.check_choice("checkpointing", checkpointing, CHECKPOINTING)
    hyperparams = as_hyperparams(schedule)
    num_steps = len(next(iter(hyperparams.values())))
    _checks.check_inner(inner, hyperparams)
    _checks.check_differentiable(params)
    check_leading_axis("batches", batches, num_steps)
    step = functools.partial(_training_step, inner, loss_fn)
    params = _trees.cast_like(params, params)
    inner_state = inner(**{name: values[0] for name, values in hyperparams.items()}).init(params)
    carry = (params, _trees.cast_like(inner_state, inner_state))
    if checkpointing == "none":
        (params, _), losses = jax.lax.scan(step, carry, (hyperparams, batches))
    else:
        (params, _), losses = _scan_in_chunks(step, carry, hyperparams, batches, num_steps)
    return params, losses


def as_hyperparams(schedule: Schedule) -> Hyperparams:
    """The schedule as a dict of arrays [T] in at least float32; an error if it is none."""
    remedy = "pass an array [T] of learning rates, or a dict of arrays [T], all of one length"
    named = schedule if isinstance(schedule, Mapping) else {"learning_rate": schedule}
    if not named:
        raise ValueError(f"schedule is an empty dict: {remedy}")
    for name, values in named.items():
        label = f"schedule[{name!r}]" if isinstance(schedule, Mapping) else "schedule"
        if not hasattr(values, "dtype") or not _trees.is_float(values):
            raise TypeError(f"{label} must be a floating-point array, got {values!r}: {remedy}")
        if len(values.shape) != 1 or values.shape[0] == 0:
            raise ValueError(
                f"{label} must have shape [T] with T ≥ 1, got {values.shape}: {remedy}"
            )
    lengths = {name: values.shape[0] for name, values in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"schedule has arrays of different lengths, {lengths}: {remedy}")
    return {
        name: jnp.asarray(values, jnp.promote_types(values.dtype, jnp.float32))
        for name, values in named.items()
    }


def check_leading_axis(name: str, tree: Tree, length: int) -> None:
    """Raises unless every leaf of ``tree`` has ``length`` entries along its first axis."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.shape(leaf)[:1] != (length,):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, but the schedule "
                f"has T = {length} steps: stack one minibatch for each step along the first axis"
            )


def chunk_length(num_steps: int) -> int:
    """√(T/2) steps, rounded up: a step's residuals take about twice the memory of its state."""
    return math.ceil(math.sqrt(num_steps / 2))


def _training_step(
    inner: Callable[..., optax.GradientTransformation],
    loss_fn: Callable[[optax.Params, Any], jax.Array],
    carry: Carry,
    inputs: tuple[Hyperparams, Tree],
) -> tuple[Carry, jax.Array]:
    """Φ_t: one gradient on the minibatch, one update with the hyperparameters of step t."""
    params, inner_state = carry
    hyperparams, batch = inputs

    def value_fn(params: Tree) -> jax.Array:
        value = loss_fn(params, batch)
        _checks.check_scalar_loss("loss_fn", value)
        return value

    value, grads = jax.value_and_grad(value_fn)(params)
    given = Inputs(grads, inner_state, params, {"value": value, "grad": grads})
    updates, inner_state = _inner_step.inner_step(inner, {"value_fn": value_fn}, hyperparams, given)
    return (optax.apply_updates(params, updates), inner_state), value


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
