"""The rule of LRS-OPT: gradient descent on the schedule, projected on η ≥ 0."""

import jax
import jax.numpy as jnp
import optax

from hyperlr import _checks
from hyperlr.offline._schedule import project


def lrs_opt(hyper_learning_rate: float) -> optax.GradientTransformation:
    r"""Projected gradient descent on a schedule of learning rates.

    With Δ the hypergradient of the whole schedule η and β = ``hyper_learning_rate``::

        η ← max(η − β Δ, 0)

    so that the update is max(η − β Δ, 0) − η. Of a dict with other hyperparameters beside it, the
    entry ``"learning_rate"`` alone is projected.

    Args:
      hyper_learning_rate: β ≥ 0, a number; maybe traced.

    Returns:
      A transformation on the schedule, an array [T] or a dict of arrays [T]; its
      ``update(hypergradient, state, schedule)`` needs the schedule. Supports ``vmap``.

    Raises:
      TypeError: ``hyper_learning_rate`` is not a scalar number.
      ValueError: a static ``hyper_learning_rate`` is negative; in ``update``, a missing schedule.

    Example:
      >>> import jax.numpy as jnp, optax, hyperlr
      >>> tx = hyperlr.lrs_opt(0.5)
      >>> schedule = jnp.array([1.0, 1.0])
      >>> updates, state = tx.update(jnp.array([1.0, 4.0]), tx.init(schedule), schedule)
      >>> print(optax.apply_updates(schedule, updates))
      [0.5 0. ]

    References:
      Donini et al., "MARTHE: scheduling the learning rate via online hypergradients", 2020, Eq. 1
      and Section 5.
    """
    if callable(hyper_learning_rate):
        raise TypeError(
            f"hyper_learning_rate must be a number, got {hyper_learning_rate!r}: for a step size "
            "that changes from one outer iteration to the next take optax.sgd(schedule); "
            "optimize_schedule projects on η ≥ 0 whatever its optimizer is"
        )
    _checks.check_float_scalar("hyper_learning_rate", hyper_learning_rate, lower=0.0)

    def init_fn(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        if params is None:
            raise ValueError(
                "params is missing: call update(hypergradient, state, schedule), since the "
                "projection on η ≥ 0 needs the schedule"
            )
        _checks.check_same_tree("the hypergradient", updates, "the schedule", params)
        descent = jax.tree.map(
            lambda g: (-hyper_learning_rate * g).astype(g.dtype),
            updates,
        )
        projected = project(optax.apply_updates(params, descent))
        return jax.tree.map(jnp.subtract, projected, params), state

    return optax.GradientTransformation(init_fn, update_fn)
