"""The exact gradient of the final objective with respect to a whole schedule."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from hyperlr import _checks, _trees
from hyperlr._trees import Tree
from hyperlr.offline._model_state import objective_value
from hyperlr.offline._schedule import Schedule
from hyperlr.offline._unroll import CHECKPOINTING, unroll_with_state

MODES = ("reverse", "forward")


def schedule_hypergradient(
    inner: Callable[..., optax.GradientTransformation],
    params: optax.Params,
    schedule: Schedule,
    batches: Tree,
    loss_fn: Callable[..., Any],
    objective_fn: Callable[..., jax.Array],
    *,
    model_state: Tree = None,
    mode: str = "reverse",
    checkpointing: str = "chunk",
) -> tuple[jax.Array, Schedule]:
    r"""The objective after T steps, and its gradient with respect to every η_t of the schedule.

    With w_T(η) the result of :func:`hyperlr.unroll`, f(η) = E(w_T(η)) and A_t, B_t the derivatives
    of the inner step Φ_t with respect to (w, s) and η_t::

        ∂f/∂η_t = (A_{T-1} ⋯ A_{t+1} B_t)ᵀ ∇E(w_T)

    Reverse mode multiplies from the left, by backpropagation through the steps. Whatever T is, that
    takes 2.7 gradients a step without checkpointing and 3.6 with it (FLOPs, for plain gradient
    descent on a 784-500-500-500-10 network). Forward mode multiplies from the right: it carries one
    tangent of (w, s) for each η_t, T times the work and the memory of a step, and needs nothing of
    the past.

    Args:
      inner: factory of the inner optimizer, as for :func:`hyperlr.unroll`. Where it takes the root
        of 0, the derivative is 0.
      params: w_0, a tree of floating-point arrays.
      schedule: η, a floating-point array [T], or a dict of arrays [T].
      batches: tree of arrays with leading axis T.
      loss_fn: ``loss_fn(params, batch)``, the training loss as a scalar; with ``model_state``,
        ``loss_fn(params, model_state, batch)``, which returns (loss, model_state).
      objective_fn: ``objective_fn(params)``, E as a scalar: the loss on validation data, say; with
        ``model_state``, ``objective_fn(params, model_state)``, at those of step T.
      model_state: what training moves beside the parameters, such as running statistics, as for
        :func:`hyperlr.unroll`; the hypergradient counts what η does to E through it.
      mode: "reverse" or "forward", for small T and for checking.
      checkpointing: "chunk", memory O(√T), or "none", O(T); forward mode has no use for it.

    Returns:
      E(w_T), a scalar, and the hypergradient, like ``schedule`` in structure, shapes and dtypes.
      Supports ``vmap``, and ``jvp`` and ``vjp`` as far as ``inner``, ``loss_fn`` and
      ``objective_fn`` have the derivatives.

    Raises:
      TypeError, ValueError: as :func:`hyperlr.unroll`; an objective that is not a scalar, an
        unknown ``mode``; in forward mode, a ``custom_vjp`` in the loss or the objective.

    Example:
      One step on (w − 1)² from w = 0 gives w = 2 η, and E = (2 η − 1)² falls while η < ½.

      >>> import jax.numpy as jnp, optax, hyperlr
      >>> value, hypergradient = hyperlr.schedule_hypergradient(
      ...     optax.sgd,
      ...     jnp.zeros(()),
      ...     jnp.array([0.25]),
      ...     jnp.ones(1),
      ...     lambda w, target: (w - target) ** 2,
      ...     lambda w: (w - 1.0) ** 2,
      ... )
      >>> print(value, hypergradient)
      0.25 [-2.]

    References:
      Donini et al., "MARTHE: scheduling the learning rate via online hypergradients", 2020, Eq.
      2 to 4.
    """
    _checks.check_choice("mode", mode, MODES)
    _checks.check_choice("checkpointing", checkpointing, CHECKPOINTING)
    kept = checkpointing if mode == "reverse" else "none"

    def objective(schedule: Schedule) -> tuple[jax.Array, jax.Array]:
        final_params, _, final_state = unroll_with_state(
            inner, params, schedule, batches, loss_fn, model_state=model_state, checkpointing=kept
        )
        value = objective_value(objective_fn, final_params, final_state)
        return value, value

    derivative = jax.grad if mode == "reverse" else jax.jacfwd
    hypergradient, value = derivative(objective, has_aux=True)(schedule)
    # jax.jacfwd returns all entries of a dict in the dtype that they promote to.
    return value, _trees.cast_like(hypergradient, schedule)
